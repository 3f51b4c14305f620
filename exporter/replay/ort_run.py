"""ONNX Runtime in a process of its own, as et_run.cpp is for ExecuTorch: the ARM one, under emulation, or this host's.

    python -m exporter.replay.ort_run NAME=FILE…        FILE: .onnx or .ort

A call's method is a NAME; inputs and outputs go by the graph's names.
"""

from __future__ import annotations

import os
import sys
import time
from typing import IO, Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from exporter.replay.protocol import Empty, Kept, read, write

_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int8)": np.int8}


def main() -> int:
    """Answers until its input ends; 1 after what went wrong."""
    asked = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    try:
        sessions = {
            name: _session(path) for name, _, path in (given.partition("=") for given in sys.argv[1:])
        }
        kept: dict[str, Any] = {}
        while line := asked.readline():
            _answer(line.decode().split(), asked, answers, sessions, kept)
            answers.flush()
    except Exception as problem:  # ONNX Runtime's share no base but Exception
        answers.write(f"error {type(problem).__name__}: {' '.join(str(problem).split())}\n".encode())
        answers.flush()
        return 1
    return 0


def _session(path: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _answer(
    words: list[str],
    asked: IO[bytes],
    answers: IO[bytes],
    sessions: dict[str, onnxruntime.InferenceSession],
    kept: dict[str, Any],
) -> None:
    method, wanted, count = words[0], words[1].split(","), int(words[2])
    session = sessions[method]
    feeds = {}
    for _ in range(count):
        name, value = read(asked)
        if isinstance(value, Kept):
            feeds[name] = kept[value.key]
        else:
            array = _empty(session, name, value.length) if isinstance(value, Empty) else value
            feeds[name] = onnxruntime.OrtValue.ortvalue_from_numpy(array)
    names = [output.name for output in session.get_outputs()]
    start = time.perf_counter()
    found = dict(zip(names, session.run_with_ort_values(names, feeds), strict=True))
    seconds = time.perf_counter() - start
    kept |= {f"{method}.{name}": value for name, value in found.items() if name not in wanted}
    given = [name for name in names if name in wanted]
    answers.write(f"ok {seconds:.6f} {len(given)}\n".encode())
    for name in given:
        write(answers, name, np.ascontiguousarray(found[name].numpy()))


def _empty(session: onnxruntime.InferenceSession, name: str, length: int) -> NDArray[Any]:
    port = next(port for port in session.get_inputs() if port.name == name)
    sizes = [size if isinstance(size, int) else length for size in port.shape[1:]]
    return np.zeros((1, *sizes), _TYPES[port.type])


if __name__ == "__main__":
    sys.exit(main())
