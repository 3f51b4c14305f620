"""What the app's self-test asks (android_demo/core, GoldenReplay.java), of any runtime on any processor.

A prompt: the first logits lie within the tolerance, and each golden token is the likeliest, or lies within twice the
tolerance of it, since each of the two logits may be off by it; the replay goes on with the golden one. A vector: its
cosine with the golden one. Rows of logits: each golden one within the tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOP = 16  # logits that golden values hold of a row
Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Judged:
    """One example against its golden values."""

    distance: float  # the largest difference of a logit, or a cosine
    same: int  # tokens, or rows of logits, whose likeliest is the golden one
    tokens: int  # that there are; 0 for a vector
    failure: str | None
    values: Mapping[str, Any]  # golden values of this processor


def judge_prompt(golden: Mapping[str, Any], limit: float, rows: Sequence[Rows]) -> Judged:
    """`rows`: logits after the prompt and after each golden token but the last, as many as were asked for."""
    distance, failure = _logits(golden["top_ids"], golden["top_logits"], limit, rows[0])
    answer = judge_answer(golden["greedy"], limit, rows)
    values = {"greedy": answer.values["tokens"], **_of_row(rows[0])}
    return replace(answer, distance=distance, failure=failure or answer.failure, values=values)


def judge_answer(golden: Sequence[int], limit: float, rows: Sequence[Rows]) -> Judged:
    """Where golden values have no logits; the distance is the farthest that a golden token is behind the likeliest."""
    own = [int(np.argmax(row)) for row in rows]
    tokens = golden[: len(rows)]
    distance, failure, same = 0.0, None, 0
    for number, (token, found, row) in enumerate(zip(tokens, own, rows, strict=True), 1):
        behind = float(row[found] - row[token])
        distance, same = max(distance, _endless(behind)), same + (found == token)
        if not behind <= 2 * limit and failure is None:
            failure = (
                f"token {number} of the answer is {found}, golden is {token}, {behind:.4f} behind; "
                f"at most {2 * limit:.4f}"
            )
    apart = next((n for n, (a, b) in enumerate(zip(tokens, own, strict=True)) if a != b), len(own))
    # behind the first other token golden ones were given: what is the likeliest there is no answer of its own
    values = {"tokens": own[: apart + 1], **_of_row(rows[0])}
    return Judged(distance, same, len(tokens), failure, values)


def judge_vector(golden: Mapping[str, Any], limit: float, vector: Rows) -> Judged:
    """An encoder's vector; `limit` is the least cosine."""
    a, b = np.asarray(golden["vector"], np.float64), vector.astype(np.float64)
    cosine = float(a @ b / np.sqrt((a @ a) * (b @ b)))
    failure = None if cosine >= limit else f"the vector's cosine is {cosine:.4f}; at least {limit:.4f}"
    return Judged(cosine, 0, 0, failure, {"vector": vector.tolist()})


def judge_logits(golden: Mapping[str, Any], limit: float, rows: Rows) -> Judged:
    """An encoder's logits, (rows, classes): of the whole text, or of the places that golden names."""
    found = [
        _logits(*row)
        for row in zip(golden["classes"], golden["logits"], [limit] * len(rows), rows, strict=True)
    ]
    same = sum(
        int(np.argmax(row)) == classes[0] for row, classes in zip(rows, golden["classes"], strict=True)
    )
    top = [_top(row) for row in rows]
    values = {
        "rows": golden["rows"],
        "classes": [ids.tolist() for ids in top],
        "logits": [row[ids].tolist() for row, ids in zip(rows, top, strict=True)],
    }
    failure = next((each for _, each in found if each), None)
    return Judged(max(distance for distance, _ in found), same, len(rows), failure, values)


def _logits(ids: Sequence[int], golden: Sequence[float], limit: float, row: Rows) -> tuple[float, str | None]:
    """The largest difference, not a number counting as endless; and the first that is too large."""
    errors = [abs(float(row[number]) - logit) for number, logit in zip(ids, golden, strict=True)]
    far = next((place for place, error in enumerate(errors) if not error <= limit), None)
    worst = max(map(_endless, errors))
    if far is None:
        return worst, None
    return worst, (
        f"token {ids[far]} has logit {row[ids[far]]:.4f}, golden is {golden[far]:.4f}; at most {limit:.4f} apart"
    )


def _of_row(row: Rows) -> dict[str, Any]:
    top = [number for number in _top(row) if np.isfinite(row[number])]  # forbidden ones are endlessly small
    return {"top_ids": list(map(int, top)), "top_logits": [round(float(x), 4) for x in row[top]]}


def _endless(error: float) -> float:
    return math.inf if math.isnan(error) else error


def _top(row: Rows) -> NDArray[np.int64]:
    return np.argsort(-row, kind="stable")[:TOP]
