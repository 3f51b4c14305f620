"""Scales by half-quadratic splitting: large errors of single weights are let go, the rest fits better. NumPy.

Minimises sum |w - q s|^p over groups, p < 1, without calibration data: a sparse part e of the error is split off by the
generalised soft threshold, and the scale is that of w - e. (Badri & Shaji, "Half-Quadratic Quantization of Large
Machine Learning Models", Mobius Labs 2023, equations 2 to 5, with their p, beta and kappa. They move the zero point
under a fixed scale; the kernels here take none with symmetric integers, so the scale moves instead.)
"""

from __future__ import annotations

import numpy as np

from exporter.numerics import FloatArray, QuantizedTensor, quantize, usable_scales
from exporter.schemes import QuantScheme

_P, _BETA, _KAPPA, _STEPS = 0.7, 10.0, 1.01, 20
_CHUNK_ELEMENTS = 1 << 18


def quantized(weight: FloatArray, scheme: QuantScheme) -> QuantizedTensor:
    """A (out, in) weight. Raises ValueError as numerics.quantize, and for a scheme with one scale per tensor."""
    if scheme.group == "tensor":
        raise ValueError(
            "method hqq fits a scale for each group or channel; set group: channel, or method: mse"
        )
    first = quantize(weight, scheme)
    zeros = first.row_zero_points()
    rows, groups = first.scales.shape
    scales, values = np.array(first.scales), np.array(first.values)
    step = max(1, _CHUNK_ELEMENTS // weight.shape[1])
    for start in range(0, rows, step):
        own = slice(start, start + step)
        part = np.asarray(weight[own], np.float32).reshape(-1, groups, weight.shape[1] // groups)
        held = np.zeros_like(scales[own]) if zeros is None else zeros[own].astype(np.float32)
        scales[own], codes = _fitted(part, scales[own], held, scheme.limits)
        values[own] = codes.reshape(-1, weight.shape[1])
    return QuantizedTensor(values, scales, first.zero_points, scheme)


def _fitted(
    groups: FloatArray, scale: FloatArray, zero: FloatArray, limits: tuple[int, int]
) -> tuple[FloatArray, FloatArray]:
    """(rows, groups, size), scales and zero points (rows, groups) -> scales, codes. Stops where the error grows."""
    beta = _BETA
    unit = np.maximum(
        np.abs(groups).mean(axis=2, keepdims=True), np.float32(1e-12)
    )  # thresholds have no units

    def codes_of(found: FloatArray) -> FloatArray:
        found_codes: FloatArray = (
            np.clip(np.rint(groups / found[:, :, None]) + zero[:, :, None], *limits) - zero[:, :, None]
        )
        return found_codes

    def cost(found: FloatArray, codes: FloatArray) -> FloatArray:
        total: FloatArray = np.power(np.abs(groups - codes * found[:, :, None]) / unit, _P).sum(axis=2)
        return total

    codes = codes_of(scale)
    least = cost(scale, codes)
    for _ in range(_STEPS):
        lost = (groups - codes * scale[:, :, None]) / unit
        size = np.abs(lost)
        kept = np.maximum(size - np.power(np.maximum(size, 1e-8), _P - 1) / beta, 0)
        target = groups - np.sign(lost) * kept * unit
        power = (codes * codes).sum(axis=2)
        fit = (codes * target).sum(axis=2) / np.maximum(power, 1e-30)
        tried = usable_scales(np.where((power > 0) & (fit > 0), fit, scale))
        tried_codes = codes_of(tried)
        found = cost(tried, tried_codes)
        better = found < least
        if not better.any():
            break
        least = np.where(better, found, least)
        scale = np.where(better, tried, scale)
        codes = np.where(better[:, :, None], tried_codes, codes)
        beta *= _KAPPA
    return scale, codes + zero[:, :, None]
