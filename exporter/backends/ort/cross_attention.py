"""Attention of an encoder-decoder model, traced to com.microsoft::MultiHeadAttention.

Three kinds, told apart by the cache that gave the keys (models/seq2seq_cache.py):
    encoder           both directions, no cache
    decoder, self     causal; the operator appends to past keys and values, which are inputs and outputs
    decoder, cross    keys and values as the encoder's program gave them, (batch, heads, length, head size)
A position bias, or a mask over padding, goes in as the operator's attention_bias.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch

from exporter.errors import LoweringError
from exporter.models.seq2seq_cache import CrossStates, GrowingStates, current_cache

NAME = "qexport-onnxruntime-seq2seq"
OPERATOR = "com.microsoft::MultiHeadAttention"
# Added to the scores of padding: its exponential is 0 in float32, and two of them are still finite.
MASKED = -1e30
_PAST_KEY = 6  # input of the operator

# What modelling code hands to every attention function and that changes nothing here.
_WITHOUT_EFFECT = frozenset(
    {
        "position_ids", "cache_position", "past_key_values", "use_cache", "output_attentions",
        "output_hidden_states", "return_dict", "is_causal", "dropout", "num_items_in_batch", "layer_idx",
    }
)  # fmt: skip


def register() -> str:
    """Register with transformers; returns the name to build the model with."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, multi_head_attention)
    AttentionMaskInterface.register(NAME, padding_bias)
    return NAME


def check_decoder(model: ir.Model, layers: int) -> None:
    """Every layer's self attention is the operator, which makes the causal mask.

    Raises LoweringError for a decoder that computes attention in code of its own: it was given no mask, and each
    token would see those behind it.
    """
    nodes = [node for node in model.graph if node.op_type == OPERATOR.rpartition("::")[2]]
    causal = sum(len(node.inputs) > _PAST_KEY and node.inputs[_PAST_KEY] is not None for node in nodes)
    if causal != layers:
        raise LoweringError(
            f"{causal} of {layers} layers of the decoder attend through transformers' attention interface; the others "
            "would not get their causal mask. Take a model that transformers runs with attn_implementation sdpa"
        )


def padding_bias(
    batch_size: Any,
    q_length: Any,
    kv_length: Any,
    attention_mask: torch.Tensor | None = None,
    allow_is_bidirectional_skip: bool = False,
    use_vmap: bool = False,
    **_: Any,
) -> torch.Tensor | None:
    """None for a causal mask, which the operator makes; for padding (batch, 1, queries, keys) float32.

    Raises LoweringError for a mask of another form.
    """
    if use_vmap:
        raise LoweringError("the model combines its mask with one of its own, which no operator makes")
    if attention_mask is None:
        return None
    hidden = (~attention_mask[:, None, None, :].to(torch.bool)).to(torch.float32) * MASKED
    return hidden.expand(-1, 1, q_length, -1)  # the operator does not repeat over queries


def multi_head_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    position_bias: torch.Tensor | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """query (batch, heads, new, size), key and value (batch, heads, length, size) -> (batch, new, heads, size).

    Raises LoweringError for what the operator cannot express.
    """
    _check(module, query, key, value, options)
    batch, heads, new, size = query.shape
    attributes: dict[str, int | float] = {"num_heads": heads}
    if scaling is not None:
        attributes["scale"] = float(scaling)
    bias = position_bias if attention_mask is None else attention_mask
    if position_bias is not None and attention_mask is not None:
        bias = position_bias + attention_mask
    cache = current_cache()
    own = cache.self_attention_cache if cache is not None else None
    cross = cache.cross_attention_cache if cache is not None else None
    layer = own.layer_of(key) if isinstance(own, GrowingStates) else None
    if layer is not None:
        assert isinstance(own, GrowingStates)
        attributes["unidirectional"] = 1
        return _self_attention(own, layer, query, bias, attributes), None
    if isinstance(cross, CrossStates) and cross.layer_of(key) is not None:
        inputs = (_flat(query), key, value, None, None, bias)
    elif isinstance(own, GrowingStates):
        raise LoweringError(
            f"attention of {type(module).__name__}: its keys are not those of transformers' cache, so that the "
            "past of this layer would be lost"
        )
    else:
        inputs = (_flat(query), _flat(key), _flat(value), None, None, bias)
    output: torch.Tensor = torch.onnx.ops.symbolic(
        OPERATOR,
        inputs,
        attributes,  # type: ignore[arg-type]  # torch's annotation is an invariant dict
        dtype=query.dtype,
        shape=(batch, new, heads * size),
        version=1,
    )
    return output.reshape(batch, new, heads, size), None


def _self_attention(
    cache: GrowingStates,
    layer: int,
    query: torch.Tensor,
    bias: torch.Tensor | None,
    attributes: dict[str, int | float],
) -> torch.Tensor:
    """The operator appends the new keys and values to the past and gives both together."""
    batch, heads, new, size = query.shape
    (key, value), (past_key, past_value) = cache.new[layer], cache.past[layer]
    present = cache.present[layer][0].shape
    output, present_key, present_value = torch.onnx.ops.symbolic_multi_out(
        OPERATOR,
        (_flat(query), _flat(key), _flat(value), None, None, bias, past_key, past_value),
        attributes,  # type: ignore[arg-type]
        dtypes=(query.dtype, key.dtype, value.dtype),
        shapes=((batch, new, heads * size), present, present),
        version=1,
    )
    cache.present[layer] = (present_key, present_value)
    return output.reshape(batch, new, heads, size)


def _flat(x: torch.Tensor) -> torch.Tensor:
    """(batch, heads, new, size) -> (batch, new, heads * size)."""
    batch, heads, new, size = x.shape
    return x.transpose(1, 2).reshape(batch, new, heads * size)


def _check(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    options: dict[str, Any],
) -> None:
    """Refuse attention that MultiHeadAttention does not compute."""
    where = f"attention of {type(module).__name__}, layer {getattr(module, 'layer_idx', '?')}"
    unknown = sorted(k for k, v in options.items() if v is not None and k not in _WITHOUT_EFFECT)
    if unknown:
        raise LoweringError(f"{where}: {', '.join(unknown)} cannot be expressed by MultiHeadAttention")
    if {key.shape[1], value.shape[1]} != {query.shape[1]}:
        raise LoweringError(
            f"{where}: {query.shape[1]} heads attend to {key.shape[1]} of keys; MultiHeadAttention wants as many"
        )
    if len({query.shape[3], key.shape[3], value.shape[3]}) != 1:
        raise LoweringError(f"{where}: head sizes of query, key and value differ")
