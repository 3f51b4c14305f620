#!/usr/bin/env python3
"""The peer llama.cpp, built for this machine from llama-cpp-python's source package.

    python scripts/peers/llama_cpp.py install FOLDER                 some minutes with gcc on all processors
    python scripts/peers/llama_cpp.py quantize FOLDER IN.gguf OUT.gguf   all weights in Q4_0: 4.5 bits each
    python scripts/peers/llama_cpp.py serve FOLDER MODEL.gguf --threads N --context N

`serve` speaks the protocol of exporter.benchmarks.worker. Defaults of llama.cpp are kept: flash attention
where it helps, KV cache in float16, weights repacked for the processor while loading.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import os
import subprocess
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from exporter.benchmarks.machine import available_threads

PACKAGE = "llama-cpp-python==0.3.36"
_Q4_0 = 2  # LLAMA_FTYPE_MOSTLY_Q4_0


def install(folder: Path) -> None:
    """Download the source package and compile it with the instructions of this processor; pip brings cmake
    and ninja. Raises SystemExit where pip fails."""
    flags = "-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF"
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-binary", "llama-cpp-python"]
    code = subprocess.run(
        [*command, "--disable-pip-version-check", "--target", folder, PACKAGE],
        env={
            "CMAKE_BUILD_PARALLEL_LEVEL": str(available_threads()),
            **os.environ,
            "CMAKE_ARGS": flags,
        },
    ).returncode
    if code:
        raise SystemExit(f"{PACKAGE} could not be compiled, pip ended with {code}")


def bindings(folder: Path) -> Any:
    """Its ctypes bindings, without the package's own front end, which needs more packages."""
    package = types.ModuleType("llama_cpp")
    package.__path__ = [str(folder / "llama_cpp")]
    sys.modules["llama_cpp"] = package
    return importlib.import_module("llama_cpp.llama_cpp")


def quantize(folder: Path, source: Path, target: Path) -> None:
    """Every weight in Q4_0, the table too, so that the bits are those of recipes/int4.yaml.

    From an already quantised file too: what is measured here is speed.
    """
    api = bindings(folder)
    parameters = api.llama_model_quantize_default_params()
    parameters.ftype, parameters.pure, parameters.allow_requantize = _Q4_0, True, True
    draft = target.with_name(target.name + ".partial")
    code = api.llama_model_quantize(os.fsencode(source), os.fsencode(draft), ctypes.byref(parameters))
    if code:
        raise SystemExit(f"{source}: llama_model_quantize ended with {code}")
    draft.rename(target)


class Engine:
    """exporter.benchmarks.worker.Engine over llama_decode."""

    def __init__(self, api: Any, path: Path, threads: int, context: int) -> None:
        self.version = f"llama.cpp ({PACKAGE.replace('==', ' ')})"
        self._api = api
        self._model = api.llama_model_load_from_file(os.fsencode(path), api.llama_model_default_params())
        if not self._model:
            raise RuntimeError(f"{path}: llama.cpp does not load it")
        parameters = api.llama_context_default_params()
        parameters.n_ctx = context
        parameters.n_threads = parameters.n_threads_batch = threads
        self._batch = int(parameters.n_batch)
        self._context = api.llama_init_from_model(self._model, parameters)
        self._vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self._model))
        self._next = 0

    def reset(self) -> None:
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), False)

    def prefill(self, tokens: Sequence[int]) -> None:
        import numpy as np

        for first in range(0, len(tokens), self._batch):
            piece = tokens[first : first + self._batch]
            array = (ctypes.c_int32 * len(piece))(*piece)
            code = self._api.llama_decode(self._context, self._api.llama_batch_get_one(array, len(piece)))
            if code:
                raise RuntimeError(f"llama_decode ended with {code}")
        logits = self._api.llama_get_logits_ith(self._context, -1)
        self._next = int(np.ctypeslib.as_array(logits, shape=(self._vocabulary,)).argmax())

    def step(self) -> None:
        self.prefill([self._next])


def opener(folder: Path) -> Callable[[], Callable[[Path, int, int], Engine]]:
    """What exporter.benchmarks.worker.serve takes."""

    def load() -> Callable[[Path, int, int], Engine]:
        import numpy  # noqa: F401  before the memory is measured

        api = bindings(folder)
        api.llama_backend_init()
        return lambda path, threads, context: Engine(api, path, threads, context)

    return load


def main() -> None:
    verb, arguments = sys.argv[1], sys.argv[2:]
    if verb == "install":
        install(Path(arguments[0]))
    elif verb == "quantize":
        quantize(*map(Path, arguments))
    elif verb == "serve":
        from exporter.benchmarks.worker import serve, worker_arguments

        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("folder", type=Path)
        path, threads, context, rest = worker_arguments(parser, arguments)
        serve(opener(rest.folder), path, threads, context)
    else:
        raise SystemExit(f"{verb}: say install, quantize or serve")


if __name__ == "__main__":
    main()
