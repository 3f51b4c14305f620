"""Attention of a transformers model, traced to com.microsoft::GroupQueryAttention.

transformers asks its AttentionInterface for a function by name, so no modelling file is touched. The
KV cache enters and leaves through a context variable, because transformers' own cache classes carry
state that torch.export cannot follow.

GroupQueryAttention knows right padding only: row b of the cache holds its first seqlens_k[b] + 1
positions. The traced model therefore moves left padding to the right before the first layer (see
lowering.TextModel), which costs two small gathers instead of a bias on every score.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from exporter.errors import LoweringError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

NAME = "qexport-onnxruntime"
OPERATOR = "com.microsoft::GroupQueryAttention"

# Keyword arguments that modelling code hands to every attention function and that change nothing
# in a causal GroupQueryAttention: positions are applied before it, the cache is ours.
_WITHOUT_EFFECT = frozenset(
    {
        "position_ids", "position_embeddings", "cache_position", "past_key_values", "use_cache",
        "output_attentions", "output_hidden_states", "return_dict", "is_causal", "scale", "dropout",
        "deterministic", "num_items_in_batch", "logits_to_keep", "layer_idx",
    }
)  # fmt: skip


@dataclass
class KVCache:
    """What the attention functions of one trace read and write."""

    past: list[tuple[torch.Tensor, torch.Tensor]]  # per layer (batch, kv heads, past, head size) twice
    seqlens: torch.Tensor  # (batch,) int32: valid tokens in the cache after this step, minus one
    total: torch.Tensor  # () int32: columns of the attention mask
    present: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)


_CACHE: ContextVar[KVCache] = ContextVar("qexport_kv_cache")


@contextmanager
def kv_cache(cache: KVCache) -> Iterator[KVCache]:
    """Make `cache` the one that attention functions use."""
    token = _CACHE.set(cache)
    try:
        yield cache
    finally:
        _CACHE.reset(token)


def register() -> str:
    """Register with transformers; returns the name to build the model with."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, group_query_attention)
    AttentionMaskInterface.register(NAME, causal_mask)
    return NAME


def causal_mask(*args: Any, **kwargs: Any) -> None:
    """The operator masks by itself; refuse the masks that it cannot make.

    Raises LoweringError for bidirectional and chunked attention.
    """
    config: PretrainedConfig | None = kwargs.get("config")
    if "allow_is_bidirectional_skip" in kwargs:
        raise LoweringError("the model attends in both directions; GroupQueryAttention is causal only")
    local_size = kwargs.get("local_size")
    window = getattr(config, "sliding_window", None)
    if local_size is not None and local_size != window:
        raise LoweringError(
            f"the model attends in chunks of {local_size}; GroupQueryAttention knows full and"
            " sliding-window attention only"
        )


def group_query_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """query (batch, heads, new, size), key and value (batch, kv heads, new, size)
    -> (batch, new, heads, size).

    Raises LoweringError for what the operator cannot express.
    """
    _check(module, query, key, value, attention_mask, kwargs)
    cache = _CACHE.get()
    layer: int = module.layer_idx  # type: ignore[assignment]
    past_key, past_value = cache.past[layer]
    batch, heads, new, size = query.shape
    kv_heads = key.shape[1]
    attributes: dict[str, int | float | str | bool] = {"num_heads": heads, "kv_num_heads": kv_heads}
    if scaling is not None:
        attributes["scale"] = float(scaling)
    if sliding_window is not None:
        attributes["local_window_size"] = int(sliding_window)
    if softcap is not None:
        attributes["softcap"] = float(softcap)
    output, present_key, present_value = torch.onnx.ops.symbolic_multi_out(
        OPERATOR,
        (_flat(query), _flat(key), _flat(value), past_key, past_value, cache.seqlens, cache.total),
        attributes,  # type: ignore[arg-type]  # torch's annotation is an invariant dict
        dtypes=(query.dtype, key.dtype, value.dtype),
        # the trace knows the cache's rank only (tracing.trace_text)
        shapes=((batch, new, heads * size), past_key.shape, past_value.shape),
        version=1,
    )
    cache.present[layer] = (present_key, present_value)
    return output.reshape(batch, new, heads, size), None


def _flat(x: torch.Tensor) -> torch.Tensor:
    """(batch, heads, new, size) -> (batch, new, heads * size)."""
    batch, heads, new, size = x.shape
    return x.transpose(1, 2).reshape(batch, new, heads * size)


def _check(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    kwargs: dict[str, Any],
) -> None:
    """Refuse attention that GroupQueryAttention does not compute."""
    where = f"attention of {type(module).__name__}, layer {getattr(module, 'layer_idx', '?')}"
    if attention_mask is not None:
        raise LoweringError(f"{where}: a mask of its own; GroupQueryAttention on CPU makes the causal one")
    if not getattr(module, "is_causal", True) or kwargs.get("is_causal") is False:
        raise LoweringError(f"{where}: not causal; GroupQueryAttention is causal only")
    unknown = sorted(k for k, v in kwargs.items() if v is not None and k not in _WITHOUT_EFFECT)
    if unknown:
        raise LoweringError(
            f"{where}: {', '.join(unknown)} cannot be expressed by GroupQueryAttention; leave this model"
            " to another backend"
        )
    sizes = {query.shape[3], key.shape[3], value.shape[3]}
    if len(sizes) != 1:
        raise LoweringError(f"{where}: head sizes of query, key and value differ ({sorted(sizes)})")
    if query.shape[3] % 8:
        raise LoweringError(f"{where}: head size {query.shape[3]} is not a multiple of 8")
    if query.shape[1] % key.shape[1]:
        raise LoweringError(f"{where}: {query.shape[1]} heads are not a multiple of {key.shape[1]} kv heads")
