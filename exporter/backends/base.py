"""What a backend is: five verbs. It is asked "why not?" and answers with a reason or None."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from exporter.layers import CacheShape, LayerInfo
from exporter.numerics import QuantizedTensor
from exporter.schemes import QuantScheme
from exporter.targets import Target

if TYPE_CHECKING:
    from exporter.models.skeleton import Skeleton

__all__ = [
    "ActivationMode",
    "Backend",
    "MarkedRunner",
    "ModuleRunner",
    "PackedLayer",
    "PackedStatic",
    "Progress",
    "Seq2SeqRunner",
    "Target",
    "TextRunner",
    "unpacked",
]

Progress = Callable[[str, float], None]  # (what is going on, share done in 0..1)
ActivationMode = Literal["as-shipped", "float"]


@dataclass(frozen=True)
class PackedStatic:
    """What a static layer takes and gives, as the file has it: scale and zero point of each, and the bias.

    Zero points are those of codes from -128 on: a file with codes from 0 on holds the same values, 128 higher.
    """

    input: tuple[float, int]
    output: tuple[float, int]
    bias: NDArray[np.int32] | None  # (out,), in units of input scale times weight scale


@dataclass(frozen=True)
class PackedLayer:
    """What read_back found for one layer: the integers unpacked again, in canonical granularity."""

    name: str
    bits: int
    group: int | str
    values: NDArray[np.int8]  # (out, in)
    scales: NDArray[np.float32]  # (out, groups) or (1, 1)
    zero_points: NDArray[np.int8] | None
    bytes: int  # that this layer adds to the files; 0 where it shares another layer's bytes
    static: PackedStatic | None = None  # of a layer with static activations


def unpacked(layer: PackedLayer, scheme: QuantScheme) -> QuantizedTensor:
    """A layer read back from a file, as the tensor that was packed. ValueError where the scheme is another."""
    out_features, in_features = layer.values.shape
    groups = (1, 1) if scheme.group == "tensor" else (out_features, scheme.groups(in_features))
    # a coarser file than the scheme: neighbours whose scales are equal were taken for one
    repeats = max(1, groups[1] // layer.scales.shape[1])
    scales = np.broadcast_to(np.repeat(layer.scales, repeats, axis=1), groups)
    zero_points = None if layer.zero_points is None else np.broadcast_to(layer.zero_points, groups)
    return QuantizedTensor(layer.values, scales, zero_points, scheme)


class TextRunner(Protocol):
    """A language model in a runtime, batch 1, with its KV cache."""

    full_logits: bool  # True: forward returns a row per token; False: only the last token's row
    max_context: int

    def reset(self) -> None:
        """Empty the KV cache."""

    def forward(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Append tokens to the cache; logits of shape (len(tokens) or 1, vocabulary)."""


class MarkedRunner(TextRunner, Protocol):
    """A TextRunner that can go back, so that texts which begin alike are read once."""

    def mark(self) -> None:
        """Remember what the cache holds now."""

    def rewind(self) -> bool:
        """Forget what came behind the mark; False, and nothing done, where the cache has lost what stood before it."""


class Seq2SeqRunner(Protocol):
    """An encoder-decoder model in a runtime, batch 1, with its KV cache."""

    full_logits: bool  # as in TextRunner

    def encode(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        """Run the encoder on one example, by the names of transformers' processors; forgets every token."""

    def reset(self) -> None:
        """Forget every token; what the encoder gave stays."""

    def forward(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Append tokens; logits of shape (len(tokens) or 1, vocabulary)."""


class ProgramRunner(Protocol):
    """One program of a model that keeps nothing from one call to the next, in a runtime."""

    inputs: tuple[str, ...]  # names
    outputs: tuple[str, ...]
    takes_batches: bool  # False: one example at a time, none of whose tokens is padding

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Inputs by name, batch axis first (more are let be) -> outputs by name."""


class ModuleRunner(Protocol):
    """Any other model in a runtime."""

    def run(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Positional inputs -> outputs, in the order of the traced module."""


class Backend(Protocol):
    """One mobile runtime."""

    name: str
    folder: str  # under the artifact folder
    float_activations: bool  # can run any artifact of its own with activations left in float

    def unsupported(self, layer: LayerInfo, scheme: QuantScheme, target: Target) -> str | None:
        """Why this layer cannot run with this scheme on this target, or None. Pure, no imports."""

    def layer_bytes(self, layer: LayerInfo, scheme: QuantScheme, target: Target) -> int:
        """Bytes that the layer's weight and scales take in the written files. Pure."""

    def unsupported_cache(self, target: Target, cache: Sequence[CacheShape]) -> str | None:
        """Why this target cannot hold such a KV cache (type, window, max_context), or None. Pure."""

    def cache_bytes(self, target: Target, cache: Sequence[CacheShape]) -> int:
        """Bytes of the KV cache at max_context, batch 1. Pure."""

    def cache_scales(self, folder: Path) -> Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Scales of a KV cache that never change: per layer those of keys and values, (1, kv heads, 1, head
        size) each, from the files that lower wrote. Empty where the cache is float or scales each token."""

    def lower(
        self, skeleton: Skeleton, target: Target, folder: Path, progress: Progress
    ) -> Mapping[str, object]:
        """Write the runtime's files into `folder` (exists, empty). Returns facts for the manifest:
        at least {"operators": [...], "min_runtime": "..."}. Same input -> same bytes."""

    def open_text(self, folder: Path, activations: ActivationMode = "as-shipped") -> MarkedRunner:
        """Open what lower wrote for a language model. `float` where the runtime can leave the
        activations unquantised; otherwise ArtifactError."""

    def open_seq2seq(self, folder: Path, activations: ActivationMode = "as-shipped") -> Seq2SeqRunner:
        """Open what lower wrote for an encoder-decoder model; activations as in open_text."""

    def open_program(
        self, folder: Path, name: str, activations: ActivationMode = "as-shipped"
    ) -> ProgramRunner:
        """Open one program of what lower wrote for an encoder; activations as in open_text."""

    def open_module(self, folder: Path, activations: ActivationMode = "as-shipped") -> ModuleRunner:
        """Open what lower wrote for any other model; activations as in open_text."""

    def read_back(self, folder: Path) -> dict[str, PackedLayer]:
        """Every quantised layer found in the written files, by module path (a tied layer under
        both names)."""
