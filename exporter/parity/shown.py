"""What a person is told of a loss, by task: a title and a value for each, the same in the terminal and the report."""

from __future__ import annotations

import math
from dataclasses import dataclass

from exporter.parity.metrics import ComparisonResult
from exporter.tasks import SPECS, Task


@dataclass(frozen=True)
class Shown:
    """One figure of a comparison."""

    title: str
    value: str


def loss_of(task: Task, result: ComparisonResult | None) -> tuple[Shown, ...]:
    """What a user of the exported model loses; dashes where nothing was measured.

    Vectors by their cosine to the float model's, classes by the label chosen, words by the next (or hidden) word's
    distribution and the perplexity.
    """
    if task == "feature-extraction":
        return _of_vectors(result)
    family = SPECS[task].family
    word = "label" if task.endswith("-classification") else "output" if family == "module" else "token"
    found = [
        Shown("KL, nats", figure(result.kl_mean if result else None, ".4f")),
        Shown(f"same top {word}", percent(result.same_top1 if result else None)),
    ]
    if task in ("text-generation", "fill-mask", "module"):
        found.append(Shown("perplexity ratio (95 %)", _perplexity(result)))
    return tuple(found)


def figure(value: float | None, form: str) -> str:
    """A number, a dash where nothing was measured, words where it has no figure."""
    if value is None or math.isnan(value):
        return "–" if value is None else "no number"
    return format(value, form)


def percent(share: float | None) -> str:
    """A share of 1."""
    if share is None or math.isnan(share):
        return "–" if share is None else "no number"
    return f"{100 * share:.1f} %"


def _of_vectors(result: ComparisonResult | None) -> tuple[Shown, ...]:
    language = "–"
    if result is not None and result.worst_group is not None:
        language = f"{figure(result.worst_group_cosine, '.4f')} ({result.worst_group})"
    return (
        Shown("cosine, mean", figure(result.cosine_mean if result else None, ".4f")),
        Shown("of the worst text", figure(result.cosine_min if result else None, ".4f")),
        Shown("of the worst language", language),
    )


def _perplexity(result: ComparisonResult | None) -> str:
    if result is None:
        return "–"
    ratio = figure(result.ppl_ratio, ".3f")
    if result.ppl_ratio_ci is not None:
        ratio += " ({} to {})".format(*(figure(end, ".3f") for end in result.ppl_ratio_ci))
    return ratio
