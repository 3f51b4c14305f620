"""A layer's integers by the method that its scheme names, judged by the error of the layer's output."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from exporter.methods import hqq
from exporter.methods.gptq import Spread, rounded_along, spread_of
from exporter.methods.scales import output_error, output_power, refitted
from exporter.numerics import FloatArray, QuantizedTensor, quantize
from exporter.rotation import rotated, rotated_moments
from exporter.schemes import QuantScheme

_REFITS = 2  # of scales to GPTQ's integers, each with its integers anew; a third gains 1 %


@dataclass(frozen=True)
class Seen:
    """What calibration saw a layer take."""

    moments: NDArray[np.float64]  # (in, in) mean of x xT
    spread: Spread | None  # of them; layers of one input share it

    @property
    def power(self) -> FloatArray:
        """(in,) mean squares."""
        return np.diag(self.moments).astype(np.float32)

    @classmethod
    def of(cls, moments: NDArray[np.float64], rotate: int | None) -> Seen:
        """Of (in, in) moments of the layer's input as the model has it, for a scheme that rotates it so. Raises
        ValueError as spread_of."""
        turned = moments if rotate is None else rotated_moments(moments, rotate)
        return cls(turned, spread_of(turned))


@dataclass(frozen=True)
class Choice:
    """Integers, and how they came to be."""

    tensor: QuantizedTensor
    method: str
    errors: dict[str, float]  # method -> share of the output's power that is lost, for each that was tried


def chosen(weight: FloatArray, scheme: QuantScheme, seen: Seen) -> Choice:
    """Integers of a (out, in) weight by the scheme's method; `auto` tries them all and keeps the least error.

    `weight` as the model has it; `seen` of the input that the scheme has rotated (Seen.of). Raises ValueError for a
    weight that is not finite and a group that does not fit (numerics.quantize).
    """
    if scheme.rotate is not None:
        weight = rotated(weight, scheme.rotate)
    tried = {
        name: _by(name, weight, replace(scheme, method=name), seen)
        for name in (("mse", "wmse", "hqq", "gptq") if scheme.method == "auto" else (scheme.method,))
        if name != "hqq" or scheme.group != "tensor"
    }
    whole = output_power(weight, seen.moments) or 1.0
    errors = {
        name: float(output_error(weight, found, seen.moments).sum()) / whole for name, found in tried.items()
    }
    best = min(errors, key=errors.__getitem__)
    tensor = tried[best]
    return Choice(QuantizedTensor(tensor.values, tensor.scales, tensor.zero_points, scheme), best, errors)


def _by(method: str, weight: FloatArray, scheme: QuantScheme, seen: Seen) -> QuantizedTensor:
    if method == "hqq":
        return hqq.quantized(weight, scheme)
    if method in ("rtn", "mse"):
        return quantize(weight, scheme)
    found = quantize(weight, scheme, power=seen.power)
    return found if method == "wmse" else _gptq(weight, found, seen)


def _gptq(weight: FloatArray, searched: QuantizedTensor, seen: Seen) -> QuantizedTensor:
    """GPTQ's integers, and its integers again for the scales that fit those best, row by row whichever loses less."""
    best = rounded_along(weight, searched, [seen.spread])
    if not searched.scheme.symmetric or searched.scheme.group == "tensor" or seen.spread is None:
        return best
    least = output_error(weight, best, seen.moments)
    values, scales = np.array(best.values), np.array(best.scales)
    for _ in range(_REFITS):
        held = QuantizedTensor(values, scales, None, searched.scheme)
        tried = rounded_along(weight, refitted(weight, held, seen.moments), [seen.spread])
        error = output_error(weight, tried, seen.moments)
        better = error < least
        values[better], scales[better] = tried.values[better], tried.scales[better]
        least = np.where(better, error, least)
    return QuantizedTensor(values, scales, None, searched.scheme)
