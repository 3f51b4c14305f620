"""What a graph pass did, and what it met and left as it was."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Outcome:
    """Counts of one pass. A candidate that a pass does not know stays in the graph and is counted."""

    applied: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def leave(self, why: str) -> None:
        """Count a candidate that stays."""
        self.reasons[why] += 1

    def facts(self) -> dict[str, object]:
        """For the manifest: {"applied": n, "left": m, "why": ["3 x reason", …]}."""
        return {
            "applied": self.applied,
            "left": self.reasons.total(),
            "why": [f"{count} x {why}" for why, count in sorted(self.reasons.items())],
        }
