"""Orthonormal Hadamard rotations of a layer's input: what is large in one channel is spread over its neighbours.

    y = W x = (W H) (H x),    H = diag(S, S, ...),    S the Hadamard matrix of `size` over sqrt(size)

S is symmetric and its own inverse, so H is exact but for float32's rounding. What is rounded afterwards is W H, whose
rows have no outliers, and H x, whose scale one loud channel no longer takes for itself alone. (Ashkboos et al.,
"QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs", NeurIPS 2024, section 3; in blocks, as there for a width that is
no power of two.) A table's rows are looked up rotated and turned back. NumPy.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from exporter.numerics import FloatArray, check_finite

_BLOCK_ELEMENTS = 1 << 22  # rotated at once


@cache
def hadamard(size: int) -> FloatArray:
    """(size, size) float32, orthonormal and symmetric (Sylvester's construction). `size`: a power of two."""
    found = np.ones((1, 1))
    while len(found) < size:
        found = np.block([[found, found], [found, -found]])
    if len(found) != size:
        raise ValueError(f"a Hadamard rotation of {size} channels: not a power of two")
    scaled: FloatArray = (found / np.sqrt(size)).astype(np.float32)
    return scaled


def rotated(rows: FloatArray, size: int) -> FloatArray:
    """(n, k) float32 rows of a weight -> rows H, a new array; `size` divides k.

    Raises ValueError naming the element that is not finite, which would spread.
    """
    count, columns = rows.shape
    found = np.empty((count, columns), np.float32)
    step = max(1, _BLOCK_ELEMENTS // columns)
    for start in range(0, count, step):
        part = np.asarray(rows[start : start + step], np.float32)
        check_finite(part, start)
        found[start : start + step] = (part.reshape(-1, size) @ hadamard(size)).reshape(part.shape)
    return found


def rotated_moments(moments: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """(k, k) mean of x xT -> H moments H, that of H x."""

    def along_rows(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        turned = matrix.reshape(-1, size) @ hadamard(size).astype(np.float64)
        return turned.reshape(matrix.shape)

    return along_rows(along_rows(moments).T).T
