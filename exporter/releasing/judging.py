"""Whether a candidate's files are what the envelope asks for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exporter.artifacts import target_bytes
from exporter.errors import PlanError
from exporter.models.loading import Model
from exporter.parity import ParityReport
from exporter.pipeline import Judge
from exporter.plan import QuantPlan
from exporter.progress import Stages, in_words
from exporter.recipe import Envelope, Recipe
from exporter.recipe.types import LIMITS

Worst = dict[str, tuple[float, str]]  # limit's key -> the worst runtime's figure, and which runtime that is
_SUITES = {
    "min_accuracy_ratio": "multiple-choice",
    "max_safety_shift": "safety",
    "min_tokens_per_second": "speed",
}
_SAID = {
    "max_mb": "{:.4g} MB of model files",
    "max_kl": "KL {:.4f} nats per token",
    "min_top1": "the same top token at {:.1%} of positions",
    "max_ppl_ratio": "perplexity {:.3f} times the float model's",
    "min_accuracy_ratio": "{:.3f} times the float model's right answers",
    "max_safety_shift": "{:.1%} of harmful requests refused no more",
    "min_tokens_per_second": "{:.1f} tokens a second",
}

_SHORT = {
    "max_mb": "{:.4g} MB",
    "max_kl": "KL {:.4f}",
    "min_top1": "same top {:.1%}",
    "max_ppl_ratio": "perplexity × {:.3f}",
    "min_accuracy_ratio": "accuracy × {:.3f}",
    "max_safety_shift": "safety shift {:.1%}",
    "min_tokens_per_second": "{:.1f} tokens/s",
}


def judge_of(recipe: Recipe, envelope: Envelope, stages: Stages) -> Judge:
    """What pipeline.run() asks before a draft becomes a release."""

    def judge(draft: Path, data: dict[str, Any], model: Model, plan: QuantPlan) -> Mapping[str, Any]:
        figures = _from_parity(data)
        suites = tuple(_SUITES[key] for key in envelope.limits if key in _SUITES)
        if suites:
            figures |= _from_suites(draft, recipe, envelope, suites, stages, data)
        return judged_by(envelope, figures)

    return judge


def judged_by(envelope: Envelope, figures: Worst) -> dict[str, Any]:
    """Plain data: `passed`, and a sentence for each limit that is missed. Raises PlanError for a limit without a
    figure."""
    for key in envelope.limits:
        if key not in figures:
            raise PlanError(
                f"envelope.{key}: the parity of this recipe measures no such figure; leave it out, or give parity what "
                "it is measured on"
            )
    misses = [
        f"{_SAID[key].format(figures[key][0])} ({figures[key][1]}), the envelope allows {limit:g}"
        for key, limit in envelope.limits.items()
        if not within(key, figures[key][0], limit)
    ]
    return {
        "passed": not misses,
        "misses": misses,
        "limits": envelope.limits,
        "figures": {key: value for key, (value, _) in figures.items()},
    }


def within(key: str, value: float, limit: float) -> bool:
    """Whether a figure is on the right side of its limit; never for one that is not a number."""
    return value <= limit if key.startswith("max_") else value >= limit


def shortly(figures: Mapping[str, float]) -> str:
    """`94.6 MB, KL 0.1136, same top 81.8%`, in the order of the limits."""
    return ", ".join(_SHORT[key].format(figures[key]) for key in LIMITS if key in figures)


def _from_parity(data: Mapping[str, Any]) -> Worst:
    """Size, and what the files as shipped lose against the float model."""
    report = ParityReport.from_json(data["parity"])
    found: Worst = {}
    for name, target in data["targets"].items():
        _take(found, "max_mb", target_bytes(target) / 1e6, name)
        rung = report.shipped(name)
        if rung is None:
            continue
        result = rung.result
        for key, value in (
            ("max_kl", result.kl_mean),
            ("min_top1", result.same_top1),
            ("max_ppl_ratio", result.ppl_ratio),
        ):
            if value is not None:
                _take(found, key, value, name)
    return found


def _from_suites(
    draft: Path,
    recipe: Recipe,
    envelope: Envelope,
    suites: tuple[str, ...],
    stages: Stages,
    data: dict[str, Any],
) -> Worst:
    """Those of `qexport evaluate`, whose scorecard then stands in the report."""
    from exporter.evaluation.measuring import measure
    from exporter.evaluation.settings import EvaluationSettings

    settings = EvaluationSettings(suites, envelope.items)
    with stages.stage("evaluate") as progress:
        card = measure(draft, settings, recipe, recipe.model.source, in_words(progress, stages.console))
    data["scorecard"] = card.to_json()
    found: Worst = {}
    for scores in card.runtimes:
        name = scores.runtime
        if "multiple-choice" in suites:
            _take(found, "min_accuracy_ratio", card.accuracy_ratio(name), name)
        if "safety" in suites:
            _take(found, "max_safety_shift", max(0.0, -card.safety_shift(name)), name)
        if "speed" in suites:
            _take(found, "min_tokens_per_second", card.find(name, "decode").value, name)
    return found


def _take(found: Worst, key: str, value: float, name: str) -> None:
    """Keep the worse of two runtimes' figures."""
    if key not in found or not within(key, value, found[key][0]):
        found[key] = value, name
