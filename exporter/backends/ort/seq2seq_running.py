"""Run encoder.onnx and decoder.onnx, batch 1, the cache of self attention from step to step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from exporter.backends.base import ActivationMode
from exporter.backends.ort.running import open_session
from exporter.errors import ArtifactError

_PRESENT, _PAST = "present_", "past_"
_MASK, _ENCODER_MASK = "attention_mask", "encoder_attention_mask"


class OrtSeq2SeqRunner:
    """An encoder-decoder model in ONNX Runtime (backends.base.Seq2SeqRunner)."""

    full_logits = True

    def __init__(self, encoder: onnxruntime.InferenceSession, decoder: onnxruntime.InferenceSession) -> None:
        self._encoder, self._decoder = encoder, decoder
        self._encoder_outputs = [x.name for x in encoder.get_outputs()]
        self._encoder_inputs = {x.name for x in encoder.get_inputs()}
        self._outputs = [x.name for x in decoder.get_outputs()]
        own = [x for x in decoder.get_inputs() if "_self_" in x.name]
        self._empty = {
            x.name: onnxruntime.OrtValue.ortvalue_from_numpy(
                np.zeros((1, x.shape[1], 0, x.shape[3]), np.float32)
            )
            for x in own
        }
        self._needs_mask = any(x.name == _ENCODER_MASK for x in decoder.get_inputs())
        self._cross: dict[str, Any] = {}
        self._past: dict[str, Any] = dict(self._empty)

    def encode(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        """Run the encoder, batch 1, and forget every token. Raises ArtifactError for an input that is missing."""
        missing = sorted(self._encoder_inputs - set(inputs))
        if missing:
            raise ArtifactError(
                f"the encoder wants {', '.join(missing)}; given are {', '.join(sorted(inputs))}"
            )
        value = onnxruntime.OrtValue.ortvalue_from_numpy
        feeds = {name: value(np.ascontiguousarray(inputs[name])) for name in self._encoder_inputs}
        wanted = [name for name in self._encoder_outputs if name.startswith(_PRESENT)]
        found = self._encoder.run_with_ort_values(wanted, feeds)
        self._cross = {_PAST + name.removeprefix(_PRESENT): x for name, x in zip(wanted, found, strict=True)}
        if self._needs_mask:
            self._cross[_ENCODER_MASK] = feeds[_MASK]
        self.reset()

    def reset(self) -> None:
        """Forget every token; the encoder's work stays."""
        self._past = dict(self._empty)

    def forward(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Append tokens; logits (len(tokens), vocabulary)."""
        ids = onnxruntime.OrtValue.ortvalue_from_numpy(np.asarray([list(tokens)], np.int64))
        feeds = {"input_ids": ids, **self._past, **self._cross}
        logits, *present = self._decoder.run_with_ort_values(self._outputs, feeds)
        self._past = {
            _PAST + name.removeprefix(_PRESENT): x for name, x in zip(self._outputs[1:], present, strict=True)
        }
        rows: NDArray[np.float32] = logits.numpy()[0]
        return rows


def open_seq2seq(folder: Path, activations: ActivationMode = "as-shipped") -> OrtSeq2SeqRunner:
    """Open what lower_seq2seq wrote. Raises ArtifactError where it is missing or does not load."""
    return OrtSeq2SeqRunner(
        open_session(folder, activations, name="encoder.onnx"),
        open_session(folder, activations, name="decoder.onnx"),
    )
