"""report.html: one self-contained page that says what was made, what it cost and where.

Everything comes from plain data, so a report can be rendered again from the manifest; nothing is
added here (no date, no path of this machine), so equal data gives equal bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from exporter.artifacts import target_bytes
from exporter.parity import Continuation, GreedySample, ParityReport, Rung
from exporter.parity.intervals import RESAMPLES
from exporter.parity.shown import Shown, loss_of
from exporter.parity.tasks import TaskReport
from exporter.pictures import SizeBar, bits_class, bits_heat_map, error_chart, size_bars
from exporter.plan import QuantPlan
from exporter.samples.coverage import Coverage
from exporter.tasks import Task

# Facts of a target that have a place of their own on the page.
_SHOWN_FACTS = {"folder", "files", "model_bytes", "forecast_bytes", "operators", "min_runtime", "passes"}


@dataclass(frozen=True)
class _TargetRow:
    """One line of the table at the top."""

    name: str
    before_bytes: float
    after_bytes: int
    forecast_bytes: int | None
    rung: Rung | None
    task: Task

    @property
    def share(self) -> float:
        """Of the float32 size."""
        return self.after_bytes / self.before_bytes if self.before_bytes else math.nan

    @property
    def losses(self) -> tuple[Shown, ...]:
        """What a user loses, by task."""
        return loss_of(self.task, self.rung.result if self.rung else None)


@dataclass(frozen=True)
class _Written:
    """One model's continuation, cut where its first token differs from the reference's."""

    model: str
    same: str
    different: str  # the word in which the difference begins, and what follows
    rest: str
    remark: str


def write_report(path: Path, data: Mapping[str, Any]) -> None:
    """Render `data` to path: recipe, model, plan, parity, targets, versions; coverage, tasks, timings, next_command
    if any.

    Raises PlanError, KeyError or ValueError for data that is not of that form, OSError from writing.
    """
    path.write_text(render_report(data), "utf-8", newline="\n")


def render_report(data: Mapping[str, Any]) -> str:
    """The page as text."""
    plan, parity = QuantPlan.from_json(data["plan"]), ParityReport.from_json(data["parity"])
    before = round(plan.float_megabytes * 1e6)
    rows = [
        _TargetRow(
            name, before, target_bytes(target), target.get("forecast_bytes"), parity.shipped(name), plan.task
        )
        for name, target in data["targets"].items()
    ]
    bars = [SizeBar("before: float32", before, "before")]
    bars += [SizeBar(f"after: {row.name}", row.after_bytes, "after") for row in rows]
    coverage = Coverage.from_json(data["coverage"]) if data.get("coverage") else None
    tasks = TaskReport.from_json(data["tasks"]) if data.get("tasks") else None
    page = environment().get_template("report.html.j2")
    return page.render(
        data=data,
        plan=plan,
        parity=parity,
        rows=rows,
        loss_titles=[shown.title for shown in loss_of(plan.task, None)],
        sizes=size_bars(bars),
        heat_map=bits_heat_map(plan.layers),
        errors=error_chart(parity.layers, parity.first_layer),
        legend=_legend(plan),
        greedy=[
            (sample, [_written(sample, model) for model in sample.continuations]) for sample in parity.greedy
        ],
        facts={name: _other_facts(target) for name, target in data["targets"].items()},
        task=data["model"].get("task", plan.task),
        coverage=coverage,
        shares=coverage is not None and any(row.declared is not None for row in coverage.rows),
        tasks=tasks,
        resamples=RESAMPLES,
        methods=_methods(data.get("methods") or {}),
        vectors=any(rung.result.cosine_mean is not None for rung in parity.rungs),
    )


def _methods(chosen: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each method: how many layers have it, and what it loses there."""
    by_method: dict[str, dict[str, float]] = {}
    for layer, choice in chosen.items():
        name = choice["method"]
        by_method.setdefault(name, {})[layer] = choice["errors"][name]
    return [
        {
            "name": name,
            "layers": len(errors),
            "median": median(errors.values()),
            "largest": max(errors.values()),
            "worst": max(errors, key=errors.__getitem__),
        }
        for name, errors in sorted(by_method.items())
    ]


