"""One scheme for each unit, so that the predicted loss is least within the budget of every target.

A multiple-choice knapsack, solved exactly by branch and bound (HiGHS through scipy.optimize.milp).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from exporter.quiet import native_output_held


@dataclass(frozen=True)
class Option:
    """One scheme for one unit."""

    unit: str
    scheme: str
    loss: float  # nats per token, predicted
    sizes: tuple[int, ...]  # bytes in each target's file


class NoFit(Exception):
    """No choice is small enough, or none loses little enough."""


def cheapest(options: Sequence[Option], limits: Sequence[int]) -> dict[str, str]:
    """Unit -> scheme of least total loss whose sizes fit `limits`, bytes for each target. Raises NoFit.

    Among equal losses the smaller files win.
    """
    sizes = np.array([option.sizes for option in options], float)
    losses = np.array([option.loss for option in options])
    # bytes decide where losses are equal, and are too small a part to decide elsewhere
    tie = 1e-9 * max(float(losses.max(initial=0.0)), 1e-12) / max(float(sizes.sum()), 1.0)
    constraint = LinearConstraint(sizes.T, -np.inf, np.asarray(limits, float))
    return _solved(options, losses + tie * sizes.sum(axis=1), constraint)


def smallest(options: Sequence[Option], loss: float) -> dict[str, str]:
    """Unit -> scheme of least bytes, summed over targets, whose total loss is at most `loss`. Raises NoFit."""
    losses = np.array([option.loss for option in options])
    sizes = np.array([sum(option.sizes) for option in options], float)
    tie = 1e-9 / max(float(losses.sum()), 1e-12)
    return _solved(options, sizes + tie * losses, LinearConstraint(losses[None, :], -np.inf, loss))


def totals(options: Sequence[Option], choice: Mapping[str, str]) -> tuple[float, tuple[int, ...]]:
    """Loss, and bytes for each target, of a choice."""
    taken = [option for option in options if choice[option.unit] == option.scheme]
    sizes = np.array([option.sizes for option in taken], np.int64).sum(axis=0)
    return sum(option.loss for option in taken), tuple(int(size) for size in sizes)


def _solved(options: Sequence[Option], cost: np.ndarray, constraint: LinearConstraint) -> dict[str, str]:
    units = {unit: number for number, unit in enumerate(dict.fromkeys(option.unit for option in options))}
    rows = [units[option.unit] for option in options]
    once = coo_array((np.ones(len(options)), (rows, range(len(options)))), (len(units), len(options)))
    scale = float(np.abs(cost).max(initial=0.0)) or 1.0
    with native_output_held(1):  # HiGHS has lines for its makers that no option silences
        result = milp(
            cost / scale,
            integrality=np.ones(len(options)),
            bounds=Bounds(0, 1),
            constraints=[LinearConstraint(once.tocsr(), 1, 1), constraint],
            options={"mip_rel_gap": 0.0},
        )
    if result.x is None:
        raise NoFit(str(result.message))
    return {
        option.unit: option.scheme for option, taken in zip(options, result.x, strict=True) if taken > 0.5
    }
