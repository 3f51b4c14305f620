"""One tree of errors. Only exporter.cli catches them; everything else raises and lets go.

A message names the place, the value, the limit and the way out, in words for a person.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class QexportError(Exception):
    """Base of every error that a user can cause or mend. `exit_code` is what the process returns."""

    exit_code = 2


class SourceError(QexportError):
    """The model or its weights are missing, truncated, unreadable or unknown."""


class PlanError(QexportError):
    """The recipe and the model do not fit together, or a target has no kernel for a layer."""


class TraceError(QexportError):
    """torch.export refused the model."""


class LoweringError(QexportError):
    """A backend could not turn the traced model into a file."""


class ArtifactError(QexportError):
    """An output folder or a written file is not what it should be."""


class FetchError(QexportError):
    """A package could not be had, or is not the pinned one."""


class GateFailed(QexportError):
    """A gate of the recipe (parity, budget) was missed. The files are not to be shipped."""

    exit_code = 1


class EnvelopeMissed(GateFailed):
    """A candidate is not what the recipe's envelope asks for."""

    def __init__(self, verdict: Mapping[str, Any]) -> None:
        """`verdict`: plain data; `misses` are sentences."""
        self.verdict = verdict
        super().__init__("; ".join(verdict["misses"]))


def first_line(problem: BaseException) -> str:
    """What a library's error says, in one line of our own message; its type where it says nothing."""
    lines = str(problem).strip().splitlines()
    return lines[0].strip() if lines else type(problem).__name__


@dataclass(frozen=True)
class Place:
    """Where in a text file: line and column count from 1; line 0 means the file as a whole."""

    path: Path
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}" if self.line else str(self.path)


class RecipeError(QexportError):
    """The recipe is wrong. Carries every problem found, by place; the message shows the first SHOWN."""

    SHOWN = 20

    def __init__(self, problems: list[tuple[Place, str]]) -> None:
        self.problems = sorted(problems, key=lambda problem: (problem[0].line, problem[0].column))
        lines = [f"{place}: {text}" for place, text in self.problems[: self.SHOWN]]
        if len(self.problems) > self.SHOWN:
            lines.append(f"and {len(self.problems) - self.SHOWN:,} more")
        super().__init__("\n".join(lines))
