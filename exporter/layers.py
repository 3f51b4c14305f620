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

    @property
    def parameters(self) -> int:
        """Number of weights."""
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True)
class ModelLayers:
    """Every layer of a model, and how many parameters lie outside them (norms, biases)."""

    layers: tuple[LayerInfo, ...]
    other_parameters: int
    description: str  # one line for a person: architecture and size

    def by_name(self) -> dict[str, LayerInfo]:
        """Layers by module path."""
        return {layer.name: layer for layer in self.layers}
