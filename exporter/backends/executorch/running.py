"""Run model.pte with ExecuTorch's own runtime on this host."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import executorch.extension.llm.custom_ops.custom_ops  # registers llama::custom_sdpa, update_cache
import executorch.kernels.quantized  # noqa: F401  registers embedding_4bit, embedding_byte
import numpy as np
import torch
from executorch.runtime import Runtime
from numpy.typing import NDArray

from exporter.backends.executorch.threads import one_blas_thread_each, one_thread_in_torch
from exporter.errors import ArtifactError
from exporter.quiet import native_output_held


def _load(path: Path) -> Any:
    """The program. Raises ArtifactError when the file is missing or no program."""
    if not path.is_file():
        raise ArtifactError(f"{path}: is missing; run the recipe again")
    try:
        return Runtime.get().load_program(path)
    except RuntimeError as problem:
        raise ArtifactError(
            f"{path}: ExecuTorch does not load it ({problem}); run the recipe again"
        ) from problem


def missing_kernels(operators: Iterable[str]) -> list[str]:
    """Those of the program's operators that ExecuTorch's runtime has no kernel for."""
    return sorted(set(operators) - Runtime.get().operator_registry.operator_names)


class ExecuTorchText:
    """A language model in ExecuTorch (backends.base.TextRunner); gives the last token's logits only."""

    full_logits = False

    def __init__(self, path: Path) -> None:
        self._path = path
        one_blas_thread_each()
        with native_output_held():  # the CPU's description, line by line
            self._program = _load(path)  # kept: the methods read from its memory
            self._forward = self._program.load_method("forward")
            self.max_context = int(self._program.load_method("get_max_context_len").execute(())[0])
            self._piece = int(self._program.load_method("get_max_seq_len").execute(())[0])
            self._position = self._marked = 0
            self.forward([0])  # some kernels describe the CPU at their first call
        self.reset()

    def reset(self) -> None:
        """Start over: positions behind the first token are overwritten before they are read."""
        self._position = self._marked = 0

    def mark(self) -> None:
        """See MarkedRunner."""
        self._marked = self._position

    def rewind(self) -> bool:
        """See MarkedRunner. A sliding window's ring has room for a piece behind its window: what came after the mark
        has overwritten nothing that the window still needs, as long as it was no more than that."""
        if not 0 <= self._position - self._marked <= self._piece:
            return False
        self._position = self._marked
        return True

    def forward(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Append tokens to the KV cache; logits of shape (1, vocabulary) after the last one.

        Raises ArtifactError when the tokens do not fit into the cache.
        """
        end = self._position + len(tokens)
        if not tokens or end > self.max_context:
            raise ArtifactError(
                f"{self._path}: {len(tokens)} tokens at position {self._position} do not fit; the program holds "
                f"1 to {self.max_context} tokens, set the target's max_context higher"
            )
        ids = torch.tensor([list(tokens)], dtype=torch.long)
        for piece in torch.split(ids, self._piece, dim=1):
            with one_thread_in_torch():
                (logits,) = self._forward.execute((piece, torch.tensor([self._position])))
            self._position += piece.shape[1]
        result: NDArray[np.float32] = logits.numpy().copy()  # the runtime reuses its output's memory
        return result


class ExecuTorchModule:
    """Any other model in ExecuTorch (backends.base.ModuleRunner)."""

    def __init__(self, path: Path) -> None:
        self._program = _load(path)
        self._forward = self._program.load_method("forward")

    def run(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Positional inputs -> outputs in the order of the traced module."""
        tensors = tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in inputs)
        return [output.numpy().copy() for output in self._forward.execute(tensors)]
