"""A language model as an NPU takes it: some new tokens beside keys and values of a past of fixed length.

Inputs: `input_ids` (1, n) int32, `position` (n,) int32, `attention_mask` (1, past + n) float32, 1 where a key counts,
and for each layer `past_key_I`, `past_value_I` (1, kv heads, past, head size). Outputs: `logits` (1, n, vocabulary);
for each layer the new tokens' keys and values (1, kv heads, n, head size), which the caller puts into its buffers.
n = 1 decodes; a longer n takes a prompt in pieces. Both are programs of the same layers, with the same integers.
"""

from __future__ import annotations

import torch

from exporter.errors import TraceError
from exporter.models.fixed import HIDDEN, hiding
from exporter.models.seq2seq_cache import GrowingStates


class FixedDecoder(torch.nn.Module):
    """See the module's head."""

    def __init__(self, net: torch.nn.Module, layers: int, past: int, new: int) -> None:
        super().__init__()
        self.net = net
        self.layers, self.past, self.new = layers, past, new

    def forward(
        self, input_ids: torch.Tensor, position: torch.Tensor, mask: torch.Tensor, *past: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """See the module's head."""
        cache = GrowingStates([(past[2 * i], past[2 * i + 1]) for i in range(self.layers)])
        bias = ((mask - 1.0) * HIDDEN)[:, None, None, :]
        with hiding(bias):  # the model itself hides from each new token those that come later
            logits = self.net(
                input_ids=input_ids, position_ids=position[None], past_key_values=cache, use_cache=True
            ).logits
        missing = [layer for layer in range(self.layers) if layer not in cache.new]
        if missing:
            raise TraceError(
                f"layers {missing} keep no keys and values in the cache that transformers hands them"
            )
        states = [state for layer in range(self.layers) for state in cache.new[layer]]
        return (logits, *states)


class RotaryTable(torch.nn.Module):
    """Cosines and sines by position, looked up: a model's own module computes them from the position in float."""

    def __init__(self, original: torch.nn.Module, positions: int) -> None:
        super().__init__()
        where = torch.arange(positions)[None]
        with torch.no_grad():
            cos, sin = original(torch.zeros(1, positions, 1), where)
        self.cos, self.sin = _table(cos[0]), _table(sin[0])

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(1, n) positions -> (1, n, head size) twice."""
        return self.cos(position_ids), self.sin(position_ids)


def _table(rows: torch.Tensor) -> torch.nn.Embedding:
    table = torch.nn.Embedding(*rows.shape)
    table.weight = torch.nn.Parameter(rows, requires_grad=False)
    return table


def rms_norms_as_one(net: torch.nn.Module) -> None:
    """In place: modules that compute a root mean square norm do so in one operator, where both give the same."""
    for module in net.modules():
        weight = module._parameters.get("weight")
        eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
        if weight is None or weight.ndim != 1 or not isinstance(eps, float):
            continue
        probe = torch.linspace(-2, 3, 2 * len(weight)).reshape(1, 2, -1)
        for factor in (weight, 1 + weight):
            with torch.no_grad():
                wanted, found = module(probe), _norm(probe, factor, eps)
            if torch.allclose(wanted, found, rtol=1e-5, atol=1e-5):
                _use_one(module, factor.detach(), eps)
                break


def _use_one(module: torch.nn.Module, factor: torch.Tensor, eps: float) -> None:
    module.__class__ = type(
        type(module).__name__, (type(module),), {"forward": lambda self, x: _norm(x, factor, eps)}
    )


def _norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return torch.nn.functional.rms_norm(x, (x.shape[-1],), weight, eps)
