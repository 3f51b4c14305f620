"""How far two models' vectors lie apart: embeddings, hidden states, numbers that are no logits.

- max_rel = max |b - a| / RMS(a), rms_rel = RMS(b - a) / RMS(a), over everything seen; sqnr_db = -20 log10(rms_rel).
- cosine = a . b / (|a| |b|), one for each example, however long its vector is.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from exporter.parity.metrics import ComparisonResult

FloatArray = NDArray[np.float32]


class VectorComparison:
    """Accumulates over examples; keeps a number for each, never the vectors."""

    def __init__(self) -> None:
        self._max_abs = self._error_power = self._power = 0.0
        self._elements = 0
        self._cosines: list[float] = []
        self._groups: list[str | None] = []
        self._invalid: str | None = None

    def update(self, reference: FloatArray, candidate: FloatArray, group: str | None = None) -> None:
        """Compare one example, arrays of any one shape; `group` is its language.

        Vectors that are not finite, or zero, are left out and make the result invalid. Raises ValueError where
        shapes differ.
        """
        if reference.shape != candidate.shape:
            raise ValueError(f"reference vectors are {reference.shape}, the candidate's {candidate.shape}")
        a, b = (np.asarray(x, np.float64).reshape(-1) for x in (reference, candidate))
        for who, vector in (("reference", a), ("candidate", b)):
            if not np.isfinite(vector).all() or not vector.any():
                reason = "values not finite" if not np.isfinite(vector).all() else "nothing but zeros"
                self._invalid = self._invalid or f"{who}: example {len(self._cosines)} has {reason}"
                return
        difference = b - a
        self._max_abs = max(self._max_abs, float(np.abs(difference).max()))
        self._error_power += float(difference @ difference)
        self._power += float(a @ a)
        self._elements += a.size
        self._cosines.append(float(a @ b) / math.sqrt(float(a @ a) * float(b @ b)))
        self._groups.append(group)

    def result(self) -> ComparisonResult:
        """The measures over everything seen so far."""
        nan = math.nan
        if not self._cosines:
            reason = self._invalid or "no vectors were compared"
            return ComparisonResult(0, nan, nan, nan, nan, nan, nan, nan, invalid=reason)
        rms = math.sqrt(self._power / self._elements)
        rms_rel = math.sqrt(self._error_power / self._elements) / rms
        worst, lowest = self._worst_group()
        return ComparisonResult(
            positions=len(self._cosines),
            max_abs=self._max_abs,
            max_rel=self._max_abs / rms,
            rms_rel=rms_rel,
            sqnr_db=-20.0 * math.log10(rms_rel) if rms_rel > 0 else math.inf,
            kl_mean=nan,
            kl_p99=nan,
            same_top1=nan,
            invalid=self._invalid,
            cosine_mean=float(np.mean(self._cosines)),
            cosine_min=min(self._cosines),
            worst_group=worst,
            worst_group_cosine=lowest,
        )

    def _worst_group(self) -> tuple[str | None, float | None]:
        """The group with the lowest mean, where there are at least two."""
        found: dict[str, list[float]] = {}
        for group, cosine in zip(self._groups, self._cosines, strict=True):
            if group:
                found.setdefault(group, []).append(cosine)
        if len(found) < 2:
            return None, None
        means = {group: float(np.mean(values)) for group, values in found.items()}
        worst = min(means, key=lambda group: means[group])
        return worst, means[worst]
