"""Encoder-decoder models: one .pte with the methods `encoder` and `text_decoder`.

    encoder(inputs)                                              -> encoder_output (2 layers, length, features)
    text_decoder(tokens (1, n), encoder_output, cache_position (1,)) -> logits of the last token (1, vocabulary)

These are the names and the order that ExecuTorch's own runner for speech calls (extension/asr/runner). What it
hands from one to the other holds, layer by layer, keys and values of cross attention, so that no decoding step
projects them again. Keys and values of self attention are buffers of the program.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import executorch.extension.llm.custom_ops.custom_ops  # noqa: F401  registers llama::custom_sdpa, update_cache
import torch
from transformers import AttentionInterface, AttentionMaskInterface

from exporter.errors import LoweringError
from exporter.models.seq2seq import Sizes, decode, record
from exporter.models.seq2seq_cache import CrossStates, States, StoredStates, current_cache

ATTENTION_NAME = "qexport_executorch_seq2seq"
ENCODER, DECODER = "encoder", "text_decoder"
_MASKED = -1e9  # a score so far below any other that its exponential is 0 in float32
_WITHOUT_EFFECT = frozenset(
    {
        "position_ids", "cache_position", "past_key_values", "use_cache", "output_attentions",
        "output_hidden_states", "return_dict", "is_causal", "dropout", "num_items_in_batch", "layer_idx",
    }
)  # fmt: skip


class Buffers(StoredStates):
    """Self attention of one call: new keys and values are written into the program's buffers.

    `keys` and `values`: per layer (1, slots, heads, size). Models see (1, heads, slots, size).
    """

    def __init__(
        self, keys: Sequence[torch.Tensor], values: Sequence[torch.Tensor], position: torch.Tensor, start: Any
    ) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.position, self.start = position, start

    def get_seq_length(self, layer_idx: int = 0) -> torch.Tensor:
        """(1,) int64."""
        return self.position

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Every slot."""
        return self.keys[0].shape[1], 0

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any) -> States:
        """Write one layer's."""
        for states, buffers in ((key_states, self.keys), (value_states, self.values)):
            torch.ops.llama.update_cache(states.transpose(1, 2), buffers[layer_idx], self.start)
        found = (self.keys[layer_idx].transpose(1, 2), self.values[layer_idx].transpose(1, 2))
        self.given[layer_idx] = found
        return found


class Encoder(torch.nn.Module):
    """Inputs in the order of `names`, batch 1 -> (2 layers, length, heads * size): keys, values, keys …"""

    def __init__(self, net: torch.nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.net = net
        self.names = tuple(names)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """See the class."""
        states = record(self.net, dict(zip(self.names, inputs, strict=True)))[1]
        rows = [x.transpose(1, 2).flatten(2) for layer in sorted(states) for x in states[layer]]
        return torch.cat(rows, dim=0)


class Decoder(torch.nn.Module):
    """See text_decoder above."""

    def __init__(self, net: torch.nn.Module, sizes: Sizes, slots: int) -> None:
        super().__init__()
        self.net = net
        self.sizes = sizes
        self.slots = slots
        for part in ("keys", "values"):
            for layer in range(sizes.layers):
                buffer = torch.zeros(1, slots, sizes.heads, sizes.head_size)
                self.register_buffer(f"{part}_{layer}", buffer, persistent=False)

    def forward(
        self, tokens: torch.Tensor, encoder_output: torch.Tensor, cache_position: torch.Tensor
    ) -> torch.Tensor:
        """Append the tokens at cache_position."""
        start = cache_position.item()
        torch._check(start >= 0)  # type: ignore[no-untyped-call]
        torch._check(start + tokens.shape[1] <= self.slots)  # type: ignore[no-untyped-call]
        layers = range(self.sizes.layers)
        own = Buffers(
            [self.get_buffer(f"keys_{layer}") for layer in layers],
            [self.get_buffer(f"values_{layer}") for layer in layers],
            cache_position,
            start,
        )
        shape = (1, -1, self.sizes.cross_heads, self.sizes.cross_head_size)
        rows = [row.reshape(shape).transpose(1, 2) for row in torch.split(encoder_output, 1, dim=0)]
        cross = list(zip(rows[::2], rows[1::2], strict=True))
        return decode(self.net, tokens, own, cross, self.sizes.hidden)[:, -1]


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    position_bias: torch.Tensor | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """query (1, heads, n, size), key and value (1, heads, length, size) -> (1, n, heads, size).

    Raises LoweringError for what is neither of encoder, self and cross attention.
    """
    where = f"attention of {type(module).__name__}, layer {getattr(module, 'layer_idx', '?')}"
    unknown = sorted(k for k, v in options.items() if v is not None and k not in _WITHOUT_EFFECT)
    if unknown or attention_mask is not None:
        raise LoweringError(
            f"{where}: {', '.join(unknown) or 'a mask of its own'} is not lowered to ExecuTorch; take the "
            "onnxruntime target for this model"
        )
    cache = current_cache()
    own = cache.self_attention_cache if cache is not None else None
    cross = cache.cross_attention_cache if cache is not None else None
    layer = own.layer_of(key) if isinstance(own, Buffers) else None
    if layer is None and isinstance(own, Buffers):
        assert isinstance(cross, CrossStates)
        if cross.layer_of(key) is None:
            raise LoweringError(
                f"{where}: its keys are not those of transformers' cache, so that the past of this layer would be lost"
            )
    is_cross = isinstance(cross, CrossStates) and cross.layer_of(key) is not None
    if position_bias is not None or (layer is None and not is_cross):
        causal = own if layer is not None and isinstance(own, Buffers) else None
        return _plain(query, key, value, position_bias, scaling, causal), None
    if layer is not None and isinstance(own, Buffers):
        result = torch.ops.llama.custom_sdpa(
            query.transpose(1, 2), own.keys[layer], own.values[layer], own.start, None, 0.0, True, scaling
        )
        return result, None
    # With a mask the operator wants neither start nor causality, and reads as many keys as there are.
    mask = query.new_zeros(query.shape[2], key.shape[2])
    query, key, value = (states.transpose(1, 2) for states in (query, key, value))
    return torch.ops.llama.custom_sdpa(query, key, value, 0, mask, 0.0, False, scaling), None


def _plain(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None,
    scaling: float | None,
    causal: Buffers | None,
) -> torch.Tensor:
    """Attention by matrix products: of an encoder, which XNNPACK runs in one delegate, or with a bias for each
    head, which the fused operator does not take."""
    factor = query.shape[3] ** -0.5 if scaling is None else scaling
    scores = torch.matmul(query * factor if factor != 1 else query, key.transpose(2, 3))
    if bias is not None:
        scores = scores + bias
    if causal is not None:
        positions = causal.position + torch.arange(query.shape[2])
        behind = torch.arange(key.shape[2])[None] > positions[:, None]  # (n, slots)
        scores = scores + behind.to(torch.float32) * _MASKED
    return torch.matmul(torch.softmax(scores, dim=-1), value).transpose(1, 2)


def register() -> str:
    """Register with transformers; returns the name to build the model with."""
    AttentionInterface.register(ATTENTION_NAME, attend)
    AttentionMaskInterface.register(ATTENTION_NAME, lambda *args, **kwargs: None)
    return ATTENTION_NAME
