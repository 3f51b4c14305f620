"""Attention for ExecuTorch: the fused `llama::custom_sdpa` over KV buffers that the program owns.

transformers lets a model's attention be exchanged by name, so no modelling file is touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import executorch.extension.llm.custom_ops.custom_ops  # noqa: F401  registers llama::custom_sdpa, update_cache
import torch
from transformers import AttentionInterface, AttentionMaskInterface

from exporter.errors import LoweringError

ATTENTION_NAME = "qexport_executorch"

# Options that change what attention computes and that custom_sdpa has no argument for, each with what
# it is called in a message. Options beside these do not change the result in inference.
_UNSUPPORTED_OPTIONS = {
    "softcap": "attention logit soft-capping",
    "s_aux": "attention sinks",
    "head_mask": "a head mask",
    "position_bias": "a position bias",
}


@dataclass
class KeyValueCache:
    """KV buffers by layer index, each (1, max_context, kv heads, head size), and where to write."""

    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    start: Any  # int, a SymInt while tracing
    used: set[int] = field(default_factory=set)  # layer indices that attention was called for

    @property
    def max_context(self) -> int:
        """Tokens that the buffers hold."""
        return self.keys[0].shape[1]


_active: list[KeyValueCache] = []


@contextmanager
def active_cache(cache: KeyValueCache) -> Iterator[None]:
    """Let attend() read and write this cache."""
    _active.append(cache)
    try:
        yield
    finally:
        _active.pop()


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """query (1, heads, S, size), key and value (1, kv heads, S, size) -> (1, S, heads, size).

    Raises LoweringError for an attention that custom_sdpa cannot compute.
    """
    cache = _active[-1]
    index: int = module.layer_idx  # type: ignore[assignment]  # transformers gives every attention one
    _refuse(module, index, key, value, cache, attention_mask, options)
    cache.used.add(index)
    query, key, value = (states.transpose(1, 2) for states in (query, key, value))  # (1, S, heads, size)
    keys, values = cache.keys[index], cache.values[index]
    torch.ops.llama.update_cache(key, keys, cache.start)
    torch.ops.llama.update_cache(value, values, cache.start)
    result = torch.ops.llama.custom_sdpa(query, keys, values, cache.start, None, 0.0, True, scaling)
    return result, None


def _refuse(
    module: torch.nn.Module,
    index: int,
    key: torch.Tensor,
    value: torch.Tensor,
    cache: KeyValueCache,
    attention_mask: torch.Tensor | None,
    options: dict[str, Any],
) -> None:
    """Raise LoweringError where custom_sdpa would compute something else than the model means."""
    place = f"attention of layer {index}"
    for option, meaning in _UNSUPPORTED_OPTIONS.items():
        if options.get(option) is not None:
            raise LoweringError(
                f"{place}: {meaning} ({option}={options[option]}) is beyond ExecuTorch's custom_sdpa; "
                "take the onnxruntime target for this model"
            )
    if attention_mask is not None:
        raise LoweringError(
            f"{place}: the model builds an attention mask of its own; ExecuTorch's custom_sdpa is lowered "
            "with a causal mask only; take the onnxruntime target for this model"
        )
    is_causal = options.get("is_causal", getattr(module, "is_causal", True))
    if is_causal is False:
        raise LoweringError(
            f"{place}: attention that is not causal has no KV cache to run in; lower this model with "
            "`task: module`"
        )
    window = options.get("sliding_window")
    if window is not None and window < cache.max_context:
        raise LoweringError(
            f"{place}: a sliding window of {window} tokens is shorter than max_context "
            f"{cache.max_context}, and ExecuTorch's custom_sdpa has no window; set the target's "
            f"max_context to {window} or less"
        )
    expected = cache.keys[index].shape[2:] if index < len(cache.keys) else None
    for states in (key, value):
        found = (states.shape[1], states.shape[3])
        if expected is None or found != tuple(expected):
            wanted = "none" if expected is None else f"{expected[0]} heads of size {expected[1]}"
            raise LoweringError(
                f"{place}: keys or values have {found[0]} heads of size {found[1]}, the KV cache has "
                f"{wanted}; ExecuTorch's custom_sdpa takes keys and values of one shape only"
            )


AttentionInterface.register(ATTENTION_NAME, attend)
# No mask is built: custom_sdpa is causal from the start position on.
AttentionMaskInterface.register(ATTENTION_NAME, lambda *args, **kwargs: None)
