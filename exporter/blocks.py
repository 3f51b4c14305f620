"""Scales of blocks as Qualcomm's HTP holds them: one float scale for each row, and whole steps of it for its blocks.

QNN calls that QNN_QUANTIZATION_ENCODING_BLOCKWISE_EXPANSION with blockScaleBitwidth 4 (QnnTypes.h of the AI Engine
Direct SDK): scale of a block = step * scale of its row, step from 1 to 16. AIMET and ExecuTorch find the row's scale as
a sixteenth of its largest block's (make_qnn_per_block_config in executorch/backends/qualcomm/builders/node_visitor.py).
So here the largest block of every row has step 16 exactly, and what they find again is what was stored. Steps above 16
compute something else without a word, and so do programs with blocks of 16, 64 or 128 that are read from their file
(docs/npu.md): blocks of 64 and 128 are handed over as two or four of 32 with the same scale. Pure NumPy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MOST_STEPS = 16
BLOCK = 32  # weights that are handed over with one scale, whatever more share it
FloatArray = NDArray[np.float32]


def stepped(scales: FloatArray, least: FloatArray) -> FloatArray:
    """(out, groups) scales, 0 for a block of zeros -> the nearest that are 1 to 16 steps of a row's, the largest 16.

    `scales` and `least`, (out, 1), the smallest scale that a row's sums may have, are bf16 numbers; so are a sixteenth
    of them, and each product with a step has 13 bits at most: exact in float32.
    """
    top = np.maximum(scales.max(axis=1, keepdims=True), MOST_STEPS * least)  # (out, 1)
    row = np.where(top > 0, top / np.float32(MOST_STEPS), np.float32(1))
    steps = np.clip(np.rint(scales / row), 1, MOST_STEPS)
    steps[np.arange(len(steps)), scales.argmax(axis=1)] = MOST_STEPS
    found: FloatArray = (steps * row).astype(np.float32)
    return found


def in_thirty_twos(scales: FloatArray, inputs: int) -> FloatArray:
    """(out, groups) scales of a row of `inputs` weights -> (out, inputs / 32), each repeated. Raises ValueError for
    groups that are no multiples of 32."""
    group = inputs // scales.shape[1]
    if group % BLOCK:
        raise ValueError(f"groups of {group} are no multiples of {BLOCK}")
    return np.repeat(scales, group // BLOCK, axis=1)


def coarsest(scales: FloatArray) -> FloatArray:
    """(out, groups) scales with neighbours that are equal in every row made one, as often as that halves them."""
    while scales.shape[1] % 2 == 0 and np.array_equal(scales[:, ::2], scales[:, 1::2]):
        scales = scales[:, ::2]
    return np.ascontiguousarray(scales)


def split(scales: FloatArray) -> tuple[NDArray[np.uint8], FloatArray]:
    """(out, groups) scales -> steps of that shape, and (out,) scales of the rows.

    Raises ValueError for a scale that is no whole number of steps from 1 to 16: no such format holds it.
    """
    row = scales.max(axis=1, keepdims=True) / np.float32(MOST_STEPS)
    steps = np.rint(scales / row)
    wrong = np.argwhere((steps * row != scales) | (steps < 1))
    if len(wrong):
        i, j = wrong[0]
        raise ValueError(
            f"block {j} of row {i} has scale {scales[i, j]:.6g}, {scales[i, j] / row[i, 0]:.4g} sixteenths of the "
            "row's largest; blocks have whole sixteenths, 1 to 16"
        )
    return steps.astype(np.uint8), row.reshape(-1)
