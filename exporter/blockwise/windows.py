"""Calibration text as windows of tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.errors import QexportError

WINDOW = 512  # tokens


def calibration_windows(tokenizer: Any, texts: Iterable[str], longest: int | None) -> NDArray[np.int64]:
    """(n, WINDOW) token ids, each row begun as the tokenizer begins a text.

    Texts follow each other without a gap, each with no more tokens than a window has, so that one long text is not
    most of what is seen. `longest`: positions of the model. Raises QexportError where they are not one window.
    """
    first = tokenizer("").input_ids
    first = list(first[:1]) if len(first) and tokenizer.bos_token_id in first[:1] else []
    length = min(WINDOW, longest or WINDOW)
    step = length - len(first)
    found: list[int] = []
    for text in texts:
        found += tokenizer.encode(text, add_special_tokens=False)[:step]
    rows = len(found) // step
    if not rows:
        raise QexportError(
            f"calibration.text: {len(found)} tokens in all, and inputs are measured over windows of {step}; give more "
            "text, some 50,000 tokens do"
        )
    body = np.asarray(found[: rows * step], np.int64).reshape(rows, step)
    return np.concatenate([np.tile(np.asarray(first, np.int64), (rows, 1)), body], axis=1)
