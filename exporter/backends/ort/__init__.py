"""ONNX Runtime: MatMulNBits, GatherBlockQuantized and GroupQueryAttention in one folder that
onnxruntime-genai loads as it is. Light to import; each verb loads what it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from exporter.backends.base import (
    ActivationMode,
    Backend,
    MarkedRunner,
    ModuleRunner,
    PackedLayer,
    ProgramRunner,
    Progress,
    Seq2SeqRunner,
    Target,
)
from exporter.backends.ort import capabilities
from exporter.layers import CacheShape, LayerInfo
from exporter.schemes import QuantScheme
from exporter.tasks import SPECS

if TYPE_CHECKING:
    from exporter.models.skeleton import Skeleton


class OrtBackend:
    """The verbs of exporter.backends.base.Backend."""

    name = "onnxruntime"
    folder = "onnxruntime"
    float_activations = True

    def unsupported(self, layer: LayerInfo, scheme: QuantScheme, target: Target) -> str | None:
        """Why this layer cannot run with this scheme on this target, or None."""
        return capabilities.unsupported(layer, scheme, target)

    def layer_bytes(self, layer: LayerInfo, scheme: QuantScheme, target: Target) -> int:
        """Bytes that the layer takes in model.onnx.data."""
        return capabilities.layer_bytes(layer, scheme, target)

    def unsupported_cache(self, target: Target, cache: Sequence[CacheShape]) -> str | None:
        """Why this target cannot hold such a KV cache, or None."""
        return capabilities.unsupported_cache(target, cache)

    def cache_bytes(self, target: Target, cache: Sequence[CacheShape]) -> int:
        """Bytes of the KV cache at max_context, batch 1."""
        return capabilities.cache_bytes(target, cache)

    def cache_scales(self, folder: Path) -> Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Scales of an int8 KV cache, per layer; empty where it is float."""
        from exporter.backends.ort.cache import scales

        return scales(folder)

    def lower(
        self, skeleton: Skeleton, target: Target, folder: Path, progress: Progress
    ) -> Mapping[str, object]:
        """Write the folder. Raises TraceError, LoweringError."""
        if SPECS[skeleton.task].family == "encoder-decoder":
            from exporter.backends.ort.seq2seq import lower_seq2seq

            return lower_seq2seq(skeleton, target, folder, progress)
        if SPECS[skeleton.task].family in ("encoder", "vision"):
            from exporter.backends.ort.programs import lower_programs

            return lower_programs(skeleton, target, folder, progress)
        from exporter.backends.ort.lowering import lower

        return lower(skeleton, target, folder, progress)

    def open_text(self, folder: Path, activations: ActivationMode = "as-shipped") -> MarkedRunner:
        """Open a language model. Raises ArtifactError."""
        from exporter.backends.ort.running import open_text

        return open_text(folder, activations)

    def open_seq2seq(self, folder: Path, activations: ActivationMode = "as-shipped") -> Seq2SeqRunner:
        """Open an encoder-decoder model. Raises ArtifactError."""
        from exporter.backends.ort.seq2seq_running import open_seq2seq

        return open_seq2seq(folder, activations)

    def open_program(
        self, folder: Path, name: str, activations: ActivationMode = "as-shipped"
    ) -> ProgramRunner:
        """Open one program of an encoder. Raises ArtifactError."""
        from exporter.backends.ort.programs import open_program

        return open_program(folder, name, activations)

    def open_module(self, folder: Path, activations: ActivationMode = "as-shipped") -> ModuleRunner:
        """Open any other model. Raises ArtifactError."""
        from exporter.backends.ort.running import open_module

        return open_module(folder, activations)

    def read_back(self, folder: Path) -> dict[str, PackedLayer]:
        """Every quantised layer found in the files. Raises ArtifactError."""
        from exporter.backends.ort.reading import read_back

        return read_back(folder)

    def layer_outputs(
        self, folder: Path, names: Sequence[str], tokens: Sequence[int]
    ) -> dict[str, NDArray[np.float32]]:
        """Outputs of the named linear layers on one prompt. Raises ArtifactError."""
        from exporter.backends.ort.running import layer_outputs

        return layer_outputs(folder, names, tokens)


BACKEND: Backend = OrtBackend()
