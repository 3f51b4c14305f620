"""What the terminal shows at the end: sizes, losses, where the files are, what to type next.

Readable without colour and within 80 columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from exporter.artifacts import target_bytes
from exporter.parity import ComparisonResult, ParityReport, Rung, failures
from exporter.parity.shown import figure, loss_of, percent
from exporter.parity.tasks import TaskReport
from exporter.plan import QuantPlan

_LOGIT_TITLES = ("positions", "max rel", "SQNR dB", "KL,\nnats", "same\ntop", "ppl\nratio")


def render_result(data: Mapping[str, Any], folder: Path | None = None) -> RenderableType:
    """The job's final table from the report's data; `folder` is where the files lie."""
    plan, parity = QuantPlan.from_json(data["plan"]), ParityReport.from_json(data["parity"])
    where = folder or Path("out") / data["recipe"]["name"]
    table = _table()
    table.add_column("target", no_wrap=True)
    rungs = {name: parity.shipped(name) for name in data["targets"]}
    losses = {name: loss_of(plan.task, rung.result if rung else None) for name, rung in rungs.items()}
    for title in ("MB before", "MB after", *(shown.title for shown in loss_of(plan.task, None))):
        table.add_column(title, justify="right")
    for name, target in data["targets"].items():
        table.add_row(
            name,
            f"{plan.float_megabytes:,.1f}",
            f"{target_bytes(target) / 1e6:,.1f}",
            *(shown.value for shown in losses[name]),
        )
    files = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    files.add_column(no_wrap=True)
    files.add_column(overflow="fold")
    for name, target in data["targets"].items():
        files.add_row(name, Text(str(where / target.get("folder", name))))
    files.add_row("report", Text(str(where / "report.html")))
    files.add_row("next", Text(data.get("next_command") or f"qexport inspect {where}", style="bold"))
    tasks = TaskReport.from_json(data["tasks"]) if data.get("tasks") else TaskReport()
    return Group(table, *_tasks(tasks), _verdict(parity), files)


def _tasks(report: TaskReport) -> list[RenderableType]:
    """What the task's user would notice, over all examples; the report has each language and each difference."""
    if not report.comparisons:
        return []
    table = _table()
    table.add_column("task")
    runtimes = dict.fromkeys(comparison.candidate for comparison in report.comparisons)
    for title in ("on", "float", *runtimes):
        table.add_column(title, justify="right")
    for data in dict.fromkeys(comparison.data for comparison in report.comparisons):
        of_data = [comparison for comparison in report.comparisons if comparison.data == data]
        overall = [[m for m in comparison.metrics if m.group is None] for comparison in of_data]
        for metrics in zip(*overall, strict=True):
            first = metrics[0]
            of_float = "–" if first.reference is None else f"{first.reference:.4f}"
            cells = [f"{m.candidate:.4f}" + (" worse" if m.worse else "") for m in metrics]
            table.add_row(first.name, data, of_float, *cells)
    return [table]


def render_parity(parity: Mapping[str, Any], layers: bool = False) -> RenderableType:
    """The ladder as a table, from ParityReport.to_json(); with `layers`, the error of each layer too."""
    report = ParityReport.from_json(parity)
    table = _table(1)  # seven columns of numbers: 80 columns have no more room
    table.add_column("rung", min_width=13)
    vectors = any(rung.result.cosine_mean is not None for rung in report.rungs)
    titles = ("texts", "max rel", "SQNR dB", "cosine", "worst text") if vectors else _LOGIT_TITLES
    for name in (*titles, "limits"):
        table.add_column(name, justify="right")
    for rung in report.rungs:
        result = rung.result
        table.add_row(
            Text(rung.name),
            f"{result.positions:,}",
            figure(result.max_rel, ".2e"),
            figure(result.sqnr_db, ".1f"),
            *(_cosines(result) if vectors else _logits(result)),
            _judged(rung),
        )
    parts: list[RenderableType] = [table]
    if layers:
        parts.append(_layer_table(report))
    return Group(*parts, _verdict(report))


def _logits(result: ComparisonResult) -> tuple[str, ...]:
    kl = figure(result.kl_mean, ".2g" if result.kl_mean < 1e-3 else ".4f")
    return kl, percent(result.same_top1), figure(result.ppl_ratio, ".4f")


def _cosines(result: ComparisonResult) -> tuple[str, ...]:
    return figure(result.cosine_mean, ".6f"), figure(result.cosine_min, ".4f")


def _layer_table(report: ParityReport) -> Table:
    table = _table()
    table.add_column("layer")
    for name in ("bits", "weight SQNR dB", "output SQNR dB", ""):
        table.add_column(name, justify="right")
    for layer in report.layers:
        mark = "< rises here" if layer.name == report.first_layer else ""
        weight, output = figure(layer.weight_sqnr_db, ".1f"), figure(layer.output_sqnr_db, ".1f")
        table.add_row(Text(layer.name), str(layer.bits), weight, output, mark)
    return table


def _verdict(report: ParityReport) -> Text:
    """PASSED or FAILED with every missed limit, in words first and colour second."""
    text = Text(report.verdict, style="green" if report.passed else "red")
    for sentence in report.failures[1:]:
        text.append(f"\n- {sentence}")
    if not report.passed and report.rise:
        text.append(f"\nThe error rises at {report.rise.layer}: {report.rise.reason}.")
    return text


def _judged(rung: Rung) -> str:
    """Whether the rung held its limits; `none` where the recipe sets none for it."""
    if failures(rung):
        return "MISSED"
    return "held" if any(getattr(rung.limits, gate) is not None for gate in rung.gates) else "none"


def _table(gap: int = 2) -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, gap, 0, 0))
