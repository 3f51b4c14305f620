"""ExecuTorch with the XNNPACK delegate: one model.pte that ExecuTorch's own runners load.

Imports nothing heavy: a plan asks `unsupported` and `layer_bytes` without loading torch.
"""

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
)
from exporter.backends.executorch import capabilities
from exporter.errors import ArtifactError
from exporter.layers import CacheShape, LayerInfo
from exporter.schemes import QuantScheme
from exporter.targets import Target
from exporter.tasks import SPECS

if TYPE_CHECKING:
    from exporter.models.skeleton import Skeleton

PROGRAM_FILE = "model.pte"


class ExecuTorchBackend:
    """See exporter.backends.base.Backend."""

    name = "executorch"
    folder = "executorch"
    float_activations = False

    def unsupported(self, layer: LayerInfo, scheme: QuantScheme, target: Target) -> str | None:
        """Why this layer cannot run with this scheme on this target, or None."""
        return capabilities.unsupported(layer, scheme, target)

    def layer_bytes(self, layer: LayerInfo, scheme: QuantScheme, target: Target) -> int:
        """Bytes that the layer's weight and scales take in model.pte."""
        return capabilities.layer_bytes(layer, scheme, target)

    def unsupported_cache(self, target: Target, cache: Sequence[CacheShape]) -> str | None:
        """Why this target cannot hold such a KV cache, or None."""
        return capabilities.unsupported_cache(target, cache)

    def cache_bytes(self, target: Target, cache: Sequence[CacheShape]) -> int:
        """Bytes of the KV cache at max_context, batch 1."""
        return capabilities.cache_bytes(target, cache)

    def cache_scales(self, folder: Path) -> Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """None: an int8 cache here has a scale for each token."""
        return ()

    def lower(
        self, skeleton: Skeleton, target: Target, folder: Path, progress: Progress
    ) -> Mapping[str, object]:
        """Write model.pte and the tokenizer's files into `folder`; facts for the manifest.

        Raises TraceError when torch.export refuses the model, LoweringError when the delegate does.
        """
        if SPECS[skeleton.task].family == "encoder-decoder":
            from exporter.backends.executorch.seq2seq_lowering import lower_seq2seq

            return lower_seq2seq(skeleton, target, folder, PROGRAM_FILE, progress)
        if SPECS[skeleton.task].family in ("encoder", "vision"):
            from exporter.backends.executorch.programs import lower_programs

            return lower_programs(skeleton, target, folder, PROGRAM_FILE, progress)
        from exporter.backends.executorch import lowering

        return lowering.lower(skeleton, target, folder, PROGRAM_FILE, progress)

    def open_text(self, folder: Path, activations: ActivationMode = "as-shipped") -> MarkedRunner:
        """The language model in ExecuTorch's runtime.

        Raises ArtifactError for float activations when the program quantises them.
        """
        from exporter.backends.executorch import running

        return running.ExecuTorchText(self._path(folder, activations))

    def open_seq2seq(self, folder: Path, activations: ActivationMode = "as-shipped") -> Seq2SeqRunner:
        """An encoder-decoder model in ExecuTorch's runtime; raises like open_text."""
        from exporter.backends.executorch.seq2seq_running import open_seq2seq

        return open_seq2seq(self._path(folder, activations))

    def open_program(
        self, folder: Path, name: str, activations: ActivationMode = "as-shipped"
    ) -> ProgramRunner:
        """One program of an encoder in ExecuTorch's runtime; raises like open_text."""
        from exporter.backends.executorch.programs import ExecuTorchProgram

        return ExecuTorchProgram(self._path(folder, activations), name)

    def open_module(self, folder: Path, activations: ActivationMode = "as-shipped") -> ModuleRunner:
        """Any other model in ExecuTorch's runtime; raises like open_text."""
        from exporter.backends.executorch import running

        return running.ExecuTorchModule(self._path(folder, activations))

    def _path(self, folder: Path, activations: ActivationMode) -> Path:
        """model.pte, where it computes with activations of that kind."""
        from exporter.backends.executorch import reading

        path = folder / PROGRAM_FILE
        if activations == "float":
            graphs = reading.delegate_graphs(reading.open_program(path))
            if any(graph.quantizes_activations for graph in graphs):
                raise ArtifactError(
                    f"{path}: XNNPACK quantises the activations of dynamic-int8 layers whenever it runs; "
                    "open it as shipped"
                )
        return path

    def read_back(self, folder: Path) -> dict[str, PackedLayer]:
        """Every quantised layer in model.pte, by module path. Raises ArtifactError for a damaged file."""
        from exporter.backends.executorch import reading

        return reading.read_layers(folder / PROGRAM_FILE)


BACKEND: Backend = ExecuTorchBackend()
