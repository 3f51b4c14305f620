"""What is measured, and on how many examples."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass

from exporter.errors import QexportError

SUITES = ("text", "multiple-choice", "code", "safety", "long-context", "speed")
# Windows over all languages, questions of each set, functions, requests of each kind, texts. Half as many of each took
# 13 minutes of one processor for a model of 135 million parameters in both runtimes.
DEFAULT_ITEMS = {"text": 36, "multiple-choice": 50, "code": 30, "safety": 30, "long-context": 9}


@dataclass(frozen=True)
class EvaluationSettings:
    """Raises QexportError for a suite that is not known, or for less than one item."""

    suites: tuple[str, ...] = SUITES
    items: int | None = None  # of each suite, long texts a quarter of it; None: DEFAULT_ITEMS
    seed: int = 0  # which examples are drawn, and the resamples of intervals
    context: int = 2048  # tokens of a long text, at most
    answer_tokens: int = 32  # generated for each request of the safety suite
    runtimes: tuple[str, ...] = ()  # empty: all that the folder holds

    def __post_init__(self) -> None:
        for suite in self.suites:
            if suite not in SUITES:
                near = difflib.get_close_matches(suite, SUITES, n=1, cutoff=0.4)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise QexportError(f"suite {suite!r} is not known{hint} There are: {', '.join(SUITES)}")
        if not self.suites:
            raise QexportError(f"no suite is asked for; there are: {', '.join(SUITES)}")
        for name, value, least in (
            ("items", self.items, 1),
            ("context", self.context, 256),
            ("answer tokens", self.answer_tokens, 1),
        ):
            if value is not None and value < least:
                raise QexportError(f"{name}: {value} is too small; {least} is the least")

    def count(self, suite: str) -> int:
        """Items of a suite; of long texts a quarter, since each is as long as four windows."""
        if self.items is None:
            return DEFAULT_ITEMS[suite]
        return math.ceil(self.items / 4) if suite == "long-context" else self.items
