"""The runtimes that qexport writes for, as their users run them. Each opener imports its runtime when called."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from exporter.backends.ort.names import CACHE_TYPES, PAST, PRESENT
from exporter.benchmarks.calls import import_executorch_calls, import_ort_calls, set_threads
from exporter.benchmarks.seq2seq import import_executorch_seq2seq, import_ort_seq2seq
from exporter.benchmarks.worker import Engine, Input, Opener
from exporter.quiet import hush, native_output_held


class _Genai:
    """onnxruntime-genai: shared KV buffers of the whole context, its own greedy search."""

    def __init__(self, genai: Any, folder: Path, threads: int, context: int) -> None:
        from importlib.metadata import version

        self.version = f"onnxruntime-genai {version('onnxruntime-genai')}"
        self._genai = genai
        config = genai.Config(str(folder))
        options = {"session_options": {"intra_op_num_threads": threads}}
        config.overlay(json.dumps({"model": {"decoder": options}}))
        self._model = genai.Model(config)
        self._context = context
        self._generator: Any = None

    def reset(self) -> None:
        self._generator = None  # frees its buffers before the next ones are allocated
        parameters = self._genai.GeneratorParams(self._model)
        # min_length keeps an end-of-text token from ending the measurement
        parameters.set_search_options(
            max_length=self._context, min_length=self._context, do_sample=False, num_beams=1
        )
        self._generator = self._genai.Generator(self._model, parameters)

    def prefill(self, tokens: Sequence[int]) -> None:
        self._generator.append_tokens(np.asarray(tokens, np.int32))
        self._generator.generate_next_token()

    def step(self) -> None:
        self._generator.generate_next_token()


class _OrtSession:
    """onnxruntime alone, its KV buffers bound as past and as present, as onnxruntime-genai does."""

    def __init__(self, ort: Any, folder: Path, threads: int, context: int) -> None:
        self.version = f"onnxruntime {ort.__version__}"
        self._ort, self._context = ort, context
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = ort.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self._caches: dict[str, Any] = {}
        self._length, self._next = 0, 0

    def reset(self) -> None:
        self._length = 0
        self._caches = {
            x.name: self._ort.OrtValue.ortvalue_from_numpy(
                np.zeros((1, x.shape[1], self._context, x.shape[3]), CACHE_TYPES[x.type])
            )
            for x in self._session.get_inputs()
            if x.name.startswith(PAST)
        }

    def prefill(self, tokens: Sequence[int]) -> None:
        self._length += len(tokens)
        binding = self._session.io_binding()
        binding.bind_cpu_input("input_ids", np.asarray([list(tokens)], np.int64))
        binding.bind_cpu_input("attention_mask", np.ones((1, self._length), np.int64))
        for name, buffer in self._caches.items():
            binding.bind_ortvalue_input(name, buffer)
            binding.bind_ortvalue_output(PRESENT + name.removeprefix(PAST), buffer)
        binding.bind_output("logits", "cpu")
        self._session.run_with_iobinding(binding)
        self._next = int(binding.get_outputs()[-1].numpy()[0, -1].argmax())

    def step(self) -> None:
        self.prefill([self._next])


class _ExecuTorch:
    """executorch.runtime: forward(tokens, input_pos), the signature of ExecuTorch's own LLM runner."""

    def __init__(self, torch: Any, runtime: Any, path: Path, threads: int) -> None:
        self.version = set_threads(torch, threads)
        self._torch = torch
        with native_output_held():
            self._program = runtime.load_program(path)
            self._forward = self._program.load_method("forward")
            self._longest = int(self._constant("get_max_seq_len", 2**31))
        self._position, self._next = 0, 0

    def _constant(self, name: str, otherwise: int) -> int:
        if name not in self._program.method_names:
            return otherwise
        return int(self._program.load_method(name).execute(())[0])

    def reset(self) -> None:
        self._position = 0

    def prefill(self, tokens: Sequence[int]) -> None:
        for first in range(0, len(tokens), self._longest):  # a program may take shorter pieces only
            piece = list(tokens[first : first + self._longest])
            ids = self._torch.tensor([piece], dtype=self._torch.long)
            (logits,) = self._forward.execute((ids, self._torch.tensor([self._position])))
            self._position += len(piece)
        self._next = int(logits.reshape(-1, logits.shape[-1])[-1].argmax())

    def step(self) -> None:
        self.prefill([self._next])


def _import_genai() -> Callable[[Path, int, int], Engine]:
    import onnxruntime_genai

    return lambda path, threads, context: _Genai(onnxruntime_genai, path, threads, context)


def _import_ort_session() -> Callable[[Path, int, int], Engine]:
    import onnxruntime

    return lambda path, threads, context: _OrtSession(onnxruntime, path, threads, context)


def _import_executorch() -> Callable[[Path, int, int], Engine]:
    hush()
    # the kernels of the LLM operators and of quantised embeddings are in libraries of their own
    import executorch.extension.llm.custom_ops.custom_ops
    import executorch.kernels.quantized  # noqa: F401
    import torch
    from executorch.runtime import Runtime

    runtime = Runtime.get()
    return lambda path, threads, context: _ExecuTorch(torch, runtime, path, threads)


ENGINES: dict[str, Opener] = {
    "executorch": _import_executorch,
    "onnxruntime": _import_ort_session,
    "onnxruntime-genai": _import_genai,
}
ENGINES_OF_INPUTS: dict[str, Callable[[Sequence[Input]], Callable[[Path, int, int], Engine]]] = {
    "executorch-calls": import_executorch_calls,
    "executorch-seq2seq": import_executorch_seq2seq,
    "onnxruntime-calls": import_ort_calls,
    "onnxruntime-seq2seq": import_ort_seq2seq,
}
