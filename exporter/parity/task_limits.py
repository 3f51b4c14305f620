"""Gates on what a task's user would notice: the recipe's `parity.tasks` against the figures."""

from __future__ import annotations

from exporter.parity.tasks import Metric, TaskComparison, TaskReport
from exporter.recipe import TaskGate

_JUDGED = {
    "max_accuracy_loss": ("top-1", "accuracy", "exact match"),
    "min_agreement": ("agreement", "same text as float"),
    "max_word_error_rise": ("word error rate",),
}


def told(gate: TaskGate) -> str:
    """Those that are asked for: `max_accuracy_loss 0.05, min_agreement 0.95`; empty where none is."""
    asked = ((key, getattr(gate, key)) for key in _JUDGED)
    return ", ".join(f"{key} {limit:g}" for key, limit in asked if limit is not None)


def missed(gate: TaskGate, report: TaskReport | None) -> tuple[str, ...]:
    """A sentence for each figure outside its limit, and for each limit that no figure is there for."""
    found: list[str] = []
    for key, names in _JUDGED.items():
        limit = getattr(gate, key)
        if limit is None:
            continue
        figures = [
            (comparison, metric)
            for comparison in (report.comparisons if report else ())
            for metric in comparison.metrics
            if metric.name in names and metric.group is None
        ]
        if not figures:
            found.append(
                f"parity.tasks.{key}: nothing was measured that it judges ({' or '.join(names)}); give parity.data "
                "with labels or transcripts, or take the limit out"
            )
        found += [text for c, metric in figures if (text := _missed(key, limit, c, metric))]
    return tuple(found)


def _missed(key: str, limit: float, comparison: TaskComparison, metric: Metric) -> str | None:
    """What a person reads of a figure outside its limit. A share may miss it by less than a float's rounding."""
    where = f"{comparison.candidate}: {metric.name} on {comparison.data}"
    if key == "min_agreement":
        return (
            None
            if metric.candidate >= limit - 1e-9
            else f"{where} is {metric.candidate:.4f} ({metric.detail}), parity.tasks.{key} is {limit:g}"
        )
    assert metric.reference is not None  # of all that are judged by their difference
    worse = metric.reference - metric.candidate if key == "max_accuracy_loss" else metric.difference or 0.0
    if worse <= limit + 1e-9:
        return None
    figures = f"{metric.candidate:.4f}, float {metric.reference:.4f} ({metric.detail})"
    return f"{where} is {figures}, parity.tasks.{key} is {limit:g}"
