"""Encoder-decoder models as two programs, `encoder` and `decoder`, whatever their architecture.

    encoder   input_features | input_ids, attention_mask | pixel_values
              -> encoder_hidden_states, keys and values of every cross attention
    decoder   input_ids (1..n), [encoder_attention_mask], keys and values of self attention so far and of cross
              attention -> logits of every new token, keys and values of self attention with the new tokens

The encoder's program runs the whole model with one token and a cache that records; what the decoder computes beside
the recorded is dead code. Names of inputs and outputs are those that onnxruntime-genai reads of its own exports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutput

from exporter.errors import TraceError
from exporter.models.seq2seq_cache import (
    CrossStates,
    GrowingStates,
    Recording,
    States,
    TracedCache,
    traced_cache,
)
from exporter.models.skeleton import Program
from exporter.signatures import BATCH, Axis, Dtype, Port, Signature

ENCODER, DECODER = "encoder", "decoder"
HIDDEN = "encoder_hidden_states"
MASK = "attention_mask"
# axes: of the encoder's output, and of the decoder's tokens
LENGTH = "encoder_sequence_length"
NEW_LENGTH, PAST_LENGTH, TOTAL_LENGTH = "sequence_length", "past_sequence_length", "total_sequence_length"


@dataclass(frozen=True)
class Sizes:
    """What a decoder keeps, found by running the model once without weights."""

    layers: int
    heads: int  # of self attention's keys
    head_size: int
    cross_heads: int
    cross_head_size: int
    hidden: int  # features of the encoder's last layer
    encoder_length: int  # of the example
    vocabulary: int


def kv_names(which: str, attention: str, layers: int) -> list[str]:
    """`which` is past or present, `attention` self or cross: layer by layer, keys before values."""
    return [f"{which}_{part}_{attention}_{layer}" for layer in range(layers) for part in ("key", "value")]


def pairs(flat: Sequence[torch.Tensor]) -> list[States]:
    """(key, value, key, value, …) -> one pair for each layer."""
    return list(zip(flat[::2], flat[1::2], strict=True))


class Encoder(torch.nn.Module):
    """Inputs in the order of `names` -> hidden states (batch, length, features) and, layer by layer, keys and
    values (batch, heads, length, head size) of cross attention."""

    def __init__(self, net: torch.nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.net = net
        self.names = tuple(names)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """See the class."""
        hidden, states = record(self.net, dict(zip(self.names, inputs, strict=True)))[:2]
        return hidden, *(tensor for layer in sorted(states) for tensor in states[layer])


def record(
    net: torch.nn.Module, inputs: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, dict[int, States], dict[int, States], torch.Tensor]:
    """Run the model on one token; encoder's hidden states, cross and self attention's states, logits.

    Raises TraceError where no attention goes through transformers' cache.
    """
    own, cross = Recording(), Recording()
    first = next(iter(inputs.values()))
    start = torch.zeros(first.shape[0], 1, dtype=torch.long, device=first.device)
    cache = TracedCache(own, cross, cross_known=False)
    with traced_cache(cache):
        out = net(**inputs, decoder_input_ids=start, past_key_values=cache, use_cache=True)
    if not cross.states or sorted(cross.states) != sorted(own.states):
        raise TraceError(
            f"{type(net).__name__}: its decoder keeps self attention of layers {sorted(own.states)} and cross "
            f"attention of layers {sorted(cross.states)} in transformers' EncoderDecoderCache; both must be there for "
            "every layer, or decoding would start over for each token"
        )
    return out.encoder_last_hidden_state, cross.states, own.states, out.logits


def sizes_of(net: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> Sizes:
    """Sizes of a model, which may be on the meta device, as its inputs are. Raises TraceError as record does."""
    given = {name: tensor for name, tensor in inputs.items() if name != MASK}  # of whose content models ask
    with torch.no_grad():
        hidden, cross, own, logits = record(net, given)
    (key, _), (cross_key, _) = own[0], cross[0]
    return Sizes(
        len(own),
        key.shape[1],
        key.shape[3],
        cross_key.shape[1],
        cross_key.shape[3],
        hidden.shape[2],
        cross_key.shape[2],
        logits.shape[-1],
    )


def unused_weights(net: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> set[int]:
    """ids of parameters that no output depends on, such as a pooler's; on the meta device as sizes_of."""
    given = {name: tensor for name, tensor in inputs.items() if name != MASK}
    parameters = [parameter.requires_grad_(True) for parameter in net.parameters()]
    with torch.enable_grad():
        hidden, _, _, logits = record(net, given)
        found = torch.autograd.grad(logits.sum() + hidden.sum(), parameters, allow_unused=True)
    return {id(p) for p, gradient in zip(parameters, found, strict=True) if gradient is None}


