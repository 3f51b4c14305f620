"""The PyTorch side of the parity ladder: the same model with dequantised weights, and text run through it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from exporter.models.activations import fake_quantize_activations
from exporter.models.skeleton import PlannedLayer, Skeleton
from exporter.schemes import QuantScheme


def dequantized_model(skeleton: Skeleton, quantize_activations: bool) -> torch.nn.Module:
    """The model with the float32 weights that the integers stand for.

    With quantize_activations, a layer whose scheme says dynamic-int8 also rounds its inputs to int8
    per token, as XNNPACK does. Tied layers share one tensor.
    """
    shared: dict[str, torch.nn.Parameter] = {}

    def make(layer: PlannedLayer) -> torch.nn.Module:
        owner = layer.info.tied_to or layer.info.name
        if owner not in shared:
            weight = torch.from_numpy(layer.load().dequantized())
            shared[owner] = torch.nn.Parameter(weight, requires_grad=False)
        if layer.info.kind == "embedding":
            rows, columns = layer.info.shape
            return torch.nn.Embedding(rows, columns, _weight=shared[owner], _freeze=True)
        return DequantizedLinear(shared[owner], layer.bias, layer.scheme)

    model = skeleton.build(make)
    round_activations(model, quantize_activations)
    return model


def round_activations(model: torch.nn.Module, on: bool) -> None:
    """Switch the rounding of a dequantised model's activations, where the scheme asks for it."""
    for module in model.modules():
        if isinstance(module, DequantizedLinear):
            module.rounds = on and module.scheme.activations == "dynamic-int8"


class DequantizedLinear(torch.nn.Module):
    """A linear layer with the weights that its integers stand for."""

    def __init__(self, weight: torch.nn.Parameter, bias: torch.Tensor | None, scheme: QuantScheme) -> None:
        super().__init__()
        self.weight = weight
        self.bias = bias
        self.scheme = scheme
        self.rounds = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        x = fake_quantize_activations(x) if self.rounds else x
        return torch.nn.functional.linear(x, self.weight, self.bias)


class TorchRunner:
    """A language model in PyTorch behind the same verbs as a runtime's (backends.base.TextRunner)."""

    full_logits = True

    def __init__(self, model: torch.nn.Module, max_context: int) -> None:
        self.model = model
        self.max_context = max_context
        self._cache: object = None

    def reset(self) -> None:
        """Forget every token."""
        self._cache = None

    def forward(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Append tokens; logits of shape (len(tokens), vocabulary)."""
        with torch.no_grad():
            out = self.model(torch.tensor([list(tokens)]), past_key_values=self._cache, use_cache=True)
        self._cache = out.past_key_values
        logits: NDArray[np.float32] = out.logits[0].float().numpy()
        return logits
