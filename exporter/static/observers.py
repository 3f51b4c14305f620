"""Observers: from the values that were seen to the range that is worth a code. NumPy, no framework.

Two passes over the samples: Extent finds the smallest and largest value, Histogram counts within them, so
that no histogram is ever stretched and the result does not depend on the samples' order. Memory is one
histogram for each value, whatever the number of samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from exporter.schemes import Observer
from exporter.static.params import ValueParams, params_for

BINS = 2048  # TensorRT's and ONNX Runtime's number
# Share of the values that a percentile range holds; the rest is clipped, half of it at each end. (McKinstry
# et al., Discovering Low-Precision Networks Close to Full-Precision Networks, 2018, take 99.9 to 99.99 %.)
_KEPT = 0.9999
_FACTORS = np.linspace(0.2, 1.0, 41)  # of an end of the range, tried by the mse observer

_BEYOND = 10  # values that should lie beyond an end that is no extreme, for it to be more than an accident
_OUTSIDE = 0.01  # share of new inputs that may leave a range found as the extremes of the samples


@dataclass
class Extent:
    """The smallest and largest value so far."""

    smallest: float = np.inf
    largest: float = -np.inf

    def update(self, values: NDArray[np.float32]) -> None:
        """Look at more values. Raises ValueError for one that is not finite."""
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError(f"{np.count_nonzero(~np.isfinite(values)):,} values are not finite")
        self.smallest, self.largest = min(self.smallest, low), max(self.largest, high)

    def joined(self, other: Extent) -> Extent:
        """What covers both."""
        return Extent(min(self.smallest, other.smallest), max(self.largest, other.largest))


@dataclass
class Histogram:
    """Counts in BINS bins of one width over a known extent."""

    extent: Extent
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def update(self, values: NDArray[np.float32]) -> None:
        """Count more values; those outside the extent count in the outermost bins."""
        low, high = self.extent.smallest, self.extent.largest
        if high <= low:
            self.counts[0] += values.size
            return
        places = (values.reshape(-1).astype(np.float64) - low) * (BINS / (high - low))
        self.counts += np.bincount(np.clip(places, 0, BINS - 1).astype(np.int64), minlength=BINS)

    @property
    def edges(self) -> NDArray[np.float64]:
        """(BINS + 1,) where bins begin and end."""
        return np.linspace(self.extent.smallest, self.extent.largest, BINS + 1)

    @property
    def centres(self) -> NDArray[np.float64]:
        """(BINS,) what every value of a bin is taken for."""
        edges = self.edges
        return (edges[:-1] + edges[1:]) / 2


@dataclass
class ChannelMeans:
    """Mean of each channel, by the values so far."""

    axis: int  # of the channels
    total: NDArray[np.float64] | None = None
    count: int = 0

    def update(self, values: NDArray[np.float32]) -> None:
        """Add more values."""
        rows = np.moveaxis(values, self.axis, -1).reshape(-1, values.shape[self.axis])
        part = rows.sum(axis=0, dtype=np.float64)
        self.total = part if self.total is None else self.total + part
        self.count += len(rows)

    @property
    def means(self) -> tuple[float, ...]:
        """One for each channel, as float32 numbers."""
        assert self.total is not None  # a value that was looked at
        return tuple(float(np.float32(mean)) for mean in self.total / self.count)


Range = tuple[float, float]


def minmax(histogram: Histogram, limits: tuple[int, int]) -> Range:
    """Everything that was seen."""
    return histogram.extent.smallest, histogram.extent.largest


def sample_warning(observer: Observer, samples: int, values: int) -> str | None:
    """A sentence where a sample is too small for the observer, with the number that is needed; None: large enough.

    `values`: how many each sample gives of the value that has fewest. minmax counts samples, since one input's values
    come together: of n exchangeable samples, the next lies outside their extremes with probability 2 / (n + 1). A
    percentile rests on the values beyond it, and 10 keep its relative error near 1 / sqrt(10). entropy and mse compare
    clippings of a histogram: ten values a bin.
    """
    if observer == "minmax":
        needed = math.ceil(2 / _OUTSIDE) - 1
        counted, unit = samples, "samples"
        why = f"with fewer, more than {_OUTSIDE:.0%} of new inputs lie outside the range that was seen"
    else:
        counted, unit = samples * values, "values"
        if observer == "percentile":
            tail = (1 - _KEPT) / 2
            needed = math.ceil(_BEYOND / tail - 1e-6)
            why = f"{_BEYOND} of them must lie beyond each end, which is {100 * tail:g} % of them"
        else:
            needed, why = _BEYOND * BINS, f"its histogram of {BINS:,} bins takes {_BEYOND} values each"
    if counted >= needed:
        return None
    wanted = needed if observer == "minmax" else math.ceil(needed / values)
    return (
        f"calibration: observer {observer} needs {needed:,} {unit} and has {counted:,}: {why}. "
        f"Set samples: {wanted:,}, of data that hold as many"
    )


def percentile(histogram: Histogram, limits: tuple[int, int]) -> Range:
    """The middle _KEPT of the values."""
    total = histogram.counts.sum()
    before = np.concatenate([[0], np.cumsum(histogram.counts)])  # values below each edge
    tail = total * (1 - _KEPT) / 2
    first = int(np.searchsorted(before, tail, side="right")) - 1
    last = int(np.searchsorted(before, total - tail, side="left"))
    edges = histogram.edges
    return float(edges[max(0, first)]), float(edges[min(BINS, last)])


def mse(histogram: Histogram, limits: tuple[int, int]) -> Range:
    """The range of least squared error over the histogram, each end tried at several shares of its extent.

    (Choukroun et al., Low-bit Quantization of Neural Networks for Efficient Inference, 2019, OMSE; there for one
    symmetric threshold, here for both ends.)
    """
    low, high = min(histogram.extent.smallest, 0.0), max(histogram.extent.largest, 0.0)
    best, best_error = (low, high), np.inf
    for below in _FACTORS if low < 0 else (1.0,):
        for above in _FACTORS if high > 0 else (1.0,):
            error = squared_error(histogram, params_for(low * below, high * above, limits))
            if error < best_error:
                best, best_error = (low * float(below), high * float(above)), error
    return best


def squared_error(histogram: Histogram, params: ValueParams) -> float:
    """Sum of squared errors of the histogram's values, each at the middle of its bin."""
    centres = histogram.centres
    codes = np.clip(np.rint(centres / params.scale) + params.zero_point, params.low, params.high)
    return float(histogram.counts @ np.square((codes - params.zero_point) * params.scale - centres))


