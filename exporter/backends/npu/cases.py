"""What every simulator's job does alike: many cases out of one file through a function and into another."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.errors import ArtifactError
from exporter.numerics import save_arrays

Arrays = list[NDArray[Any]]


def run_cases(inputs: str, outputs: str, run: Callable[[Arrays], Sequence[NDArray[Any]]]) -> dict[str, Any]:
    """Every row of `inputs`, a .npz of arrays by position, (cases, …), through `run`; writes `outputs` alike."""
    arrays = np.load(inputs)
    given = [arrays[name] for name in sorted(arrays.files, key=int)]
    start = time.perf_counter()
    results = [list(run([each[case] for each in given])) for case in range(len(given[0]))]
    seconds = time.perf_counter() - start
    save_arrays(outputs, {str(i): np.stack(each) for i, each in enumerate(zip(*results, strict=True))})
    return {"seconds": seconds}


def read_program(path: Path) -> Any:
    """A .pte as ExecuTorch's own classes. Raises ArtifactError where it is none."""
    from executorch.exir._serialize._program import deserialize_pte_binary

    try:
        return deserialize_pte_binary(path.read_bytes()).program
    except Exception as problem:  # a damaged file fails anywhere in it
        raise ArtifactError(f"{path}: is no ExecuTorch program, or was damaged; export again") from problem
