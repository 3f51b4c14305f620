"""Threads of PyTorch's matrix products beside ExecuTorch's own."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

# In a process of its own: the number holds for the whole process. A thread that asks for nothing gets it, the
# one that asked keeps its own.
PROGRAM = """
import ctypes, threading, torch
from exporter.backends.executorch.threads import _LIBRARY, one_blas_thread_each
mkl = ctypes.CDLL(str(_LIBRARY)).mkl_serv_domain_get_max_threads
BLAS = 1
found = []
torch.set_num_threads(2)
def ask():
    thread = threading.Thread(target=lambda: found.append(mkl(BLAS)))
    thread.start()
    thread.join()
ask()
one_blas_thread_each()
ask()
print(found, mkl(BLAS), torch.get_num_threads())
"""


@pytest.mark.skipif(
    not torch.backends.mkl.is_available(), reason="PyTorch without MKL starts no such threads"
)
def test_each_of_executorchs_threads_has_one_blas_thread_and_pytorch_keeps_its_own(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[2, 1] 2 2"