def entropy(histogram: Histogram, limits: tuple[int, int]) -> Range:
    """The threshold on the magnitude under which the quantised distribution diverges least from the real one.

    (Migacz, 8-bit Inference with TensorRT, GTC 2017; ONNX Runtime's calibrate.py does the same.) Values
    that are never negative have all codes on one side, others half of them.
    """
    low, high = histogram.extent.smallest, histogram.extent.largest
    largest = max(abs(low), abs(high))
    if largest == 0:
        return 0.0, 0.0
    places = np.minimum(np.abs(histogram.centres) * (BINS / largest), BINS - 1).astype(np.int64)
    magnitudes = np.bincount(places, weights=histogram.counts, minlength=BINS).astype(np.float64)
    # Behind a ReLU most values are zero, which every threshold keeps exactly; counted, they would outweigh all
    # else and draw the threshold to nothing. NVIDIA's pytorch-quantization leaves that bin out in the same way.
    magnitudes[0] = magnitudes[1]
    codes = limits[1] - limits[0] + 1
    levels = codes if low >= 0 or high <= 0 else codes // 2
    threshold = largest * _least_divergence(magnitudes, levels) / BINS
    return max(low, -threshold), min(high, threshold)


def _least_divergence(counts: NDArray[np.float64], levels: int) -> int:
    """Number of leading bins whose distribution, at `levels` levels, has the least KL divergence."""
    best, best_divergence = len(counts), np.inf
    for kept in range(levels, len(counts) + 1, max(1, levels // 16)):
        real = counts[:kept].copy()
        real[-1] += counts[kept:].sum()  # what is clipped lands on the threshold
        edges = np.linspace(0, kept, levels + 1).round().astype(np.int64)
        sums = np.add.reduceat(counts[:kept], edges[:-1])
        filled = np.add.reduceat((counts[:kept] > 0).astype(np.float64), edges[:-1])
        spread = np.repeat(sums / np.maximum(filled, 1), np.diff(edges)) * (counts[:kept] > 0)
        divergence = _divergence(real, spread)
        if divergence <= best_divergence:  # of equals, the one that clips less
            best, best_divergence = kept, divergence
    return best


def _divergence(real: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    """KL(real || found), nats; infinite where `found` has nothing at all."""
    if not found.sum():
        return np.inf
    p, q = real / real.sum(), found / found.sum()
    smallest = 1e-9  # of a bin that `found` lost: the clipped end, as a rule
    held = p > 0
    return float(np.sum(p[held] * np.log(p[held] / np.maximum(q[held], smallest))))


OBSERVERS: Mapping[Observer, Callable[[Histogram, tuple[int, int]], Range]] = {
    "minmax": minmax,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mse,
}
