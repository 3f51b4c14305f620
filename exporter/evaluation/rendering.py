"""A scorecard for a person: a table in the terminal, and a page beside report.html in its style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from exporter.artifacts import write_json
from exporter.evaluation.charts import position_chart
from exporter.evaluation.scorecard import DIMENSIONS, Figure, Scorecard
from exporter.report import environment

_UNITS = {"nats", "nats per 1,000 tokens"}
_SHARES = ("accuracy", "refusals", "flips", "answers changed")
_BY_POSITION = "KL by position"


@dataclass(frozen=True)
class Row:
    """One figure of all runtimes; None where one of them has none."""

    title: str
    figures: tuple[Figure | None, ...]

    @property
    def first(self) -> Figure:
        """Any of them: what is the same for all."""
        return next(figure for figure in self.figures if figure is not None)

    @property
    def reference(self) -> str:
        """The float model's."""
        figure = self.first
        return "" if figure.reference is None else shown(figure, figure.reference)


def write_pages(scorecard: Scorecard, out: Path) -> Path:
    """`out` as JSON, and the page beside it under the same name; gives the page's path. OSError from writing."""
    write_json(out, scorecard.to_json())
    page = out.with_suffix(".html")
    page.write_text(render_page(scorecard), "utf-8", newline="\n")
    return page


def rows_of(scorecard: Scorecard, dimension: str) -> list[Row]:
    """The figures of a dimension side by side, but those that have a table or a picture of their own."""
    found: dict[tuple[str, str | None, str], list[Figure | None]] = {}
    for place, scores in enumerate(scorecard.runtimes):
        for figure in getattr(scores, dimension):
            if not _of_language(figure) and figure.name != _BY_POSITION:
                key = (figure.name, figure.group, figure.suite)
                found.setdefault(key, [None] * len(scorecard.runtimes))[place] = figure
    return [Row(_title(figures), tuple(figures)) for figures in found.values()]


def languages_of(scorecard: Scorecard) -> dict[str, list[dict[str, Figure]]]:
    """Language -> for each runtime, the text suite's figures by name."""
    found: dict[str, list[dict[str, Figure]]] = {}
    for place, scores in enumerate(scorecard.runtimes):
        for figure in filter(_of_language, scores.quality):
            own = found.setdefault(str(figure.group), [{} for _ in scorecard.runtimes])
            own[place][figure.name] = figure
    return found


def _of_language(figure: Figure) -> bool:
    return figure.suite == "text" and figure.group is not None


def _title(figures: Sequence[Figure | None]) -> str:
    """`mean KL of HumanEval, nats`."""
    figure = next(figure for figure in figures if figure is not None)
    of_group = f" ({figure.group})" if figure.group else ""
    return figure.name + of_group + (f", {figure.unit}" if figure.unit in _UNITS else "")


def shown(figure: Figure, value: float, sign: bool = False) -> str:
    """A value in the figure's own form: shares in per cent, sizes and speeds with few digits."""
    plus = "+" if sign else ""
    if figure.name.startswith(_SHARES):
        return f"{100 * value:{plus}.1f} %"
    if figure.unit in ("MB", "tokens/s", "mJ/token"):
        return f"{value:{plus},.{1 if abs(value) >= 10 else 2}f} {figure.unit}"
    if figure.unit == "s":
        return f"{value:{plus}.3f} s"
    return (
        f"{value:{plus}.4f}"
        if figure.unit in (*_UNITS, "bits") or abs(value) < 100
        else f"{value:{plus},.1f}"
    )


def interval(figure: Figure) -> str:
    """Of the difference where there is a reference, else of the figure; empty where there is none."""
    if figure.interval is None:
        return ""
    sign = figure.reference is not None
    low, high = (shown(figure, end, sign) for end in figure.interval)
    return f"{low} to {high}"


def difference(figure: Figure) -> str:
    """Empty for a figure that compares the two itself."""
    return "" if figure.difference is None else shown(figure, figure.difference, sign=True)


def remarks(scorecard: Scorecard, row: Row) -> list[str]:
    """What is to be said of a figure, once where it is the same for every runtime."""
    found = {
        scores.runtime: figure.remark
        for scores, figure in zip(scorecard.runtimes, row.figures, strict=True)
        if figure is not None and figure.remark
    }
    if len(set(found.values())) == 1 and len(found) == len(row.figures):
        return list(found.values())[:1]
    return [f"{runtime}: {remark}" for runtime, remark in found.items()]


def render_page(scorecard: Scorecard) -> str:
    """The page as text. Equal scorecards give equal bytes."""
    pages = environment()
    pages.globals.update(shown=shown, interval=interval, difference=difference, remarks=remarks)
    curves = {
        scores.runtime: [figure for figure in scores.quality if figure.name == _BY_POSITION]
        for scores in scorecard.runtimes
    }
    return pages.get_template("evaluation.html.j2").render(
        card=scorecard,
        dimensions=[(name, rows_of(scorecard, name)) for name in DIMENSIONS],
        languages=languages_of(scorecard),
        hows=_hows(scorecard),
        curve=position_chart(curves) if any(curves.values()) else None,
    )


def _hows(scorecard: Scorecard) -> list[tuple[str, str]]:
    """How each figure was measured, said once for those that were measured alike."""
    found: dict[str, list[str]] = {}
    for scores in scorecard.runtimes:
        for figure in scores:
            title = (
                figure.name
                if figure.group is None or _of_language(figure)
                else f"{figure.name} ({figure.group})"
            )
            names = found.setdefault(figure.how, [])
            if figure.name == _BY_POSITION:
                title = figure.name
            if title not in names:
                names.append(title)
    return [("; ".join(names), how) for how, names in found.items()]


def render_scorecard(scorecard: Scorecard) -> RenderableType:
    """For the terminal: figures over everything, by dimension, then what to know of them."""
    parts: list[RenderableType] = []
    for dimension in DIMENSIONS:
        rows = rows_of(scorecard, dimension)
        if rows:
            parts += [_table(scorecard, dimension, rows), Text()]
    for note in scorecard.notes:
        parts.append(Text(f"note: {note}", style="dim"))
    seconds = ", ".join(
        f"{suite} {own.get('whole suite', sum(own.values())):.0f} s"
        for suite, own in scorecard.seconds.items()
    )
    parts.append(Text(f"measured in: {seconds}", style="dim"))
    return Group(*parts)


def _table(scorecard: Scorecard, dimension: str, rows: Sequence[Row]) -> Table:
    table = Table(title=dimension, title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    table.add_column("n", justify="right")
    table.add_column("float", justify="right")
    for scores in scorecard.runtimes:
        table.add_column(scores.runtime, justify="right")
        table.add_column("difference or 95 %", justify="right", style="dim")
    for row in rows:
        cells = []
        for figure in row.figures:
            if figure is None:
                cells += ["–", ""]
                continue
            told = difference(figure)
            if figure.interval is not None:
                told += f" ({interval(figure)})" if told else interval(figure)
            cells += [shown(figure, figure.value), told]
        table.add_row(row.title, str(row.first.n), row.reference, *cells)
    return table
