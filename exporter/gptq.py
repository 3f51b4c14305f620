"""Rounding a weight so that its layer's output changes least on real inputs, column by column. NumPy.

The error that rounding one column leaves is made up for by the columns that are not rounded yet. (Frantar et
al., GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers, ICLR 2023, algorithm 1,
with the columns in order of their inputs' power.) The scales are those of the scheme's search: only the
integers change.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from exporter.numerics import FloatArray, QuantizedTensor

Moments = NDArray[np.float64]  # (parts, k, k): mean of x xT over a layer's inputs, for each part of its rows
# Of the mean power, added to each input's: inputs that were never seen still have a price. (The paper takes 0.01.)
_DAMPING = 0.02


def rounded(weight: FloatArray, tensor: QuantizedTensor, moments: Moments) -> QuantizedTensor:
    """The same scales, other integers. `weight` (out, in); out is divided evenly among the parts, and each part's
    k inputs are all that its rows see (a grouped convolution has one part for each group).

    Raises ValueError where shapes do not fit, or moments are not finite.
    """
    parts, width, _ = moments.shape
    if width != weight.shape[1] or len(weight) % parts:
        raise ValueError(f"moments {moments.shape} for a weight of {weight.shape}")
    if not np.isfinite(moments).all():
        raise ValueError("its inputs' second moments are not finite")
    scales = np.repeat(tensor.row_scales(), width // tensor.row_scales().shape[1], axis=1)
    zeros = tensor.row_zero_points()
    offsets = np.zeros_like(scales)
    if zeros is not None:
        offsets = np.repeat(zeros, width // zeros.shape[1], axis=1).astype(np.float32)
    rows = len(weight) // parts
    values = np.empty(weight.shape, np.int8)
    for part in range(parts):
        own = slice(part * rows, (part + 1) * rows)
        values[own] = _part(
            weight[own].astype(np.float64), scales[own], offsets[own], moments[part], tensor.scheme.limits
        )
    return QuantizedTensor(values, tensor.scales, tensor.zero_points, tensor.scheme)


def _part(
    weight: NDArray[np.float64],
    scales: FloatArray,
    offsets: FloatArray,
    moments: NDArray[np.float64],
    limits: tuple[int, int],
) -> NDArray[np.int8]:
    """(rows, k) integers."""
    power = np.diag(moments)
    if not power.any():  # inputs that were always zero: any rounding is as good
        nearest: NDArray[np.int8] = np.clip(np.rint(weight / scales) + offsets, *limits).astype(np.int8)
        return nearest
    order = np.argsort(-power, kind="stable")
    damped = moments[np.ix_(order, order)] + np.eye(len(order)) * (_DAMPING * power.mean())
    # Upper Cholesky factor of the inverse: row j says how column j's error spreads over those behind it.
    factor = np.linalg.cholesky(np.linalg.inv(damped)).T
    left, codes = weight[:, order].copy(), np.empty_like(weight)
    for column in range(len(order)):
        source = order[column]
        code = np.rint(left[:, column] / scales[:, source]) + offsets[:, source]
        codes[:, source] = np.clip(code, *limits)
        held = (codes[:, source] - offsets[:, source]) * scales[:, source]
        error = (left[:, column] - held) / factor[column, column]
        left[:, column:] -= error[:, None] * factor[column, column:]
    chosen: NDArray[np.int8] = codes.astype(np.int8)
    return chosen
