"""Progress with an estimate of the time left, on stderr: a moving bar in a terminal, plain lines in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Report = Callable[[str, float], None]  # (what is going on, share of the stage done in 0..1)


class Stages:
    """The job's stages, one after the other."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.seconds: dict[str, float] = {}  # by stage, for the summary

    def say(self, text: str) -> None:
        """A line of its own."""
        self.console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def stage(self, title: str) -> Iterator[Report]:
        """Everything inside belongs to this stage; the report it gives moves the bar."""
        started = time.perf_counter()
        if self.console.is_terminal:
            with self._bar() as bar:
                task = bar.add_task(title, total=1.0, doing="")
                yield lambda doing, share: bar.update(task, completed=share, doing=doing[-44:])
        else:
            self.console.print(f"{title} …")
            yield lambda doing, share: None
        self.seconds[title] = time.perf_counter() - started
        self.console.print(f"[green]✓[/] {title} [dim]{self.seconds[title]:.1f} s[/]", highlight=False)

    def _bar(self) -> Progress:
        return Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[doing]}"),
            console=self.console,
            transient=True,
        )


def in_words(report: Report, console: Console) -> Report:
    """The same, with a line for each thing that begins where there is no bar: of a stage that takes minutes."""
    if console.is_terminal:
        return report
    said: list[str] = []

    def told(doing: str, share: float) -> None:
        if doing not in said[-1:]:
            said.append(doing)
            console.print(f"  {doing}", highlight=False)
        report(doing, share)

    return told