def environment() -> Environment:
    """Of every page: exporter/templates, and the filters that put numbers into words."""
    environment = Environment(
        loader=PackageLoader("exporter", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        mb=lambda count: f"{count / 1e6:,.1f}",
        thousands=lambda count: f"{count:,}",
        percent=lambda share: _figure(None if share is None else 100 * share, ".1f"),
        figure=_figure,
        bits_class=bits_class,
        pattern=_breakable,
    )
    environment.globals.update(gate_rows=_gate_rows)
    return environment


def _figure(value: float | None, form: str = ".3g") -> str:
    """A number, a dash where nothing was measured, a word where it has no figure."""
    if value is None:
        return "–"
    if math.isnan(value):
        return "no number"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return format(value, form)


def _breakable(path: str) -> Markup:
    """A module path that may break after each dot."""
    return Markup(".<wbr>").join(path.split("."))


def _legend(plan: QuantPlan) -> list[tuple[str, str, int, int]]:
    """(css class, what it is, layers, parameters) for each width in the plan."""
    counts: dict[int, list[int]] = {}
    for layer in plan.layers:
        entry = counts.setdefault(layer.scheme.bits, [0, 0])
        entry[0] += 1
        entry[1] += 0 if layer.tied_to else layer.info.parameters
    words = {32: "float32"}
    return [
        (bits_class(bits), words.get(bits, f"{bits} bits"), layers, parameters)
        for bits, (layers, parameters) in sorted(counts.items())
    ]


def _gate_rows(rung: Rung) -> list[tuple[str, bool]]:
    """What each limit of a rung asks for, and whether it holds."""
    result, limits = rung.result, rung.limits
    asked = {
        "max_rel": (limits.max_rel, result.max_rel, "max rel ≤ {:g}"),
        "max_kl": (limits.max_kl, result.kl_mean, "KL ≤ {:g}"),
        "max_noise_kl": (limits.max_noise_kl, result.kl_mean, "KL ≤ {:.3g} (noise floor)"),
        "min_noise_db": (limits.min_noise_db, result.sqnr_db, "SQNR ≥ {:.1f} dB (noise floor)"),
        "min_top1": (limits.min_top1, result.same_top1, "top-1 ≥ {:g}"),
        "max_ppl_ratio": (limits.max_ppl_ratio, result.ppl_ratio, "ppl ≤ ×{:g}"),
        "min_cosine": (limits.min_cosine, result.cosine_mean, "cosine ≥ {:g}"),
        "min_group_cosine": (
            limits.min_group_cosine,
            result.worst_group_cosine,
            "cosine ≥ {:g} in each language",
        ),
        "max_noise_distance": (
            limits.max_noise_distance,
            None if result.cosine_mean is None else 1 - result.cosine_mean,
            "1 − cosine ≤ {:.3g} (noise floor)",
        ),
    }
    rows = []
    for gate in rung.gates:
        limit, value, text = asked[gate]
        if limit is not None and value is not None:
            good = value >= limit if gate.startswith("min_") else value <= limit
            rows.append((text.format(limit), bool(good) and result.invalid is None))
    return rows


def _written(sample: GreedySample, model: str) -> _Written:
    """Text cut at the first difference.

    Tokens are compared; the cut in the text is the word in which the two texts part, since a token's
    own letters are not in the data.
    """
    reference, found = sample.continuations[sample.reference], sample.continuations[model]
    if model == sample.reference:
        return _Written(model, found.text, "", "", f"reference, {len(found.token_ids)} tokens")
    steps = sample.steps_same(model)
    if reference.token_ids == found.token_ids:
        return _Written(model, found.text, "", "", f"all {steps} tokens the same")
    cut = _word_start(reference.text, found.text)
    end = cut
    while end < len(found.text) and found.text[end].isspace():
        end += 1
    while end < len(found.text) and not found.text[end].isspace():
        end += 1
    return _Written(
        model,
        found.text[:cut],
        found.text[cut:end] or "⏹",
        found.text[end:],
        _remark(steps, reference, found),
    )


def _word_start(reference: str, found: str) -> int:
    """Where the word begins in which the two texts part."""
    at = 0
    while at < min(len(reference), len(found)) and reference[at] == found[at]:
        at += 1
    while 0 < at < len(found) and not found[at - 1].isspace():
        at -= 1
    return at


def _remark(steps: int, reference: Continuation, found: Continuation) -> str:
    """`first 12 of 32 tokens the same, then 345 instead of 129`."""
    ours, theirs = found.token_ids[steps : steps + 1], reference.token_ids[steps : steps + 1]
    then = f"token {ours[0]}" if ours else "the end"
    instead = f"token {theirs[0]}" if theirs else "the end"
    return f"first {steps} of {len(reference.token_ids)} tokens the same, then {then} instead of {instead}"


def _other_facts(target: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A backend's own facts, in words or as JSON."""
    return [
        (key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True))
        for key, value in target.items()
        if key not in _SHOWN_FACTS
    ]
