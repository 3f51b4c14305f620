"""A choice of schemes as the rules of an ordinary recipe, few enough to be read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from exporter.pictures import block_of
from exporter.searching.units import Unit, joined


@dataclass(frozen=True)
class WrittenRule:
    """One rule of the recipe."""

    match: str
    scheme: str
    because: str


Costs = Mapping[str, Mapping[str, tuple[float, float]]]  # unit -> scheme -> predicted loss in nats, MB


def rules_for(units: Sequence[Unit], choice: Mapping[str, str], costs: Costs, kept: str) -> list[WrittenRule]:
    """Rules that give each unit its scheme; the one that most weights have stands last, for all the rest.

    A rule says what its units gain or save against that one. `kept`: a word for where the figures come from.
    """
    weights: dict[str, int] = defaultdict(int)
    for unit in units:
        weights[choice[unit.name]] += unit.parameters
    rest = max(weights, key=lambda scheme: weights[scheme])
    places: dict[tuple[str, str, str], list[tuple[int, Unit]]] = defaultdict(list)
    loose: list[WrittenRule] = []
    for unit in units:
        scheme = choice[unit.name]
        if scheme == rest:
            continue
        place = block_of(unit.owners[0])
        if place is None:
            for layer in unit.owners:
                loose.append(WrittenRule(layer, scheme, _because([unit], scheme, rest, costs, kept)))
            continue
        prefix, number, _ = place
        inside = [layer.removeprefix(f"{prefix}.{number}.") for layer in unit.owners]
        places[scheme, prefix, joined(inside)].append((number, unit))
    rules = [
        WrittenRule(
            f"{prefix}.{_numbers(number for number, _ in members)}.{inside}",
            scheme,
            _because([unit for _, unit in members], scheme, rest, costs, kept),
        )
        for (scheme, prefix, inside), members in places.items()
    ]
    share = weights[rest] / sum(weights.values())
    return [*loose, *rules, WrittenRule("**", rest, f"the rest: {share:.0%} of the weights")]


def _because(units: Sequence[Unit], scheme: str, rest: str, costs: Costs, kept: str) -> str:
    loss = size = 0.0
    for unit in units:
        own = costs[unit.name]
        other = own.get(rest) or min(
            own.values(), key=lambda cost: cost[1]
        )  # where the rest's scheme does not fit
        loss += other[0] - own[scheme][0]
        size += own[scheme][1] - other[1]
    if size < 0:
        return f"{kept}: saves {-size:.2f} MB for {-loss:.4f} nats of KL divergence"
    return f"{kept}: takes {loss:.4f} nats off the KL divergence for {size:.2f} MB"


def _numbers(found: Iterable[int]) -> str:
    """`{0..3,7}`: runs of numbers as a recipe's patterns write them."""
    numbers = sorted(found)
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [
        str(run[0]) if len(run) == 1 else f"{run[0]},{run[1]}" if len(run) == 2 else f"{run[0]}..{run[-1]}"
        for run in runs
    ]
    text = ",".join(parts)
    return text if len(numbers) == 1 else "{" + text + "}"
