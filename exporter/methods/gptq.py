"""Rounding a weight so that its layer's output changes least on real inputs, column by column. NumPy.

The error that rounding one column leaves is made up for by the columns that are not rounded yet. (Frantar et
al., GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers, ICLR 2023, algorithm 1:
lazy batches of columns, dampening, and columns in the order of their inputs' power.) The scales stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dtrtri

from exporter.numerics import FloatArray, QuantizedTensor

Moments = NDArray[np.float64]  # (parts, k, k): mean of x xT over a layer's inputs, for each part of its rows
# Of the mean power, added to each input's: inputs that were never seen still have a price. (The paper takes 0.01.)
_DAMPING = 0.02
_COLUMNS = 32  # rounded before what they leave is taken to all columns behind them, as one matrix product
_ROWS = 4096  # of a weight at once: a batch of columns stays in a processor's cache


@dataclass(frozen=True)
class Spread:
    """How a column's error is made up for by those behind it."""

    order: NDArray[np.intp]  # (k,) columns as they are rounded
    factor: NDArray[np.float32]  # (k, k) upper Cholesky factor of the inverse of the moments, in that order


def spread_of(moments: NDArray[np.float64]) -> Spread | None:
    """Of (k, k) moments; None where the inputs were always zero. Raises ValueError where they are not finite, or
    singular in spite of the dampening."""
    if not np.isfinite(moments).all():
        raise ValueError("its inputs' second moments are not finite")
    power = np.diag(moments)
    if not power.any():
        return None
    order = np.argsort(-power, kind="stable")
    # With the columns the other way round, H = L LT; the inverse of L, turned back, is upper triangular and is the
    # factor that is wanted: a third of the work of inverting H and factoring that, and nothing squared.
    back = order[::-1]
    damped = moments[np.ix_(back, back)]
    damped[np.diag_indices(len(back))] += _DAMPING * power.mean()
    try:
        lower = np.linalg.cholesky(damped)
    except np.linalg.LinAlgError as problem:
        raise ValueError(f"its inputs' second moments cannot be inverted ({problem})") from None
    inverse, _ = dtrtri(lower.T, lower=0)  # LAPACK takes a row-major lower triangle as an upper one
    return Spread(order, np.ascontiguousarray(inverse.T[::-1, ::-1], np.float32))


def rounded(weight: FloatArray, tensor: QuantizedTensor, moments: Moments) -> QuantizedTensor:
    """The same scales, other integers. `weight` (out, in); out is divided evenly among the parts, and each part's
    k inputs are all that its rows see (a grouped convolution has one part for each group).

    Raises ValueError where shapes do not fit, or moments are not finite.
    """
    parts, width, _ = moments.shape
    if width != weight.shape[1] or len(weight) % parts:
        raise ValueError(f"moments {moments.shape} for a weight of {weight.shape}")
    return rounded_along(weight, tensor, [spread_of(part) for part in moments])


def rounded_along(
    weight: FloatArray, tensor: QuantizedTensor, spreads: list[Spread | None]
) -> QuantizedTensor:
    """As rounded(), where several weights see the same inputs: a spread for each part."""
    width = weight.shape[1]
    scales, zeros = tensor.row_scales(), tensor.row_zero_points()
    values = np.empty(weight.shape, np.int8)
    rows = len(weight) // len(spreads)
    for part, spread in enumerate(spreads):
        for start in range(part * rows, (part + 1) * rows, _ROWS):
            own = slice(start, min(start + _ROWS, (part + 1) * rows))
            each = np.repeat(scales[own], width // scales.shape[1], axis=1)
            offset = None if zeros is None else np.repeat(zeros[own], width // zeros.shape[1], axis=1)
            values[own] = _codes(np.asarray(weight[own]), each, offset, spread, tensor.scheme.limits)
    return QuantizedTensor(values, tensor.scales, tensor.zero_points, tensor.scheme)


def _codes(
    weight: FloatArray,
    scales: FloatArray,
    zeros: NDArray[np.int8] | None,
    spread: Spread | None,
    limits: tuple[int, int],
) -> NDArray[np.int8]:
    """(rows, k) integers; all arrays (rows, k)."""
    offsets = np.zeros_like(scales) if zeros is None else zeros.astype(np.float32)
    if spread is None:  # inputs that were always zero: any rounding is as good
        nearest: NDArray[np.int8] = np.clip(np.rint(weight / scales) + offsets, *limits).astype(np.int8)
        return nearest
    order, factor = spread.order, spread.factor
    # a column of the weight is a row here, so that each step works on numbers that lie side by side
    left = np.ascontiguousarray(weight.T[order], np.float32)
    scale, offset = np.ascontiguousarray(scales.T[order]), np.ascontiguousarray(offsets.T[order])
    low, high = limits
    errors = np.empty((_COLUMNS, left.shape[1]), np.float32)
    for first in range(0, len(order), _COLUMNS):
        stop = min(first + _COLUMNS, len(order))
        for column in range(first, stop):
            code = np.clip(np.rint(left[column] / scale[column]) + offset[column], low, high)
            error = errors[column - first]
            np.subtract(left[column], (code - offset[column]) * scale[column], out=error)
            error /= factor[column, column]
            left[column] = code  # what is rounded is not read again
            behind = slice(column + 1, stop)
            left[behind] -= factor[column, behind, None] * error
        left[stop:] -= factor[first:stop, stop:].T @ errors[: stop - first]
    codes = np.empty(weight.shape, np.int8)
    codes[:, order] = left.T.astype(np.int8)
    return codes
