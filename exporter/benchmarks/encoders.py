"""Encoders in the runtimes that qexport writes for: a call is one example, there is nothing to generate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.benchmarks.worker import Engine, Opener
from exporter.quiet import hush, native_stderr_held

_NO_STEP = "an encoder gives everything at once; there is no next token"
_TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32}


class _OrtEncoder:
    """onnxruntime, inputs by name; `prefill` is one call on that many tokens, or on one picture."""

    def __init__(self, ort: Any, folder: Path, threads: int) -> None:
        self.version = f"onnxruntime {ort.__version__}"
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = ort.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self._inputs = [(x.name, x.shape, _TYPES[x.type]) for x in self._session.get_inputs()]

    def reset(self) -> None:
        """Nothing is kept from one call to the next."""

    def prefill(self, tokens: Sequence[int]) -> None:
        lengths = {"batch_size": 1, "sequence_length": len(tokens)}
        feeds = {}
        for name, shape, kind in self._inputs:
            sizes = [size if isinstance(size, int) else lengths[size] for size in shape]
            feeds[name] = _example(name, sizes, kind, tokens)
        self._session.run(None, feeds)

    def step(self) -> None:
        raise RuntimeError(_NO_STEP)


class _ExecuTorchEncoder:
    """executorch.runtime; as above."""

    def __init__(self, torch: Any, runtime: Any, path: Path, threads: int) -> None:
        from importlib.metadata import version

        from executorch.extension.pybindings import portable_lib

        portable_lib._unsafe_reset_threadpool(threads)
        torch.set_num_threads(1)  # its kernels call PyTorch's library here, whose threads would come on top
        self.version = f"executorch {version('executorch')}"
        self._torch = torch
        with native_stderr_held():
            self._program = runtime.load_program(path)
            self._forward = self._program.load_method("forward")
            names = self._program.load_method("get_inputs_forward").execute(())[0].split()
        meta = self._forward.metadata
        self._inputs = [(name, meta.input_tensor_meta(i).sizes()) for i, name in enumerate(names)]

    def reset(self) -> None:
        """Nothing is kept from one call to the next."""

    def prefill(self, tokens: Sequence[int]) -> None:
        given = []
        for name, sizes in self._inputs:
            is_text = len(sizes) == 2
            shape = (1, len(tokens)) if is_text else tuple(sizes)
            kind: type = np.int64 if is_text else np.float32
            given.append(self._torch.from_numpy(_example(name, shape, kind, tokens)))
        self._forward.execute(tuple(given))

    def step(self) -> None:
        raise RuntimeError(_NO_STEP)


def _example(name: str, shape: Sequence[int], kind: type, tokens: Sequence[int]) -> NDArray[Any]:
    if name == "input_ids":
        return np.asarray([list(tokens)], kind)
    return np.zeros(shape, kind) if name == "token_type_ids" else np.ones(shape, kind)


def _import_ort() -> Callable[[Path, int, int], Engine]:
    import onnxruntime

    return lambda path, threads, context: _OrtEncoder(onnxruntime, path, threads)


def _import_executorch() -> Callable[[Path, int, int], Engine]:
    hush()
    # the kernels of quantised embeddings are in a library of their own
    import executorch.kernels.quantized  # noqa: F401
    import torch
    from executorch.runtime import Runtime

    runtime = Runtime.get()
    return lambda path, threads, context: _ExecuTorchEncoder(torch, runtime, path, threads)


ENCODER_ENGINES: dict[str, Opener] = {
    "executorch-encoder": _import_executorch,
    "onnxruntime-encoder": _import_ort,
}
