"""A language model as an NPU takes it: some new tokens beside keys and values of a past of fixed length.

Inputs: `input_ids` (1, n) int32, `position` (n,) int32, `attention_mask` (1, past + n) float32, 1 where a key counts,
and for each layer `past_key_I`, `past_value_I` (1, kv heads, past, head size). Outputs: `logits` (1, n, vocabulary);
for each layer the new tokens' keys and values (1, kv heads, n, head size), which the caller puts into its buffers.
n = 1 decodes; a longer n takes a prompt in pieces. Both are programs of the same layers, with the same integers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib import resources

import torch

from exporter.errors import TraceError
from exporter.layers import LayerInfo, ModelLayers
from exporter.models.causal_lm import CausalLM
from exporter.models.fixed import HIDDEN, hiding, register
from exporter.models.folding import Folding
from exporter.models.python_module import PythonModule
from exporter.models.seq2seq_cache import GrowingStates
from exporter.numerics import FloatArray

_EVERY = 7  # steps of a text between two samples, so that neighbours, which are alike, are not both taken
_FIRST = 8  # steps before the first sample: what follows the first token has another range than all the rest


class FixedDecoder(torch.nn.Module):
    """See the module's head."""

    def __init__(self, net: torch.nn.Module, layers: int, past: int, new: int) -> None:
        super().__init__()
        self.net = net
        self.layers, self.past, self.new = layers, past, new
        hidden = torch.ones(new, past + new).triu(past + 1) * -HIDDEN  # of new tokens, those that come later
        self.later: torch.Tensor
        self.register_buffer("later", hidden[None, None])

    def forward(
        self, input_ids: torch.Tensor, position: torch.Tensor, mask: torch.Tensor, *past: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """See the module's head."""
        cache = GrowingStates([(past[2 * i], past[2 * i + 1]) for i in range(self.layers)])
        bias = ((mask - 1.0) * HIDDEN)[:, None, None, :]
        if self.new > 1:
            bias = bias + self.later
        with hiding(bias):
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


class FixedDecoderModel(PythonModule):
    """A language model's decoder, as the module of one's own that it is for an NPU."""

    holder = "net."

    def __init__(self, model: CausalLM, past: int, new: int = 1) -> None:
        self.model, self.past, self.new = model, past, new

    @property
    def input_names(self) -> tuple[str, ...]:
        """In their order."""
        pairs = [f"past_{part}_{i}" for i in range(self._layers) for part in ("key", "value")]
        return ("input_ids", "position", "attention_mask", *pairs)

    @cached_property
    def built(self) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...], None]:
        """(module with the checkpoint's weights, example inputs, None)."""
        net = self.model.built(lambda name, module: None, register())
        for name, module in list(net.named_modules()):
            if name.rpartition(".")[2] == "rotary_emb":
                net.set_submodule(name, RotaryTable(module, self.past + self.new + 1))
        rms_norms_as_one(net)
        module = FixedDecoder(net, self._layers, self.past, self.new).eval().requires_grad_(False)
        self.folding = Folding()
        return module, self._inputs([1] * self.new, 0, self._empty()), None

    def layers(self) -> ModelLayers:
        """Layers from the configuration alone; the state lies outside the graph."""
        found = self.model.layers()
        return ModelLayers(found.layers, found.other_parameters, found.description)

    def identity(self) -> dict[str, object]:
        """Of the model's files."""
        return self.model.identity()

    def weight(self, layer: LayerInfo) -> FloatArray:
        """(out, in) float32 weight of one layer."""
        return self.model.weight(layer)

    def own_samples(self) -> Iterator[tuple[torch.Tensor, ...]]:
        """Steps of the package's own text."""
        yield from self._own_steps

    @cached_property
    def _own_steps(self) -> list[tuple[torch.Tensor, ...]]:
        """Kept: they are asked for several times, and each is a run of the model."""
        text = (resources.files("exporter") / "data" / "calibration_text.txt").read_text(encoding="utf-8")
        return list(self.steps(text))

    def of_text(self, text: str) -> tuple[torch.Tensor, ...]:
        """The last step of a text, or of what of it fits."""
        return list(self.steps(text))[-1]

    def steps(self, text: str, every: int = _EVERY) -> Iterator[tuple[torch.Tensor, ...]]:
        """Inputs of every so many steps through a text, the float model's own keys and values before them."""
        module, _, _ = self.built
        ids = self.model.tokenizer().encode(text)[: self.past + self.new]
        past, first = self._empty(), 0
        while first + self.new <= len(ids):
            inputs = self._inputs(ids[first : first + self.new], first, past)
            if first >= _FIRST and (first - _FIRST) // self.new % every == 0:
                yield inputs
            if first + self.new > self.past:
                break
            with torch.no_grad():
                found = module(*inputs)
            for buffer, state in zip(past, found[1:], strict=True):
                buffer[:, :, first : first + self.new] = state
            first += self.new

    def _inputs(
        self, ids: Sequence[int], first: int, past: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        mask = torch.zeros(1, self.past + self.new)
        mask[:, :first] = 1.0
        mask[:, self.past :] = 1.0
        place = torch.arange(first, first + self.new, dtype=torch.int32)
        return (torch.tensor([list(ids)], dtype=torch.int32), place, mask, *(each.clone() for each in past))

    def _empty(self) -> list[torch.Tensor]:
        found = []
        for cache in self.model.layers().cache:
            found += [torch.zeros(1, cache.kv_heads, self.past, cache.head_size) for _ in range(2)]
        return found

    @property
    def _layers(self) -> int:
        return len(self.model.layers().cache)
