"""What the planner knows of a model: its layers by module path, without any weight loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["linear", "embedding", "conv"]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True)
class LayerInfo:
    """One module with a weight that a recipe can decide on."""

    name: str  # module path in the PyTorch model, e.g. model.layers.0.self_attn.q_proj
    kind: Kind
    shape: tuple[int, ...]  # of the weight as PyTorch holds it; (out, in) for linear and embedding
    tied_to: str | None = None  # the layer whose weight this one shares; that layer's rule decides
    fixed: str | None = None  # why its weight cannot be replaced, so that the layer must stay float
    pointwise: bool = False  # a convolution that is a matrix product over the channels of each place

    @property
    def parameters(self) -> int:
        """Number of weights."""
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True)
class CacheShape:
    """What one attention layer keeps of each past token."""

    kv_heads: int
    head_size: int
    window: int | None = None  # the layer sees this many tokens back; None: all of them

    def elements(self, max_context: int) -> int:
        """Numbers that keys and values take for a context of that length, batch 1."""
        tokens = max_context if self.window is None else min(self.window, max_context)
        return 2 * tokens * self.kv_heads * self.head_size


@dataclass(frozen=True)
class ModelLayers:
    """Every layer of a model, and how many parameters lie outside them (norms, biases)."""

    layers: tuple[LayerInfo, ...]
    other_parameters: int
    description: str  # one line for a person: architecture and size
    cache: tuple[CacheShape, ...] = ()  # of a language model, per attention layer in network order
    max_context: int | None = None  # positions that the model was made for, where it says so

    def by_name(self) -> dict[str, LayerInfo]:
        """Layers by module path."""
        return {layer.name: layer for layer in self.layers}
