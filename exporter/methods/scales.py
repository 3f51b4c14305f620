"""Scales that fit a layer's integers best on real inputs. NumPy.

Given its integers q, a row's error on inputs with second moments H is (w - Q s)T H (w - Q s), s the scales of its
groups and Q the integers of each group in a column of their own: weighted least squares, whose normal equations are as
many as the row has groups. Rounding and refitting in turn is Lloyd's method (Gray & Neuhoff, "Quantization", IEEE
Trans. Information Theory 44(6), 1998), with the layer's output as the measure.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from exporter.numerics import FloatArray, QuantizedTensor, round_to_bf16

_ROWS = 1024  # at once
_RIDGE = 1e-6  # of the mean diagonal: a group of zeros has no scale of its own
# A refitted scale further from the searched one comes from a group that hardly counts.
_FARTHEST = 1.5


def output_error(weight: FloatArray, tensor: QuantizedTensor, moments: NDArray[np.float64]) -> FloatArray:
    """(out,) mean square of what each output loses: (w - w')T H (w - w'), moments H (in, in)."""
    found = np.empty(len(weight), np.float32)
    known = moments.astype(np.float32)
    for own, part in _blocks(tensor):
        lost = np.asarray(weight[own]) - part.dequantized()
        found[own] = np.einsum("ri,ri->r", lost @ known, lost)
    return found


def output_power(weight: FloatArray, moments: NDArray[np.float64]) -> float:
    """Sum over outputs of their mean square, w^T H w."""
    known = moments.astype(np.float32)
    total = 0.0
    for start in range(0, len(weight), _ROWS):
        rows = np.asarray(weight[start : start + _ROWS])
        total += float(np.einsum("ri,ri->", rows @ known, rows, dtype=np.float64))
    return total


def refitted(weight: FloatArray, tensor: QuantizedTensor, moments: NDArray[np.float64]) -> QuantizedTensor:
    """The same integers with the scales that fit them best, in bf16; for symmetric schemes with groups or channels.

    `weight` (out, in), moments (in, in). A scale that would change its sign, or move by more than half, stays.
    """
    scales = np.array(tensor.row_scales())
    groups = scales.shape[1]
    known = moments.astype(np.float32)
    for own, part in _blocks(tensor):
        codes = part.values.astype(np.float32)
        rows, width = codes.shape
        pulled = np.asarray(weight[own]) @ known  # (rows, in)
        wanted = (pulled * codes).reshape(rows, groups, -1).sum(axis=2, dtype=np.float64)
        normal = np.empty((rows, groups, groups))
        size = width // groups
        for group in range(groups):
            of, upto = slice(group * size, (group + 1) * size), slice(0, (group + 1) * size)
            reached = codes[:, of] @ known[of, upto]  # H's rows of this group, weighed by its integers
            reached *= codes[:, upto]
            met = reached.reshape(rows, group + 1, size).sum(axis=2)  # of a few integers: float32 will do
            normal[:, group, : group + 1] = normal[:, : group + 1, group] = met  # both ways the same
        mean = np.trace(normal, axis1=1, axis2=2) / groups
        normal += np.eye(groups) * np.maximum(_RIDGE * mean, 1e-30)[:, None, None]
        solved = np.linalg.solve(normal, wanted[:, :, None])[:, :, 0]
        fitted = round_to_bf16(solved.astype(np.float32))
        old = scales[own]
        near = (fitted > old / _FARTHEST) & (fitted < old * _FARTHEST)
        scales[own] = np.where(near, fitted, old)
    return QuantizedTensor(tensor.values, scales, tensor.zero_points, tensor.scheme)


def _blocks(tensor: QuantizedTensor) -> list[tuple[slice, QuantizedTensor]]:
    """The tensor in pieces of some rows."""
    found = []
    for start in range(0, len(tensor.values), _ROWS):
        own = slice(start, start + _ROWS)
        which = slice(None) if tensor.scheme.group == "tensor" else own
        zeros = None if tensor.zero_points is None else tensor.zero_points[which]
        found.append((own, QuantizedTensor(tensor.values[own], tensor.scales[which], zeros, tensor.scheme)))
    return found
