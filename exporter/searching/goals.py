"""What a search is asked for, and what the choices weigh."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from exporter.backends import get_backend
from exporter.errors import PlanError
from exporter.layers import LayerInfo
from exporter.plan import QuantPlan, stored_bits, target_label
from exporter.schemes import QuantScheme
from exporter.searching.knapsack import NoFit, Option, cheapest, smallest, totals
from exporter.searching.scoring import Scores


@dataclass(frozen=True)
class Goal:
    """One of the three."""

    megabytes: float | None = None  # of each target's model file, 10^6 bytes
    bits_per_weight: float | None = None  # of the layers that rules decide
    kl: float | None = None  # nats per token, predicted

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.megabytes, self.bits_per_weight, self.kl)) != 1:
            raise ValueError("give one of --target-mb, --target-bpw, --max-kl")

    @property
    def file_words(self) -> str:
        """The same for a name: `90_mb`."""
        return re.sub(r"[^A-Za-z0-9.]+", "_", self.words).lower()

    @property
    def words(self) -> str:
        """For a person, and for the recipe's name."""
        if self.megabytes is not None:
            return f"{self.megabytes:g} MB"
        if self.bits_per_weight is not None:
            return f"{self.bits_per_weight:g} bits a weight"
        return f"KL {self.kl:g}"


class Sizes:
    """Bytes of the choices, for each target and as bits of the plan."""

    def __init__(self, plan: QuantPlan, layers: Sequence[LayerInfo]) -> None:
        """`layers`: those that are searched over. All others weigh what the plan says."""
        self.plan = plan
        self.labels = [target_label(target) for target in plan.targets]
        searched = {layer.name for layer in layers}
        self.fixed = [
            forecast.total_bytes
            - sum(layer.bytes[forecast.target.key] for layer in plan.layers if layer.name in searched)
            for forecast in plan.forecasts
        ]
        kept = [layer for layer in plan.layers if layer.name not in searched and layer.tied_to is None]
        self.kept_bits = sum(stored_bits(layer.info, layer.scheme) for layer in kept)
        self.weights = sum(layer.info.parameters for layer in plan.layers if layer.tied_to is None)

    def of(self, layers: Sequence[LayerInfo], scheme: QuantScheme) -> tuple[int, ...]:
        """One number for each target, and the stored bits last."""
        found = [
            sum(get_backend(target.key).layer_bytes(layer, scheme, target) for layer in layers)
            for target in self.plan.targets
        ]
        bits = sum(stored_bits(layer, scheme) for layer in layers if layer.tied_to is None)
        return (*found, bits)


def options_of(
    scores: Scores, layers: Mapping[str, LayerInfo], candidates: Mapping[str, QuantScheme], sizes: Sizes
) -> list[Option]:
    """Every scheme that every unit may have."""
    return [
        Option(
            unit.name,
            scheme,
            scores.loss(unit.name, scheme),
            sizes.of([layers[n] for n in unit.layers], candidates[scheme]),
        )
        for unit in scores.units
        for scheme in scores.predicted[unit.name]
    ]


def solve(goal: Goal, options: Sequence[Option], sizes: Sizes, scores: Scores) -> dict[str, str]:
    """Unit -> scheme. Raises PlanError that says what is possible."""
    count = len(sizes.labels)
    if goal.kl is not None:
        try:
            return smallest(options, goal.kl)
        except NoFit:
            least = sum(min(o.loss for o in options if o.unit == unit.name) for unit in scores.units)
            raise PlanError(
                f"--max-kl {goal.kl:g}: with the schemes of this recipe the least predicted is {least:.4f}; allow that "
                "much, or add a scheme with more bits"
            ) from None
    limits = [1 << 62] * (count + 1)
    if goal.megabytes is not None:
        limits[:count] = [int(goal.megabytes * 1e6) - fixed for fixed in sizes.fixed]
    else:
        assert goal.bits_per_weight is not None
        limits[count] = int(goal.bits_per_weight * sizes.weights) - sizes.kept_bits
    try:
        return cheapest(options, limits)
    except NoFit:
        raise PlanError(_least(goal, options, sizes)) from None


def _least(goal: Goal, options: Sequence[Option], sizes: Sizes) -> str:
    """The smallest that can be reached, for each target."""
    units: dict[str, list[Option]] = {}
    for option in options:
        units.setdefault(option.unit, []).append(option)
    least = [
        sum(min(o.sizes[i] for o in group) for group in units.values()) for i in range(len(sizes.labels) + 1)
    ]
    if goal.bits_per_weight is not None:
        bits = (least[-1] + sizes.kept_bits) / sizes.weights
        return (
            f"--target-bpw {goal.bits_per_weight:g}: with the schemes of this recipe the least is {bits:.3f} bits a "
            "weight; allow that much, or add a scheme with fewer bits or larger groups"
        )
    shown = ", ".join(
        f"{(total + fixed) / 1e6:.1f} MB in {label}"
        for total, fixed, label in zip(least, sizes.fixed, sizes.labels, strict=False)
    )
    return (
        f"--target-mb {goal.megabytes:g}: with the schemes of this recipe the least is {shown}; allow that much, or "
        "add a scheme with fewer bits or larger groups"
    )


__all__ = ["Goal", "Sizes", "options_of", "solve", "totals"]
