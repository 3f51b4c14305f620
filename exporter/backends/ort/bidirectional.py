"""Attention of an encoder, traced to com.microsoft::MultiHeadAttention; its mask is the operator's attention_bias."""

from __future__ import annotations

from typing import Any

import torch

from exporter.models.masks import check_attention, repeated, score_bias

NAME = "qexport-onnxruntime-encoder"
OPERATOR = "com.microsoft::MultiHeadAttention"


def register() -> str:
    """Register with transformers; returns the name to build the model with."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, multi_head_attention)
    AttentionMaskInterface.register(NAME, whole_bias)
    return NAME


def whole_bias(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    """models.masks.score_bias, repeated over queries: the operator repeats over batch and heads only."""
    bias = score_bias(*args, **kwargs)
    return None if bias is None else bias.expand(-1, -1, kwargs["q_length"], -1)


def multi_head_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    position_bias: torch.Tensor | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """query (batch, heads, n, size), key and value (batch, kv heads, length, size) -> (batch, n, heads, size).

    Raises LoweringError for what the operator cannot express.
    """
    check_attention(module, query, key, {**options, "softcap": softcap})
    batch, heads, n, _ = query.shape
    key, value = repeated(key, heads), repeated(value, heads)
    bias = position_bias if attention_mask is None else attention_mask
    if position_bias is not None and attention_mask is not None:
        bias = position_bias + attention_mask
    attributes: dict[str, int | float | str | bool] = {"num_heads": heads}
    if scaling is not None:
        attributes["scale"] = float(scaling)
    inputs: list[torch.Tensor | None] = [_flat(query), _flat(key), _flat(value)]
    if bias is not None:
        inputs += [None, None, bias]  # between them: a bias of the projections, and a mask by lengths
    output: torch.Tensor = torch.onnx.ops.symbolic(
        OPERATOR,
        inputs,
        attributes,  # type: ignore[arg-type]  # torch's annotation is an invariant dict
        dtype=query.dtype,
        shape=(batch, n, heads * value.shape[3]),
        version=1,
    )
    return output.reshape(batch, n, heads, value.shape[3]), None


def _flat(x: torch.Tensor) -> torch.Tensor:
    """(batch, heads, n, size) -> (batch, n, heads * size)."""
    batch, heads, n, size = x.shape
    return x.transpose(1, 2).reshape(batch, n, heads * size)
