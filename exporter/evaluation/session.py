"""An artifact under evaluation: the float model, the runtimes, and how both read the same tokens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.backends.base import MarkedRunner
from exporter.errors import ArtifactError
from exporter.evaluate import Window
from exporter.evaluation.floats import FloatSide
from exporter.evaluation.settings import EvaluationSettings
from exporter.memory import VerifyRoom
from exporter.parity import LogitComparison, Positions
from exporter.plan import QuantPlan
from exporter.verify.continuing import Tokens, greedy
from exporter.verify.references import Reference
from exporter.verify.rows import prefilled, stepped

Progress = Callable[[str, float], None]
Logits = NDArray[np.float32]
Rows = Iterator[tuple[NDArray[np.int64], Logits]]
FLOAT = "float"  # the reference's name among runtimes


@dataclass
class Session:
    """What the suites share. `notes` is told what a person should know of how it was measured."""

    folder: Path
    settings: EvaluationSettings
    plan: QuantPlan
    tokenizer: Any
    ends: frozenset[int]  # tokens that end an answer
    floats: FloatSide
    runners: Mapping[str, MarkedRunner]
    room: VerifyRoom
    progress: Progress
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)  # suite -> who -> seconds

    @property
    def context(self) -> int:
        """Tokens that every runtime's cache holds."""
        return min(runner.max_context for runner in self.runners.values())

    def compare(self, suite: str, windows: Sequence[Window], stride: int = 1) -> dict[str, list[Positions]]:
        """Runtime -> for each window, float model against files at every `stride`-th scored position.

        Raises ArtifactError where a runtime gives logits that cannot be compared.
        """
        with self.timed(suite, FLOAT):
            reference = self.floats.read(suite, windows, self.progress)
        found: dict[str, list[Positions]] = {}
        for name, runner in self.runners.items():
            with self.timed(suite, name):
                found[name] = []
                for index, window in enumerate(windows):
                    self.progress(f"{suite}: {name}", index / len(windows))
                    try:
                        again = index > 0 and _same_context(windows[index - 1], window)
                        rows = rows_of(runner, window, stride, self.room, again)
                        compared = self._compared(reference, index, window, rows)
                    except ValueError as problem:
                        raise ArtifactError(
                            f"{self.folder}: {name}, {suite} suite, example {index + 1} of {len(windows)}: {problem}; "
                            "`qexport verify` says where it begins"
                        ) from problem
                    found[name].append(compared)
        return found

    def _compared(self, reference: Reference, index: int, window: Window, found: Rows) -> Positions:
        comparison, targets = LogitComparison(), np.asarray(window.targets)
        for positions, rows in found:
            for start in range(0, len(positions), self.room.block_rows):
                block = slice(start, start + self.room.block_rows)
                at = positions[block]
                comparison.update(reference.logits(None, index, at), rows[block], targets[at])
        return comparison.positions()

    def answers(self, suite: str, prompts: Sequence[Sequence[int]], count: int) -> dict[str, list[Tokens]]:
        """The float model's and each runtime's own greedy answers, by name."""
        with self.timed(suite, FLOAT):
            drafts = self.floats.answers(prompts, count, self.ends, self.progress)
        found = {FLOAT: drafts}
        for name, runner in self.runners.items():
            with self.timed(suite, name):
                found[name] = []
                for index, (prompt, draft) in enumerate(zip(prompts, drafts, strict=True)):
                    self.progress(f"{suite}: {name}", index / len(prompts))
                    found[name].append(greedy(runner, prompt, count, self.ends, draft)[0])
        return found

    @contextmanager
    def timed(self, suite: str, who: str) -> Iterator[None]:
        """Seconds of the block are counted to this suite and side."""
        started = time.perf_counter()
        yield
        own = self.seconds.setdefault(suite, {})
        own[who] = own.get(who, 0.0) + time.perf_counter() - started


def rows_of(runner: MarkedRunner, window: Window, stride: int, room: VerifyRoom, again: bool = False) -> Rows:
    """(n,) scored positions, 0, stride, 2 stride and so on, and the runtime's (n, vocabulary) logits there.

    A runtime that gives the last token's row only is called once for each position, with the `stride` tokens between.
    `again`: the window before had the same context, which need not be read another time.
    """
    if stride == 1:
        yield from _continued(runner, window, room, again)
    elif runner.full_logits:
        for _, start, rows in prefilled(runner, 0, window, room.piece_tokens):
            positions = start + np.arange(len(rows))
            wanted = positions % stride == 0
            if wanted.any():
                yield positions[wanted], rows[wanted]
    else:
        first, others = stepped(runner, 0, window, stride, room.block_rows)
        yield np.zeros(1, np.int64), first
        for _, start, rows in others:
            yield start + stride * np.arange(len(rows)), rows


def _continued(runner: MarkedRunner, window: Window, room: VerifyRoom, again: bool) -> Rows:
    """Every scored position: the tokens before the first one, then the scored ones, as many at once as give rows."""
    context, rest = window.tokens[: window.first_scored], window.tokens[window.first_scored : -1]
    if not (again and runner.rewind()):
        runner.reset()
        for start in range(0, len(context), room.piece_tokens):
            runner.forward(context[start : start + room.piece_tokens])
        runner.mark()
    step = room.piece_tokens if runner.full_logits else 1
    for start in range(0, len(rest), step):
        rows = runner.forward(rest[start : start + step])
        yield start + np.arange(len(rows)), rows


def _same_context(before: Window, window: Window) -> bool:
    return (
        before.first_scored == window.first_scored
        and before.tokens[: before.first_scored] == window.tokens[: window.first_scored]
    )
