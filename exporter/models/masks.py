"""What a transformers model's attention may see, as a bias on its scores, whatever the model.

transformers asks AttentionMaskInterface for a mask and hands over a function of positions (both directions, a window,
causal). That function is evaluated once on plain numbers: where it lets everything through, padding alone is left;
where nothing is padded either, there is no mask at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from exporter.errors import LoweringError, first_line

# Added to a score that must not count: its exponential is 0 in float32, and the sum of two is still finite.
HIDDEN = -1e30

MaskFunction = Callable[[Any, Any, Any, Any], torch.Tensor]  # batch, head, query, key -> may be seen


@dataclass(frozen=True)
class Masking:
    """What one trace needs to know."""

    longest: int  # tokens of the longest sequence
    padded: bool  # False: one sequence at a time, none of whose tokens is padding


_MASKING: ContextVar[Masking] = ContextVar("qexport_masking")


@contextmanager
def masking(longest: int, padded: bool) -> Iterator[None]:
    """Inside, masks are made for sequences of at most `longest` tokens."""
    token = _MASKING.set(Masking(longest, padded))
    try:
        yield
    finally:
        _MASKING.reset(token)


def score_bias(
    batch_size: Any,
    q_length: Any,
    kv_length: Any,
    mask_function: MaskFunction,
    attention_mask: torch.Tensor | None = None,
    q_offset: Any = 0,
    kv_offset: Any = 0,
    **_: Any,
) -> torch.Tensor | None:
    """(batch or 1, 1, queries or 1, keys) float32, 0 or HIDDEN; None where everything may be seen.

    For AttentionMaskInterface. Raises LoweringError for a mask that is no function of positions.
    """
    how = _MASKING.get()
    allowed: torch.Tensor | None = None
    if not _sees_all(mask_function, how.longest):
        batch, head = torch.arange(batch_size)[:, None, None, None], torch.arange(1)[None, :, None, None]
        query = (torch.arange(q_length) + q_offset)[None, None, :, None]
        key = (torch.arange(kv_length) + kv_offset)[None, None, None, :]
        try:
            allowed = mask_function(batch, head, query, key)
        except Exception as problem:  # transformers' and the model's own code
            raise LoweringError(
                f"the model's attention mask is no function of positions ({first_line(problem)}); lower this model "
                "with `task: module`"
            ) from problem
    if how.padded and attention_mask is not None:
        valid = attention_mask[:, None, None, :].to(torch.bool)
        allowed = valid if allowed is None else allowed & valid
    return None if allowed is None else (~allowed).to(torch.float32) * HIDDEN


def _sees_all(mask_function: MaskFunction, longest: int) -> bool:
    """Whether every token may see every other one; False too where that takes a traced tensor to tell."""
    with _disable_current_modes():
        place = torch.arange(longest)
        try:
            seen = mask_function(torch.tensor(0), torch.tensor(0), place[:, None], place[None, :])
            return bool(seen.all())
        except Exception:  # a mask that closes over a traced tensor cannot be evaluated here
            return False


def plain_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None,
    scaling: float | None,
    softcap: float | None = None,
) -> torch.Tensor:
    """Attention by matrix products: query (batch, heads, n, size), key and value (batch, kv heads, length, size)
    -> (batch, n, heads, size)."""
    key, value = repeated(key, query.shape[1]), repeated(value, query.shape[1])
    factor = query.shape[3] ** -0.5 if scaling is None else scaling
    scores = torch.matmul(query * factor if factor != 1 else query, key.transpose(2, 3))
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if bias is not None:
        scores = scores + bias
    return torch.matmul(torch.softmax(scores, dim=-1), value).transpose(1, 2)


def repeated(states: torch.Tensor, heads: int) -> torch.Tensor:
    """(batch, kv heads, length, size) -> (batch, heads, length, size), each kv head for its group of heads."""
    batch, kv_heads, length, size = states.shape
    if kv_heads == heads:
        return states
    groups = heads // kv_heads
    if kv_heads == 1:
        return torch.cat([states] * groups, dim=1)
    return (
        states[:, :, None].expand(batch, kv_heads, groups, length, size).reshape(batch, heads, length, size)
    )


# What modelling code hands to every attention function and that changes nothing here.
_WITHOUT_EFFECT = frozenset(
    {
        "position_ids", "position_embeddings", "cache_position", "past_key_values", "use_cache", "output_attentions",
        "output_hidden_states", "return_dict", "is_causal", "dropout", "deterministic", "num_items_in_batch",
        "layer_idx", "sliding_window", "logits_to_keep",
    }
)  # fmt: skip


def check_attention(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, options: dict[str, Any]
) -> None:
    """Refuse what neither plain attention nor MultiHeadAttention computes. Raises LoweringError.

    `is_causal` and `sliding_window` say what the mask holds already.
    """
    where = f"attention of {type(module).__name__}, layer {getattr(module, 'layer_idx', '?')}"
    unknown = sorted(k for k, v in options.items() if v is not None and k not in _WITHOUT_EFFECT)
    if unknown:
        raise LoweringError(
            f"{where}: {', '.join(unknown)} is no part of attention as it is lowered here; leave its layers to "
            "`task: module`"
        )
    if query.shape[1] % key.shape[1]:
        raise LoweringError(f"{where}: {query.shape[1]} heads are not a multiple of {key.shape[1]} kv heads")


def attend(
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
    """query (1, heads, n, size), key and value (1, kv heads, n, size) -> (1, n, heads, size), by matrix products, which
    any backend runs with everything around. For AttentionInterface; raises LoweringError as check_attention does."""
    check_attention(module, query, key, options)
    bias = position_bias if attention_mask is None else attention_mask
    if position_bias is not None and attention_mask is not None:
        bias = position_bias + attention_mask
    return plain_attention(query, key, value, bias, scaling, softcap), None
