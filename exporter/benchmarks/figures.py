"""What a measurement says: plain data, no imports that cost."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Smallest, middle and largest of repeated measurements of one thing."""

    minimum: float
    median: float
    maximum: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Over at least one value. Raises ValueError for none."""
        ordered = sorted(values)
        if not ordered:
            raise ValueError("nothing was measured")
        return cls(ordered[0], statistics.median(ordered), ordered[-1])

    def __post_init__(self) -> None:
        if not self.minimum <= self.median <= self.maximum:
            raise ValueError(f"{self.minimum} <= {self.median} <= {self.maximum} does not hold")


@dataclass(frozen=True)
class Memory:
    """Resident bytes of a process; `anonymous` is its own, `mapped` is backed by files and can be dropped."""

    resident: int
    peak: int  # largest `resident` since the process began to load the model
    anonymous: int | None = None  # None where the system does not tell them apart
    mapped: int | None = None

    def since(self, before: Memory) -> Memory:
        """What came on top of `before`: the model without Python and the libraries."""
        return Memory(
            max(0, self.resident - before.resident),
            max(0, self.peak - before.resident),
            _difference(self.anonymous, before.anonymous),
            _difference(self.mapped, before.mapped),
        )

    @classmethod
    def middle(cls, found: Iterable[Memory]) -> Memory:
        """The one with the median peak (the lower of two)."""
        ordered = sorted(found, key=lambda memory: memory.peak)
        return ordered[(len(ordered) - 1) // 2]


def _difference(after: int | None, before: int | None) -> int | None:
    return None if after is None or before is None else max(0, after - before)
