"""Encoder-decoder models in the runtimes that qexport writes for.

A prompt is one example for the encoder and the token that starts every answer; a step is the next token of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.backends.base import Seq2SeqRunner
from exporter.benchmarks.calls import example, ort_session, set_threads
from exporter.benchmarks.worker import Engine, Input
from exporter.quiet import hush

_FIRST = 0  # any token: what it is changes no time


class _Seq2Seq:
    """A runner of a backend, asked greedily."""

    def __init__(self, version: str, runner: Seq2SeqRunner, inputs: Sequence[Input]) -> None:
        self.version = version
        self._runner, self._inputs, self._next = runner, list(inputs), _FIRST

    def reset(self) -> None:
        """The runner forgets everything when it encodes."""

    def prefill(self, tokens: Sequence[int]) -> None:
        given: dict[str, NDArray[Any]] = {port[0]: example(port, tokens) for port in self._inputs}
        self._runner.encode(given)
        self._next = _FIRST
        self.step()

    def step(self) -> None:
        self._next = int(np.argmax(self._runner.forward([self._next])[-1]))


def import_ort_seq2seq(inputs: Sequence[Input]) -> Callable[[Path, int, int], Engine]:
    """Imports the runtime; opens a model whose encoder takes these inputs."""
    import onnxruntime

    from exporter.backends.ort.seq2seq_running import OrtSeq2SeqRunner

    def opened(path: Path, threads: int, context: int) -> Engine:
        names = ("encoder.onnx", "decoder.onnx")
        runner = OrtSeq2SeqRunner(*(ort_session(onnxruntime, path / name, threads) for name in names))
        return _Seq2Seq(f"onnxruntime {onnxruntime.__version__}", runner, inputs)

    return opened


def import_executorch_seq2seq(inputs: Sequence[Input]) -> Callable[[Path, int, int], Engine]:
    """As above."""
    hush()
    import torch

    from exporter.backends.executorch.seq2seq_running import open_seq2seq

    def opened(path: Path, threads: int, context: int) -> Engine:
        return _Seq2Seq(set_threads(torch, threads), open_seq2seq(path), inputs)

    return opened
