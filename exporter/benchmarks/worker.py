"""One model in one runtime in a process of its own: told what to do line by line, in JSON.

    python -m exporter.benchmarks.worker ENGINE PATH --threads N --context N

A fresh process is the only honest place for memory and start-up; and a runtime's threads that still
spin after a step are not those of the runtime measured next.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Protocol, TextIO

from exporter.benchmarks.machine import forget_peak, own_memory

Input = tuple[str, str, Sequence[int | str]]  # name, type, shape whose texts name axes

_LONG = 0.5  # seconds: what takes as long is timed once, everything else repeated for as long
_MOST_CALLS = 100


class Engine(Protocol):
    """A model, batch 1, greedy; one that generates nothing has no steps."""

    version: str  # of the runtime, for the table

    def reset(self) -> None:
        """Empty the KV cache and allocate what the next prompt needs; not part of any time."""

    def prefill(self, tokens: Sequence[int]) -> None:
        """Append a prompt to the empty cache and choose the token behind it."""

    def step(self) -> None:
        """Append the token chosen last and choose the next one."""


Opener = Callable[[], Callable[[Path, int, int], Engine]]  # imports the runtime; then opens a model


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve one of the runtimes that qexport writes for."""
    from exporter.benchmarks.engines import ENGINES, ENGINES_OF_INPUTS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", choices=sorted({**ENGINES, **ENGINES_OF_INPUTS}))
    parser.add_argument("--inputs", type=json.loads, help="of models that are told what they are given")
    path, threads, context, rest = worker_arguments(parser, arguments)
    if rest.inputs is None:
        opener = ENGINES[rest.engine]
    else:
        opener = partial(ENGINES_OF_INPUTS[rest.engine], [tuple(port) for port in rest.inputs])
    serve(opener, path, threads, context)


def worker_arguments(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None
) -> tuple[Path, int, int, argparse.Namespace]:
    """Path of the model, threads, context, and whatever else the parser knows."""
    parser.add_argument("path", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--context", type=int, required=True)
    found = parser.parse_args(arguments)
    return found.path, found.threads, found.context, found


def serve(opener: Opener, path: Path, threads: int, context: int) -> None:
    """Answer requests on stdin until it ends. What native libraries print on stdout goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    session = _Session(opener, path, threads, context)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            _answer(answers, {"ok": session.handle(**request)})
        except Exception as problem:
            lines = str(problem).strip().splitlines() or [type(problem).__name__]
            _answer(answers, {"error": lines[-1].strip()})


def _answer(stream: TextIO, content: dict[str, Any]) -> None:
    stream.write(json.dumps(content) + "\n")
    stream.flush()


class _Session:
    """The verbs of the protocol."""

    def __init__(self, opener: Opener, path: Path, threads: int, context: int) -> None:
        self._opener, self._place = opener, (path, threads, context)
        self._engine: Engine | None = None

    def handle(self, do: str, **details: Any) -> dict[str, Any]:
        """load, prefill, decode or memory."""
        verbs: dict[str, Callable[..., dict[str, Any]]] = {
            "load": self._load,
            "prefill": self._prefill,
            "decode": self._decode,
            "memory": lambda: asdict(own_memory()),
        }
        return verbs[do](**details)

    def _load(self) -> dict[str, Any]:
        """Imports are not timed: an app has its runtime linked in."""
        open_model = self._opener()
        forget_peak()
        before = own_memory()
        started = time.perf_counter()
        self._engine = open_model(*self._place)
        seconds = time.perf_counter() - started
        return {
            "seconds": seconds,
            "before": asdict(before),
            "after": asdict(own_memory()),
            "version": self._engine.version,
        }

    def _prefill(self, tokens: list[int], steady: bool) -> dict[str, Any]:
        """Seconds of one prompt or call; `steady`: where short, the middle of several, the first left out."""
        engine = self._opened()

        def once() -> float:
            engine.reset()
            started = time.perf_counter()
            engine.prefill(tokens)
            return time.perf_counter() - started

        first = once()
        if not steady or first >= _LONG:
            return {"seconds": first}
        times = [once()]
        while sum(times) < _LONG and len(times) < _MOST_CALLS:
            times.append(once())
        return {"seconds": median(times)}

    def _decode(self, tokens: list[int], steps: int) -> dict[str, Any]:
        """Seconds of `steps` steps behind a prompt; the first step, which may still warm up, is not timed."""
        engine = self._opened()
        engine.reset()
        engine.prefill(tokens[:-1])
        engine.step()
        started = time.perf_counter()
        for _ in range(steps):
            engine.step()
        return {"seconds": time.perf_counter() - started}

    def _opened(self) -> Engine:
        if self._engine is None:
            raise RuntimeError("load comes first")
        return self._engine


if __name__ == "__main__":
    main()
