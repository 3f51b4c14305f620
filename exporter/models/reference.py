"""The PyTorch side of the parity ladder: the float model and the same with dequantised weights.

Neither is ever in memory as a whole. A planned layer's float32 weight exists while it is multiplied, a
block of rows at a time; a whole batch of text goes through a layer at once, so that each pass over the
text makes each weight once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from exporter.models.activations import CacheRounding, fake_quantize_activations
from exporter.models.rotating import rotate
from exporter.models.skeleton import PlannedLayer, Skeleton
from exporter.numerics import FloatArray, QuantizedTensor

ATTENTION_NAME = "qexport_reference"
BLOCK_ELEMENTS = 1 << 20  # of a weight made at once from integers: 4 MB, which a processor's caches hold
_MAPPED_ELEMENTS = 1 << 24  # of a weight in a file mapped at once, 64 MB; a larger one never stays mapped

Stored = TypeVar("Stored")


def dequantized_model(skeleton: Skeleton, quantize_activations: bool, keep: int = 0) -> torch.nn.Module:
    """The model with the float32 weights that the integers stand for.

    With quantize_activations, a layer whose scheme says dynamic-int8 also rounds its inputs to int8
    per token, as XNNPACK does. Up to `keep` bytes of integers stay mapped from one use to the next.
    """
    budget = _Budget(keep)

    def make(layer: PlannedLayer) -> torch.nn.Module:
        return _layer(layer, _Integers(layer.load, layer.info.parameters, budget))

    attention = _register_attention() if skeleton.task == "text-generation" else None
    model = skeleton.build(make, attention)
    round_activations(model, quantize_activations)
    return model


def streamed_float_model(
    skeleton: Skeleton, weight: Callable[[PlannedLayer], FloatArray], keep: int
) -> torch.nn.Module:
    """The float model, whose planned layers map their weights from the checkpoint while they run.

    `weight` gives a layer's (out, in) float32; up to `keep` bytes stay mapped from one use to the next.
    """
    budget = _Budget(keep)

    def make(layer: PlannedLayer) -> torch.nn.Module:
        return _layer(layer, _Mapped(lambda: weight(layer), layer.info.parameters, budget))

    return skeleton.build(make, _register_attention())


def round_activations(model: torch.nn.Module, on: bool) -> None:
    """Switch the rounding of a dequantised model's activations, where the scheme asks for it."""
    for module in model.modules():
        if isinstance(module, StreamedLinear):
            module.rounds = on and module.planned.scheme.activations == "dynamic-int8"


class _Budget:
    """Bytes that may stay mapped."""

    def __init__(self, left: int) -> None:
        self.left = left

    def spend(self, wanted: int) -> bool:
        if wanted > self.left:
            return False
        self.left -= wanted
        return True


class _Source(Generic[Stored]):
    """A layer's weight in a file. Mapped anew for each use, it is not counted as memory between them; to
    map some hundred files takes as long as a step of decoding, so what the budget allows stays mapped."""

    block: int  # elements that blocks() gives at once
    bytes_each: int  # in the file, for a weight

    def __init__(self, load: Callable[[], Stored], elements: int, budget: _Budget) -> None:
        self._load = load
        self._bytes = self.bytes_each * elements
        self._keeps = elements <= _MAPPED_ELEMENTS and budget.spend(self._bytes)
        self._kept: Stored | None = None

    def stored(self) -> Stored:
        """What the file holds."""
        if self._kept is not None:
            return self._kept
        found = self._load()
        if self._keeps:
            self._kept = found
        return found

    def release(self) -> None:
        """Keep nothing mapped from now on."""
        self._keeps, self._kept = False, None

    def rotates(self) -> int | None:
        """The rotation of the input that the weight is made for (QuantScheme.rotate)."""
        return None

    def blocks(self, rows: int, columns: int) -> Iterator[tuple[int, int, torch.Tensor]]:
        """(start, stop, (stop - start, in) float32), the whole weight."""
        raise NotImplementedError

    def take(self, index: NDArray[np.int64]) -> torch.Tensor:
        """(n,) row numbers -> (n, in) float32."""
        raise NotImplementedError


