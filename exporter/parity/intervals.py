"""How sure a difference between two models is that were measured on the same examples.

All intervals are paired: the examples are resampled, and both models' results go with them, so what an
example is hard for does not count.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]

RESAMPLES = 2000  # the ends of a 95 % interval then rest on 50 resamples each
FEWEST = 5  # examples; below, an interval would be the data themselves
_CHUNK = 1 << 22  # elements of a matrix of resampled examples


def bootstrap_difference(
    reference: Float64Array, candidate: Float64Array, weights: Float64Array | None = None, seed: int = 0
) -> tuple[float, float] | None:
    """95 % interval of the candidate's mean less the reference's, over (n,) paired results; None below FEWEST.

    With `weights` (n,), a rate: sum of results over sum of weights, as errors over words (Bisani and Ney
    2004, "Bootstrap estimates for confidence intervals in ASR performance evaluation"). Percentile interval,
    the same for the same seed. Raises ValueError where lengths differ.
    """
    n = len(reference)
    if len(candidate) != n or (weights is not None and len(weights) != n):
        raise ValueError(f"{n} reference results, {len(candidate)} of the candidate")
    if n < FEWEST:
        return None
    difference = np.asarray(candidate, np.float64) - np.asarray(reference, np.float64)
    rng = np.random.default_rng(seed)
    means = np.empty(RESAMPLES)
    step = max(1, _CHUNK // n)
    for start in range(0, RESAMPLES, step):
        rows = rng.integers(0, n, (min(step, RESAMPLES - start), n))  # (resamples, n)
        totals = difference[rows].sum(axis=1)
        counts = float(n) if weights is None else np.maximum(weights[rows].sum(axis=1), 1e-300)
        means[start : start + len(rows)] = totals / counts
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def mcnemar(reference: NDArray[np.bool_], candidate: NDArray[np.bool_]) -> float:
    """Two-sided p-value that two models are right equally often, from the examples where they differ.

    McNemar's test in its exact form: of the b + c examples that only one model has right, the candidate's
    number is binomial with probability 1/2. 1.0 where they never differ.
    """
    only_reference = int(np.count_nonzero(reference & ~candidate))
    only_candidate = int(np.count_nonzero(candidate & ~reference))
    n, least = only_reference + only_candidate, min(only_reference, only_candidate)
    log_half = -n * math.log(2)
    tail = math.fsum(
        math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + log_half)
        for k in range(least + 1)
    )
    return min(1.0, 2 * tail)
