"""Whether a context of several graphs that share their weights holds what each graph compiles to by itself.

The simulator loads no such context, so that what runs on the host is the same graphs with weights of their own. The
compiler puts the same bytes into both, in another order: cell by cell, the shared file is looked through for them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from exporter.backends.npu import lowering, qnn, qualcomm
from exporter.errors import LoweringError
from exporter.targets import Target

_CELL = 64  # bytes; both kinds of context align what they hold to it
_LEAST = (
    0.9  # of the cells; addresses, names and commands differ, a weight that is lost or other is many cells
)


def check_held(target: Target, shared: Path, alone: Path) -> None:
    """Raise LoweringError where the shared context of the target's chip lacks what is in those of the other folder."""
    read = qnn.contents if target.unit == "qnn" else qualcomm.contents
    held = np.unique(
        np.concatenate([_cells(c) for path in lowering.files(target, shared) for c in read(path)])
    )
    for path in lowering.files(target, alone):
        for content in read(path):
            found = float(np.isin(_cells(content), held).mean())
            if found < _LEAST:
                raise LoweringError(
                    f"{shared / path.name}: {found:.0%} of what the graph compiles to by itself is in the file that "
                    f"shares weights, and {_LEAST:.0%} is the least; leave prefill out"
                )


def _cells(content: bytes) -> NDArray[np.uint64]:
    """A hash of each cell, by multiply and add."""
    whole = len(content) // _CELL * _CELL
    words = np.frombuffer(content[:whole], np.uint64).reshape(-1, _CELL // 8)
    factors = np.random.default_rng(0).integers(1 << 63, size=words.shape[1], dtype=np.uint64) | np.uint64(1)
    sums: NDArray[np.uint64] = (words * factors).sum(axis=1, dtype=np.uint64)
    return sums
