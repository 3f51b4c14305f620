"""Where a long job keeps what it has done until its files are written: `OUT.work`, beside the output folder.

A job that was killed leaves it there, and the same job goes on from it with --resume. Two jobs of one output folder
exclude each other.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from exporter.artifacts import write_json
from exporter.errors import QexportError
from exporter.folders import locked
from exporter.memory import MemoryProblem

_NOTES = "notes.json"
_KEY = 16  # letters of a job's hash that name its folder


class Workplace:
    """An opened, locked work folder."""

    def __init__(self, folder: Path, resume: bool, say: Callable[[str], None]) -> None:
        self.folder, self.resume, self.say = folder, resume, say

    def job(self, key: str) -> Path:
        """The folder of the job with this hash: as a killed run left it with --resume, else empty."""
        folder = self.folder / key[:_KEY]
        if folder.is_dir() and not self.resume:
            shutil.rmtree(folder)
            self.say(f"{folder}: an earlier run's work was thrown away; --resume would have gone on from it")
        elif folder.is_dir():
            self.say(f"{folder}: going on from an earlier run's work")
        folder.mkdir(exist_ok=True)
        return folder

    def forget(self, key: str) -> None:
        """Remove what a job that has ended left."""
        shutil.rmtree(self.folder / key[:_KEY], ignore_errors=True)

    def noted(self) -> dict[str, Any]:
        """What note() kept, with --resume; else nothing."""
        path = self.folder / _NOTES
        if not self.resume or not path.is_file():
            return {}
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return found

    def note(self, notes: dict[str, Any]) -> None:
        """Keep plain data for a later run, whole or not at all."""
        draft = self.folder / f"{_NOTES}.partial"
        write_json(draft, notes)
        os.replace(draft, self.folder / _NOTES)


def _beside(out: Path) -> Path:
    return Path(f"{os.path.abspath(out)}.work")


def sweep(out: Path) -> None:
    """Remove what is left of a job that was killed after its files were in place."""
    folder = _beside(out)
    if folder.is_dir():
        with suppress(QexportError), locked(folder):
            shutil.rmtree(folder)


@contextmanager
def workplace(out: Path, resume: bool, say: Callable[[str], None]) -> Iterator[Workplace]:
    """`OUT.work`, removed when the job ends well or is refused; whatever else stops it leaves it for --resume.

    Raises QexportError where another job works there.
    """
    folder = _beside(out)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        try:
            yield Workplace(folder, resume, say)
        except BaseException as problem:
            if isinstance(problem, QexportError) and not isinstance(problem, MemoryProblem):
                shutil.rmtree(folder, ignore_errors=True)  # what was refused would be refused again
            else:
                say(f"{folder}: holds what is done; the same command with --resume goes on from there")
            raise
        shutil.rmtree(folder, ignore_errors=True)
