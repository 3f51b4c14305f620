"""The quantisation that a runtime applies to activations, done in PyTorch for a fair reference.

Lowering error is measured against a model that quantises its activations as the runtime does;
otherwise quantisation noise of the activations would be taken for a fault of the lowering.
"""

from __future__ import annotations

import torch

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
    codes = (x * inverse_scale).round().clamp(_LOW - zero_point, _HIGH - zero_point)
    return codes * (1.0 / inverse_scale)
