"""Models without a KV cache of tokens past, in the runtimes that qexport writes for: one call is one example.

`tokens` of a call are what a text model reads; a picture, a sound or a tensor has its own shape, and only the
axes that may vary take their length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.benchmarks.worker import Engine, Input
from exporter.quiet import hush, native_output_held
from exporter.signatures import BATCH

_NO_STEP = "this model gives everything at once; there is no next token"
_MASKS = ("attention_mask", "encoder_attention_mask")


def example(port: Input, tokens: Sequence[int]) -> NDArray[Any]:
    """One example of an input: the tokens, a mask of ones, noise for everything that is measured in floats."""
    name, kind, shape = port
    lengths = {BATCH: 1}
    sizes = [size if isinstance(size, int) else lengths.get(size, len(tokens)) for size in shape]
    if name == "input_ids":
        return np.asarray([list(tokens)], kind)
    if name in _MASKS:
        return np.ones(sizes, kind)
    if np.issubdtype(np.dtype(kind), np.floating):
        return _noise(tuple(sizes), kind)
    return np.zeros(sizes, kind)


@lru_cache(maxsize=8)
def _noise(sizes: tuple[int, ...], kind: str) -> NDArray[Any]:
    """Made once: a small model runs in the time that it takes."""
    return np.random.default_rng(0).standard_normal(sizes).astype(kind)


class _OrtCalls:
    """onnxruntime, inputs in the order of the graph."""

    def __init__(self, ort: Any, folder: Path, threads: int, inputs: Sequence[Input]) -> None:
        self.version = f"onnxruntime {ort.__version__}"
        self._session = ort_session(ort, folder / "model.onnx", threads)
        self._names = [x.name for x in self._session.get_inputs()]
        self._inputs = list(inputs)

    def reset(self) -> None:
        """Nothing is kept from one call to the next."""

    def prefill(self, tokens: Sequence[int]) -> None:
        given = [example(port, tokens) for port in self._inputs]
        self._session.run(None, dict(zip(self._names, given, strict=True)))

    def step(self) -> None:
        raise RuntimeError(_NO_STEP)


class _ExecuTorchCalls:
    """executorch.runtime; as above."""

    def __init__(self, torch: Any, runtime: Any, path: Path, threads: int, inputs: Sequence[Input]) -> None:
        self.version = set_threads(torch, threads)
        self._torch, self._inputs = torch, list(inputs)
        with native_output_held():
            self._program = runtime.load_program(path)
            self._forward = self._program.load_method("forward")

    def reset(self) -> None:
        """Nothing is kept from one call to the next."""

    def prefill(self, tokens: Sequence[int]) -> None:
        self._forward.execute(tuple(self._torch.from_numpy(example(port, tokens)) for port in self._inputs))

    def step(self) -> None:
        raise RuntimeError(_NO_STEP)


def ort_session(ort: Any, path: Path, threads: int) -> Any:
    """As an app opens it, with that many threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def set_threads(torch: Any, threads: int) -> str:
    """Give ExecuTorch that many threads, and its kernels that call a BLAS library one each; its version."""
    from importlib.metadata import version

    from executorch.extension.pybindings import portable_lib

    from exporter.backends.executorch.threads import one_blas_thread_each

    portable_lib._unsafe_reset_threadpool(threads)
    one_blas_thread_each()
    torch.set_num_threads(1)  # whose threads would come on top
    return f"executorch {version('executorch')}"


def import_ort_calls(inputs: Sequence[Input]) -> Callable[[Path, int, int], Engine]:
    """Imports the runtime; opens a model of these inputs."""
    import onnxruntime

    return lambda path, threads, context: _OrtCalls(onnxruntime, path, threads, inputs)


def import_executorch_calls(inputs: Sequence[Input]) -> Callable[[Path, int, int], Engine]:
    """As above."""
    hush()
    # the kernels of quantised embeddings are in a library of their own
    import executorch.kernels.quantized  # noqa: F401
    import torch
    from executorch.runtime import Runtime

    runtime = Runtime.get()
    return lambda path, threads, context: _ExecuTorchCalls(torch, runtime, path, threads, inputs)
