"""Leave the processor to ExecuTorch's own threads.

On this host ExecuTorch's kernels take matrix products from PyTorch's library, and that is MKL on x86: each of
ExecuTorch's threads would start MKL threads of its own, which wait for one another in loops. Attention over a
prompt then takes several times as long. A phone's build has no such library.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_LIBRARY = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
_SETTER = "mkl_serv_set_num_threads"  # mkl_set_num_threads without its wrapper, which PyTorch leaves out


def one_blas_thread_each() -> None:
    """One MKL thread in each thread that has not asked for another number, for the rest of the process.

    torch.set_num_threads is such a request and holds for the thread that calls it; the caller's is renewed, so
    PyTorch itself keeps its speed there. Nothing happens where PyTorch was built without MKL.
    """
    threads = torch.get_num_threads()
    if _LIBRARY.is_file():
        setter = getattr(ctypes.CDLL(str(_LIBRARY)), _SETTER, None)
        if setter is not None:
            setter(1)
    torch.set_num_threads(threads)


@contextmanager
def one_thread_in_torch() -> Iterator[None]:
    """One MKL thread in the calling thread too, which works beside ExecuTorch's others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
