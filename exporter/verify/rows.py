"""A runtime's logits over windows of text, block by block: whole prefills, single tokens, a few at a time.

Each generator yields (window, first scored row, (n, vocabulary) logits); nothing is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from exporter.backends.base import TextRunner
from exporter.evaluate import Window

Logits = NDArray[np.float32]
Rows = Iterator[tuple[int, int, Logits]]
_SINGLE_STEPS = 8  # tokens one by one, where a runtime also gives whole prefills
_STEP_TOKENS = 64  # at a time, behind those


def prefilled(runner: TextRunner, index: int, window: Window, piece_tokens: int) -> Rows:
    """A window from an empty cache, whole or in pieces whose logits have place; a row per token."""
    runner.reset()
    last = len(window.tokens) - 1  # its row predicts nothing that is known
    for start in range(0, last, piece_tokens):
        rows = runner.forward(window.tokens[start : min(start + piece_tokens, last)])
        rows = rows[max(0, window.first_scored - start) :]
        if len(rows):
            yield index, max(0, start - window.first_scored), rows


def decoded(runner: TextRunner, index: int, window: Window) -> Rows:
    """A window's first half at once, then tokens one by one, then several at a time; a row per token."""
    runner.reset()
    at, end = window.first_scored + 1, len(window.tokens) - 1
    yield index, 0, runner.forward(window.tokens[:at])[-1:]
    singles = min(end, at + _SINGLE_STEPS)
    while at < end:
        step = 1 if at < singles else _STEP_TOKENS
        yield index, at - window.first_scored, runner.forward(window.tokens[at : min(at + step, end)])
        at += step


def stepped(
    runner: TextRunner, index: int, window: Window, stride: int, block_rows: int
) -> tuple[Logits, Rows]:
    """Row 0, after the first half of the window; then the last row of each `stride` tokens, in blocks."""
    runner.reset()
    begin, end = window.first_scored + 1, len(window.tokens) - 1
    first = runner.forward(window.tokens[:begin])[-1:]

    def others() -> Rows:
        start = stride
        for block in _cut(range(begin, end - stride + 1, stride), block_rows):
            rows = np.empty(
                (len(block), first.shape[1]), np.float32
            )  # a list of rows would fragment the heap
            for row, at in zip(rows, block, strict=True):
                row[:] = runner.forward(window.tokens[at : at + stride])[-1]
            yield index, start, rows
            start += stride * len(rows)

    return first, others()


def _cut(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]
