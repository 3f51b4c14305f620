#!/usr/bin/env python3
"""The peer llama.cpp, built for this machine from llama-cpp-python's source package.

    python scripts/peers/llama_cpp.py install FOLDER                 some minutes with gcc on all processors
    python scripts/peers/llama_cpp.py quantize FOLDER IN.gguf OUT.gguf   all weights in Q4_0: 4.5 bits each
    python scripts/peers/llama_cpp.py quantize FOLDER IN.gguf OUT.gguf "Q5_K_M, token_embd q5_0"
    python scripts/peers/llama_cpp.py serve FOLDER MODEL.gguf --threads N --context N

A format is one of llama.cpp's file types, which mix types of tensors, and where it is written the type of the
table of tokens. `serve` speaks the protocol of exporter.benchmarks.worker. Defaults of llama.cpp are kept: flash
attention where it helps, KV cache in float16, weights repacked for the processor while loading.
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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.benchmarks.machine import available_threads

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PACKAGE = "llama-cpp-python==0.3.36"
TABLE = "token_embd"


@dataclass(frozen=True)
class Format:
    """What llama_model_quantize is asked for."""

    file_type: str  # of llama.cpp's LLAMA_FTYPE_MOSTLY_*
    table: str | None = None  # type of the table of tokens, None: as llama.cpp chooses
    pure: bool = False  # every tensor alike, instead of a mixture

    @classmethod
    def of(cls, written: str) -> Format:
        """ "Q4_K_M" or "Q4_K_M, token_embd q4_0". Raises ValueError for another form."""
        file_type, comma, rest = written.partition(", ")
        word, _, table = rest.partition(" ")
        if not file_type or (comma and (word != TABLE or not table)):
            raise ValueError(f"{written!r}: write FILE_TYPE or 'FILE_TYPE, {TABLE} TYPE'")
        return cls(file_type, table.upper() or None)


SPEED = Format("Q4_0", pure=True)  # the bits of recipes/int4.yaml


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


def quantize(folder: Path, source: Path, target: Path, wanted: Format = SPEED) -> None:
    """Write `target`. From an already quantised file too, where speed is measured.

    Raises SystemExit for a type that this llama.cpp has not, where it fails, and where it chose another type
    for the table than was asked for.
    """
    from gguf import GGMLQuantizationType

    api = bindings(folder)
    parameters = api.llama_model_quantize_default_params()
    try:
        parameters.ftype = getattr(api, f"LLAMA_FTYPE_MOSTLY_{wanted.file_type}")
        if wanted.table:
            parameters.token_embedding_type = GGMLQuantizationType[wanted.table]
    except (AttributeError, KeyError) as problem:
        raise SystemExit(f"{wanted}: {PACKAGE} has no such type ({problem})") from None
    parameters.pure, parameters.allow_requantize = wanted.pure, True
    draft = target.with_name(target.name + ".partial")
    code = api.llama_model_quantize(os.fsencode(source), os.fsencode(draft), ctypes.byref(parameters))
    if code:
        raise SystemExit(f"{source}: llama_model_quantize ended with {code}")
    if wanted.table and (found := tensor_type(folder, draft, f"{TABLE}.weight")) != wanted.table:
        raise SystemExit(f"{source}: {TABLE} became {found}, {wanted.table} was asked for")
    draft.rename(target)


def tensor_type(folder: Path, path: Path, name: str) -> str:
    """The type of a GGUF file's tensor, such as Q5_0, by llama.cpp's own reader: gguf's takes half a minute for
    a vocabulary of 262,144. Raises SystemExit where it is not there."""
    from gguf import GGMLQuantizationType

    class Options(ctypes.Structure):  # gguf_init_params
        _fields_ = (("no_alloc", ctypes.c_bool), ("context", ctypes.c_void_p))

    library = ctypes.CDLL(str(folder / "llama_cpp/lib/libggml-base.so"))
    opened, find, kind = library.gguf_init_from_file, library.gguf_find_tensor, library.gguf_get_tensor_type
    opened.restype, opened.argtypes = ctypes.c_void_p, (ctypes.c_char_p, Options)
    find.restype, find.argtypes = ctypes.c_int64, (ctypes.c_void_p, ctypes.c_char_p)
    kind.restype, kind.argtypes = ctypes.c_int, (ctypes.c_void_p, ctypes.c_int64)
    library.gguf_free.argtypes = (ctypes.c_void_p,)
    file = opened(os.fsencode(path), Options(True, None))
    index = find(file, name.encode()) if file else -1
    if index < 0:
        raise SystemExit(f"{path}: has no tensor {name}" if file else f"{path}: llama.cpp cannot read it")
    found = GGMLQuantizationType(kind(file, index)).name
    library.gguf_free(file)
    return found


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

    def logits(self, tokens: Sequence[int], first: int) -> NDArray[np.float32]:
        """(len(tokens) - first, vocabulary): of every position from `first` on, after an empty cache.

        At most n_batch tokens. Raises RuntimeError where llama_decode fails.
        """
        import numpy as np

        self.reset()
        batch = self._api.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for position, token in enumerate(tokens):
            batch.token[position], batch.pos[position] = token, position
            batch.n_seq_id[position], batch.seq_id[position][0] = 1, 0
            batch.logits[position] = position >= first
        code = self._api.llama_decode(self._context, batch)
        self._api.llama_batch_free(batch)
        if code:
            raise RuntimeError(f"llama_decode of {len(tokens)} tokens ended with {code}")
        rows = self._api.llama_get_logits(self._context)  # asked-for positions only, in their order
        return np.ctypeslib.as_array(rows, shape=(len(tokens) - first, self._vocabulary)).copy()

    def close(self) -> None:
        """Free the model and its memory."""
        self._api.llama_free(self._context)
        self._api.llama_model_free(self._model)


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
        wanted = Format.of(arguments[3]) if len(arguments) > 3 else SPEED
        quantize(*map(Path, arguments[:3]), wanted)
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
