"""The rounding that a runtime applies to activations and to its KV cache, done in PyTorch for a fair reference.

Lowering error is measured against a model that rounds as the runtime does; otherwise the noise of that
rounding would be taken for a fault of the lowering.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

Attended = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # queries, keys and values
# (layer, queries, keys, values), (batch, heads, tokens, head size) each -> the same as attention computes with them
CacheRounding = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], Attended]
_LOW, _HIGH = -128.0, 127.0


def fake_quantize_activations(x: torch.Tensor) -> torch.Tensor:
    """(…, features) float32 -> the values that XNNPACK's dynamic int8 stands for, a row being a token.

    Per row: the range [min, max] is widened to hold zero, mapped onto [-128, 127]; the zero point is
    taken from the end with the smaller rounding error, then rounded; rounding is half to even.
    Source: xnn_f32_qd8_asymmetric_quantization_params in XNNPACK's src/xnnpack/quantization.h and its
    f32-qs8-vcvt kernels (multiply by the inverse scale, clamp to high - zero point, round, add).
    """
    smallest = x.amin(dim=-1, keepdim=True).clamp(max=0.0)
    largest = x.amax(dim=-1, keepdim=True).clamp(min=0.0)
    span = largest - smallest
    inverse_scale = torch.where(span == 0, torch.ones_like(span), (_HIGH - _LOW) / span)
    low_end, high_end = smallest * inverse_scale, largest * inverse_scale
    from_low = (_LOW + low_end) + (_HIGH + high_end) > 0
    zero_point = torch.where(from_low, _LOW - low_end, _HIGH - high_end).clamp(_LOW, _HIGH).round()
    codes = (x * inverse_scale).round_()
    codes.clamp_(min=_LOW - zero_point, max=_HIGH - zero_point)
    return codes.mul_(1.0 / inverse_scale)


def fake_quantize_int8_cache(x: torch.Tensor) -> torch.Tensor:
    """(…, head size) float32 keys or values -> what an int8 cache with a scale per token and head holds.

    Source: choose_qparams_per_token_asymmetric, quantize_per_token and dequantize_per_token in
    torch/ao/quantization/fx/_decomposed.py, as ExecuTorch's QuantizedKVCache calls them
    (examples/models/llama/source_transformation/custom_kv_cache.py).
    """
    smallest = x.amin(dim=-1, keepdim=True).clamp(max=0.0)
    largest = x.amax(dim=-1, keepdim=True).clamp(min=0.0)
    scale = ((largest - smallest) / (_HIGH - _LOW)).clamp(min=torch.finfo(torch.float32).eps)
    low_end, high_end = smallest / scale, largest / scale
    from_low = (_LOW + low_end) + (_HIGH + high_end) > 0
    zero_point = torch.where(from_low, _LOW - low_end, _HIGH - high_end).clamp(_LOW, _HIGH).round()
    codes = (x / scale).add_(zero_point).round_().clamp_(_LOW, _HIGH)
    return codes.sub_(zero_point).mul_(scale)


def fake_float16_cache(x: torch.Tensor) -> torch.Tensor:
    """(…, head size) float32 keys or values -> the float16 numbers that a half-precision cache holds."""
    return x.half().float()


def fixed_scale_cache(scales: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> CacheRounding:
    """An int8 cache whose scales never change: per layer those of keys and of values, (1, kv heads, 1, head size).

    x is held as clip(rint(x / scale), -128, 127), as ONNX Runtime's GroupQueryAttention does
    (onnxruntime/core/mlas/lib/qkv_quant.cpp).
    """
    held = [(torch.from_numpy(key), torch.from_numpy(value)) for key, value in scales]

    def rounding(layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> Attended:
        (a, b) = held[layer]
        return query, _on_grid(key, a), _on_grid(value, b)

    return rounding


def _on_grid(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (x * (1.0 / scale)).round_().clamp_(_LOW, _HIGH).mul_(scale)


def _alike(rounding: Callable[[torch.Tensor], torch.Tensor]) -> CacheRounding:
    """ExecuTorch's kernels take queries in the same type as the cache."""
    return lambda layer, query, key, value: (rounding(query), rounding(key), rounding(value))


# By Target.kv_cache, where it needs nothing but the numbers themselves.
CACHE_ROUNDING: Mapping[str, CacheRounding] = {
    "int8": _alike(fake_quantize_int8_cache),
    "float16": _alike(fake_float16_cache),
}