class _Integers(_Source[QuantizedTensor]):
    """Dequantised where it is used."""

    block = BLOCK_ELEMENTS
    bytes_each = 1

    def rotates(self) -> int | None:
        return self.stored().scheme.rotate

    def blocks(self, rows: int, columns: int) -> Iterator[tuple[int, int, torch.Tensor]]:
        found = self.stored()
        for start, stop in _cut(rows, self.block // columns):
            yield start, stop, dequantized_rows(found, slice(start, stop))

    def take(self, index: NDArray[np.int64]) -> torch.Tensor:
        return dequantized_rows(self.stored(), index)


class _Mapped(_Source[FloatArray]):
    """As the checkpoint has it."""

    block = _MAPPED_ELEMENTS
    bytes_each = 4

    def blocks(self, rows: int, columns: int) -> Iterator[tuple[int, int, torch.Tensor]]:
        for start, stop in _cut(rows, self.block // columns):
            # mapped anew for each block: what was read of a mapping counts as memory
            yield start, stop, torch.from_numpy(self.stored()[start:stop])

    def take(self, index: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(self.stored()[index])


def _cut(rows: int, step: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of blocks of at most `step` rows, and at least one."""
    for start in range(0, rows, max(1, step)):
        yield start, min(start + max(1, step), rows)


def dequantized_rows(tensor: QuantizedTensor, rows: slice | NDArray[np.int64]) -> torch.Tensor:
    """(n, in) float32, rows of QuantizedTensor.dequantized(): the same operations in the same order. They are what
    the layer multiplies; where its scheme rotates, own_rows gives them as the model has them."""
    per_tensor = tensor.scales.shape[0] == 1 < tensor.values.shape[0]
    part: Any = slice(None) if per_tensor else rows

    def taken(array: NDArray[Any], index: Any) -> torch.Tensor:
        return torch.from_numpy(np.array(array[index]))  # a copy: PyTorch takes no read-only mapping

    values = taken(tensor.values, rows).to(torch.float32)
    grouped = values.view(len(values), tensor.scales.shape[1], -1)
    if tensor.zero_points is not None:
        grouped -= taken(tensor.zero_points, part).to(torch.float32)[:, :, None]
    grouped *= taken(tensor.scales, part)[:, :, None]
    return values


def own_rows(tensor: QuantizedTensor, rows: slice | NDArray[np.int64]) -> torch.Tensor:
    """(n, in) float32, what stands in place of those rows of the model's own weight."""
    return rotate(dequantized_rows(tensor, rows), tensor.scheme.rotate)


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """(..., in), (out, in), (out,) -> (..., out), all float32.

    oneDNN's kernel where PyTorch has it: it uses what the processor has, whoever made it, and takes less than
    half the time of the library that nn.functional.linear calls.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return torch.nn.functional.linear(x, weight, bias)
    found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return found


class StreamedLinear(torch.nn.Module):
    """A linear layer whose weight is made where it is multiplied."""

    def __init__(self, planned: PlannedLayer, source: _Source[Any]) -> None:
        super().__init__()
        self.planned = planned
        self.source = self.first_source = source
        self.added = planned.bias
        self.rounds = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        x = rotate(x, self.source.rotates())
        x = fake_quantize_activations(x) if self.rounds else x
        rows, columns = self.planned.info.shape
        result = x.new_empty((*x.shape[:-1], rows))
        for start, stop, weight in self.source.blocks(rows, columns):
            if stop - start == rows:
                return product(x, weight, self.added)
            result[..., start:stop] = product(x, weight)
        return result if self.added is None else result.add_(self.added)


class StreamedEmbedding(torch.nn.Module):
    """An embedding that reads the rows it is asked for."""

    def __init__(self, planned: PlannedLayer, source: _Source[Any]) -> None:
        super().__init__()
        self.planned = planned
        self.source = self.first_source = source

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(...) -> (..., features)."""
        found = self.source.take(ids.reshape(-1).numpy())
        return rotate(found, self.source.rotates()).view(*ids.shape, -1)


def hold_integers(module: torch.nn.Module, load: Callable[[], QuantizedTensor] | None = None) -> None:
    """Let a streamed layer of the float model compute with integers, its own or others of its shape."""
    assert isinstance(module, StreamedLinear | StreamedEmbedding)
    planned = module.planned
    module.source = _Integers(load or planned.load, planned.info.parameters, _Budget(0))


def hold_weights(module: torch.nn.Module) -> None:
    """The float weight again."""
    assert isinstance(module, StreamedLinear | StreamedEmbedding)
    module.source = module.first_source


def _layer(layer: PlannedLayer, source: _Source[Any]) -> torch.nn.Module:
    kind = StreamedEmbedding if layer.info.kind == "embedding" else StreamedLinear
    return kind(layer, source)


def release_weights(model: torch.nn.Module) -> None:
    """Let go of what a streamed model keeps mapped."""
    for module in model.modules():
        if isinstance(module, StreamedLinear | StreamedEmbedding):
            module.source.release()


_cache_rounding: list[CacheRounding] = []


@contextmanager
def rounded_cache(rounding: CacheRounding | None) -> Iterator[None]:
    """Inside, reference models attend to keys and values as a cache with that rounding holds them; None: exactly."""
    if rounding is None:
        yield
        return
    _cache_rounding.append(rounding)
    try:
        yield
    finally:
        _cache_rounding.pop()


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """transformers' own sdpa, over keys and values (batch, kv heads, tokens, size) as the cache would hold them."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if _cache_rounding:
        index: int = module.layer_idx  # type: ignore[assignment]  # transformers gives every attention one
        query, key, value = _cache_rounding[-1](index, query, key, value)
    found: tuple[torch.Tensor, torch.Tensor | None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, **options
    )
    return found


def _register_attention() -> str:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION_NAME, _attend)
    AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)
    return ATTENTION_NAME


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