def decode(
    net: torch.nn.Module,
    tokens: torch.Tensor,  # (batch, new)
    own: Any,  # a self attention cache
    cross: Sequence[States],
    hidden: int,
    mask: torch.Tensor | None = None,  # (batch, length) of the encoder's inputs
    **options: Any,
) -> torch.Tensor:
    """Logits of a decoder that takes cross attention's keys and values as they are, (batch, new, vocabulary)."""
    batch, _, length, _ = cross[0][0].shape
    # its size is read, its content only by what nobody uses
    states = cross[0][0].new_zeros(batch, length, hidden)
    cache = TracedCache(own, CrossStates(cross), cross_known=True)
    if mask is not None:
        options[MASK] = mask
    with traced_cache(cache):
        logits: torch.Tensor = net(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            decoder_input_ids=tokens,
            past_key_values=cache,
            use_cache=True,
            **options,
        ).logits
    return logits


class Decoder(torch.nn.Module):
    """The decoder with its past as inputs and outputs."""

    def __init__(self, net: torch.nn.Module, sizes: Sizes, has_mask: bool) -> None:
        super().__init__()
        self.net = net
        self.sizes = sizes
        self.has_mask = has_mask

    def forward(self, input_ids: torch.Tensor, *rest: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """input_ids (batch, new), [mask (batch, length)], past of self attention, states of cross attention
        -> logits (batch, new, vocabulary), present of self attention."""
        mask, flat = (rest[0], rest[1:]) if self.has_mask else (None, rest)
        count = 2 * self.sizes.layers
        own = GrowingStates(pairs(flat[:count]))
        logits = decode(self.net, input_ids, own, pairs(flat[count:]), self.sizes.hidden, mask)
        return logits, *(tensor for layer in range(self.sizes.layers) for tensor in own.present[layer])


def programs(
    inputs: Mapping[str, torch.Tensor],
    shapes: Mapping[str, tuple[int | str, ...]],
    axes: Mapping[str, Axis],
    sizes: Sizes,
    max_tokens: int,
) -> tuple[Program, Program]:
    """Encoder and decoder.

    `inputs`: examples for the encoder, batch 2; `shapes`: theirs, with an axis' name where the length may vary;
    `axes`: bounds of those axes, BATCH among them; `max_tokens`: of the decoder, past and new.
    """
    varying = [name for name in axes if name != BATCH]
    # the encoder may make another length of the one that goes in, so its output has an axis of its own
    length: int | str = LENGTH if varying else sizes.encoder_length
    states = (BATCH, sizes.cross_heads, length, sizes.cross_head_size)
    past = (BATCH, sizes.heads, PAST_LENGTH, sizes.head_size)
    present = (BATCH, sizes.heads, TOTAL_LENGTH, sizes.head_size)
    has_mask = MASK in inputs
    of_encoder = Signature(
        tuple(Port(name, _dtype(tensor), shapes[name]) for name, tensor in inputs.items()),
        (
            Port(HIDDEN, "float32", (BATCH, length, sizes.hidden)),
            *(Port(name, "float32", states) for name in kv_names("present", "cross", sizes.layers)),
        ),
        axes,
    )
    longest = max((axes[name].maximum for name in varying), default=sizes.encoder_length)
    of_decoder = Signature(
        (
            Port("input_ids", "int64", (BATCH, NEW_LENGTH)),
            *([Port(f"encoder_{MASK}", "int64", (BATCH, length))] if has_mask else []),
            *(Port(name, "float32", past) for name in kv_names("past", "self", sizes.layers)),
            *(Port(name, "float32", states) for name in kv_names("past", "cross", sizes.layers)),
        ),
        (
            Port("logits", "float32", (BATCH, NEW_LENGTH, sizes.vocabulary)),
            *(Port(name, "float32", present) for name in kv_names("present", "self", sizes.layers)),
        ),
        {
            BATCH: axes[BATCH],
            NEW_LENGTH: Axis(NEW_LENGTH, 1, max_tokens),
            PAST_LENGTH: Axis(PAST_LENGTH, 1, max_tokens),
            **({LENGTH: Axis(LENGTH, 1, longest)} if varying else {}),
        },
    )

    def decoder_examples() -> tuple[torch.Tensor, ...]:
        lengths = {BATCH: 2, NEW_LENGTH: 5, PAST_LENGTH: 7, LENGTH: sizes.encoder_length}
        return tuple(_example(port, lengths) for port in of_decoder.inputs)

    names = tuple(inputs)
    return (
        Program(ENCODER, of_encoder, lambda net: Encoder(net, names), lambda: tuple(inputs.values())),
        Program(DECODER, of_decoder, lambda net: Decoder(net, sizes, has_mask), decoder_examples),
    )


def _dtype(tensor: torch.Tensor) -> Dtype:
    name: Dtype = str(tensor.dtype).removeprefix("torch.")  # type: ignore[assignment]
    return name


def _example(port: Port, lengths: Mapping[str, int]) -> torch.Tensor:
    shape = [size if isinstance(size, int) else lengths[size] for size in port.shape]
    return torch.ones(shape, dtype=getattr(torch, port.dtype))
