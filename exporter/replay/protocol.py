"""How a runtime in a process of its own is asked, on its standard streams: et_run.cpp says what is written there.

Imports NumPy only, since the ARM Python has nothing else.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

TYPES = {
    "f32": np.float32,
    "f16": np.float16,
    "i64": np.int64,
    "i32": np.int32,
    "i8": np.int8,
    "u8": np.uint8,
    "b8": np.bool_,
}
_NAMES = {np.dtype(kind): name for name, kind in TYPES.items()}
_LOGGED = 6  # last lines of what a process logged, in a message


@dataclass(frozen=True)
class Kept:
    """In an input's place: what an earlier call left in the process, METHOD.OUTPUT."""

    key: str


@dataclass(frozen=True)
class Empty:
    """In an input's place, ONNX Runtime only: zeros of the graph's own type and shape, batch 1, other axes that may
    vary `length` long. A cache before the first token."""

    length: int


Input = NDArray[Any] | Kept | Empty


class ProcessFailed(Exception):
    """The process refused a call or ended; the message is its own."""


def write(stream: IO[bytes], name: str, value: Input) -> None:
    """One tensor with its name."""
    if isinstance(value, Kept):
        stream.write(f"{name} kept {value.key}\n".encode())
        return
    if isinstance(value, Empty):
        stream.write(f"{name} empty {value.length}\n".encode())
        return
    value = np.asarray(value)  # not ascontiguousarray, which makes a row of a single number
    sizes = "".join(f" {size}" for size in value.shape)
    stream.write(f"{name} {_NAMES[value.dtype]} {value.ndim}{sizes}\n".encode() + value.tobytes())


def read(stream: IO[bytes]) -> tuple[str, Input]:
    """One tensor with its name."""
    name, kind, *rest = stream.readline().decode().split()
    if kind == "kept":
        return name, Kept(rest[0])
    if kind == "empty":
        return name, Empty(int(rest[0]))
    sizes = tuple(map(int, rest[1:]))
    dtype = np.dtype(TYPES[kind])
    data = stream.read(int(np.prod(sizes, dtype=np.int64)) * dtype.itemsize)
    return name, np.frombuffer(data, dtype).reshape(sizes)


class Remote:
    """A runtime in another process; a context manager that ends it."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed in __exit__
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, env=environment
        )
        assert self._process.stdin and self._process.stdout
        self._asks, self._answers = self._process.stdin, self._process.stdout
        self.seconds = 0.0  # within the runtime, of all calls

    def call(self, method: str, inputs: Mapping[str, Input], wanted: Sequence[str]) -> list[NDArray[Any]]:
        """The wanted outputs, in the order of the runtime; the process keeps the others. Raises ProcessFailed."""
        try:
            self._asks.write(f"{method} {','.join(wanted) or '-'} {len(inputs)}\n".encode())
            for name, value in inputs.items():
                write(self._asks, name, value)
            self._asks.flush()
        except BrokenPipeError:
            pass  # it has ended; its answer says why
        words = self._answers.readline().decode(errors="replace").split(maxsplit=2)
        if not words or words[0] != "ok":
            raise ProcessFailed(self._reason(words))
        self.seconds += float(words[1])
        found = [read(self._answers)[1] for _ in range(int(words[2]))]
        return [value for value in found if isinstance(value, np.ndarray)]

    def _reason(self, words: Sequence[str]) -> str:
        """What it answered, else how it ended; and the end of its log."""
        code = self._process.wait()
        said = " ".join(words[1:]) if words else f"the process ended with exit code {code} and no answer"
        self._log.seek(0)
        logged = self._log.read().decode(errors="replace").splitlines()[-_LOGGED:]
        return "\n  ".join([said, *logged])

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self._asks, self._answers):
            with contextlib.suppress(BrokenPipeError):  # what was not sent
                stream.close()
        self._process.kill()
        self._process.wait()
        self._log.close()
