"""Attention for ExecuTorch: the fused `llama::custom_sdpa` over KV buffers that the program owns.

transformers lets a model's attention be exchanged by name, so no modelling file is touched.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from exporter.backends.executorch.caches import LayerCache, current_step
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
    step = current_step()
    index: int = module.layer_idx  # type: ignore[assignment]  # transformers gives every attention one
    cache = step.caches[index] if index < len(step.caches) else None
    _refuse(module, index, key, value, cache, attention_mask, options)
    assert cache is not None
    step.used.add(index)
    query, key, value = (states.transpose(1, 2) for states in (query, key, value))  # (1, S, heads, size)
    return cache.attend(query, key, value, step, scaling), None


def _refuse(
    module: torch.nn.Module,
    index: int,
    key: torch.Tensor,
    value: torch.Tensor,
    cache: LayerCache | None,
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
    for states in (key, value):
        found = (states.shape[1], states.shape[3])
        expected = None if cache is None else (cache.shape.kv_heads, cache.shape.head_size)
        if found != expected:
            wanted = "none" if expected is None else f"{expected[0]} heads of size {expected[1]}"
            raise LoweringError(
                f"{place}: keys or values have {found[0]} heads of size {found[1]}, the KV cache has "
                f"{wanted}; ExecuTorch's custom_sdpa takes keys and values of one shape only"
            )
    assert cache is not None
    window = options.get("sliding_window")
    if window != cache.shape.window:
        raise LoweringError(
            f"{place}: attention is called with a sliding window of {window} tokens, the configuration says "
            f"{cache.shape.window}; take the onnxruntime target for this model"
        )


AttentionInterface.register(ATTENTION_NAME, attend)
# No mask is built: a causal mask comes from the start position, a window's from caches.py.
AttentionMaskInterface.register(ATTENTION_NAME, lambda *args, **kwargs: None)
