"""From paired results of the float model and a runtime's files to a difference and how sure it is.

Items (questions, windows of text, requests) are what is resampled: positions within one are not independent.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from exporter.parity.intervals import bootstrap_difference

Float64Array = NDArray[np.float64]
FEWEST = 20  # items: below, a percentile interval covers well under 95 % (tests/evaluation/test_pairing.py)

Sure = tuple[tuple[float, float] | None, str]  # an interval or none, and a remark


def paired_interval(
    reference: Float64Array, candidate: Float64Array, seed: int, weights: Float64Array | None = None
) -> Sure:
    """95 % bootstrap interval of the mean of candidate - reference over (n,) items, of the sum over the sum of
    `weights` where given (parity.intervals). None with the reason for fewer than FEWEST items.

    Where no item differs there is nothing to resample. What differs with probability p shows in none of n items with
    probability (1 - p)^n, so p is at most 1 - 0.05^(1/n) at 95 % (Hanley and Lippman-Hand 1983, "If nothing goes wrong,
    is everything all right?"), and so far the mean of differences of at most 1 can lie from nothing.
    """
    n = len(reference)
    if n < FEWEST:
        return None, f"{n} items are too few for an interval, {FEWEST} are the fewest"
    if np.array_equal(reference, candidate) and weights is None:
        return (-_missed(n), _missed(n)), "no item differs; the interval is what may have been missed"
    return bootstrap_difference(reference, candidate, weights, seed), ""


def own_interval(
    values: Float64Array, seed: int, weights: Float64Array | None = None, share: bool = False
) -> Sure:
    """The same for a figure that compares the two itself: its mean, or sum of values over sum of weights.

    `share`: of a share, 0 to 1, of which none was found, the interval ends where items with any may have been missed.
    """
    n = len(values)
    if n < FEWEST:
        return None, f"{n} items are too few for an interval, {FEWEST} are the fewest"
    if share and not values.any():
        return (0.0, _missed(n)), "none was found; the interval is what may have been missed"
    return bootstrap_difference(np.zeros(n), values, weights, seed), ""


def _missed(n: int) -> float:
    return float(1 - 0.05 ** (1 / n))


def joined(*remarks: str) -> str:
    """Those that say something."""
    return "; ".join(remark for remark in remarks if remark)
