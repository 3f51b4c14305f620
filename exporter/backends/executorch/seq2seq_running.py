"""Run the methods `encoder` and `text_decoder` of a .pte with ExecuTorch's own runtime on this host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from exporter.backends.executorch.running import _load
from exporter.backends.executorch.seq2seq import DECODER, ENCODER
from exporter.backends.executorch.threads import one_thread_in_torch
from exporter.errors import ArtifactError
from exporter.models.seq2seq import MASK
from exporter.quiet import native_output_held


class ExecuTorchSeq2Seq:
    """An encoder-decoder model in ExecuTorch (backends.base.Seq2SeqRunner); gives the last token's logits."""

    full_logits = False

    def __init__(self, path: Path) -> None:
        self._path = path
        with native_output_held():  # the CPU's description, line by line
            self._program = _load(path)  # kept: the methods read from its memory
            self._encoder = self._program.load_method(ENCODER)
            self._decoder = self._program.load_method(DECODER)
            self.max_context = int(self._program.load_method("get_max_context_len").execute(())[0])
            self._piece = int(self._program.load_method("get_max_seq_len").execute(())[0])
        self._encoded: torch.Tensor | None = None
        self._position = 0

    def encode(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        """Run the encoder, batch 1, and forget every token. A mask is not wanted: nothing is padded."""
        given = [torch.from_numpy(np.ascontiguousarray(x)) for name, x in inputs.items() if name != MASK]
        with native_output_held(), one_thread_in_torch():
            (found,) = self._encoder.execute(tuple(given))
        self._encoded = found.clone()  # the methods share one arena, where the next call writes
        self.reset()

    def reset(self) -> None:
        """Forget every token; the encoder's work stays."""
        self._position = 0

    def forward(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Append tokens; logits of shape (1, vocabulary) after the last one.

        Raises ArtifactError before encode() and when the tokens do not fit into the cache.
        """
        end = self._position + len(tokens)
        if self._encoded is None or not tokens or end > self.max_context:
            raise ArtifactError(
                f"{self._path}: {len(tokens)} tokens at position {self._position} cannot be run; encode() comes first, "
                f"and the program holds 1 to {self.max_context} tokens"
            )
        ids = torch.tensor([list(tokens)], dtype=torch.long)
        for piece in torch.split(ids, self._piece, dim=1):
            with one_thread_in_torch():
                (logits,) = self._decoder.execute((piece, self._encoded, torch.tensor([self._position])))
            self._position += piece.shape[1]
        result: NDArray[np.float32] = logits.numpy().copy()  # the runtime reuses its output's memory
        return result


def open_seq2seq(path: Path) -> ExecuTorchSeq2Seq:
    """Open what lower_seq2seq wrote. Raises ArtifactError where it is missing or does not load."""
    return ExecuTorchSeq2Seq(path)
