"""Scales and zero points of activations, by the name of the value. Pure data and NumPy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.numerics import FloatArray

_SMALLEST_NORMAL = np.float32(2.0**-126)
# A bias beyond it is no longer exact in float32, and a runtime that reads it as float32 would hold another integer.
# With 16-bit activations, whose steps are finer, every runtime reads int32.
_LARGEST_BIAS = {8: 2**23, 16: 2**31 - 1}
_BIAS_STEPS = {8: 2**22, 16: 2**29}  # what weight scales leave room for


@dataclass(frozen=True)
class ValueParams:
    """value ~= (code - zero_point) * scale, one scale for the whole tensor, code in [low, high]."""

    scale: float  # a float32 number
    zero_point: int
    low: int
    high: int

    @property
    def bits(self) -> int:
        """8, 16 or 32."""
        return next(bits for bits in (8, 16, 32) if self.high - self.low < 1 << bits)

    @property
    def dtype(self) -> str:
        """NumPy's name of the narrowest integer type that holds the codes."""
        return f"int{self.bits}" if self.low < 0 else f"uint{self.bits}"

    @property
    def smallest(self) -> float:
        """The value of the lowest code."""
        return (self.low - self.zero_point) * self.scale

    @property
    def largest(self) -> float:
        """The value of the highest code."""
        return (self.high - self.zero_point) * self.scale

    def codes(self, x: FloatArray) -> NDArray[np.int64]:
        """Nearest codes, half to even, clipped: quantize_per_tensor of PyTorch's quantized_decomposed."""
        inverse = np.float32(1.0 / np.float32(self.scale))
        codes = np.rint(np.asarray(x, np.float32) * inverse) + self.zero_point
        found: NDArray[np.int64] = np.clip(codes, self.low, self.high).astype(np.int64)
        return found

    def values(self, codes: NDArray[Any]) -> FloatArray:
        """float32 values that the codes stand for."""
        found: FloatArray = (codes - self.zero_point).astype(np.float32) * np.float32(self.scale)
        return found


def params_for(smallest: float, largest: float, limits: tuple[int, int]) -> ValueParams:
    """The scale and zero point that just cover [smallest, largest], widened so that zero has a code of its own.

    Zero must be exact: convolutions pad with it, and ReLU cuts there. (Jacob et al., Quantization and Training
    of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR 2018, section 2.1.)
    """
    low, high = limits
    smallest, largest = min(float(smallest), 0.0), max(float(largest), 0.0)
    scale = np.float32((largest - smallest) / (high - low))
    if not scale >= _SMALLEST_NORMAL:  # all zeros, or too small for a kernel
        scale = np.float32(1.0)
    zero_point = int(np.clip(np.rint(low - smallest / float(scale)), low, high))
    return ValueParams(float(scale), zero_point, low, high)


def symmetric_params(smallest: float, largest: float, limits: tuple[int, int]) -> ValueParams:
    """As params_for, with code 0 for zero and as many codes below it as above (TOSA 1.0: int16 has no zero point)."""
    high = limits[1]
    scale = np.float32(max(abs(float(smallest)), abs(float(largest))) / high)
    if not scale >= _SMALLEST_NORMAL:
        scale = np.float32(1.0)
    return ValueParams(float(scale), 0, -high, high)


def wide_params(smallest: float, largest: float) -> ValueParams:
    """int32 codes of a constant that is added to wide sums; half of them, so that no rounding overflows."""
    scale = np.float32(max(abs(float(smallest)), abs(float(largest))) / 2**30)
    if not scale >= _SMALLEST_NORMAL:
        scale = np.float32(1.0)
    return ValueParams(float(scale), 0, -(2**31), 2**31 - 1)


@dataclass(frozen=True)
class LayerValues:
    """Names of the values that a static layer takes and gives."""

    input: str
    output: str


@dataclass(frozen=True)
class StaticPlan:
    """What calibration found: parameters of every value that is held as integers, and each layer's two."""

    values: Mapping[str, ValueParams]
    layers: Mapping[str, LayerValues]
    means: Mapping[str, tuple[float, ...]]  # layer -> mean of each channel of what it takes

    def input_of(self, layer: str) -> ValueParams:
        """Parameters of what the layer takes."""
        return self.values[self.layers[layer].input]

    def output_of(self, layer: str) -> ValueParams:
        """Parameters of what the layer gives."""
        return self.values[self.layers[layer].output]

    def unsigned(self, wide: bool = False) -> StaticPlan:
        """The same values with 8-bit codes from 0 on: code and zero point 128 higher, every value as it was.

        `wide`: 16-bit ones too, 32,768 higher.
        """
        widths = (8, 16) if wide else (8,)
        moved = {
            name: _from_zero(value) if value.bits in widths else value for name, value in self.values.items()
        }
        return replace(self, values=moved)

    @property
    def sha256(self) -> str:
        """Hash over names, scales and zero points."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Plain data; from_json reads it. A float32 scale survives JSON exactly."""
        return {
            "values": {name: asdict(value) for name, value in self.values.items()},
            "layers": {name: asdict(value) for name, value in self.layers.items()},
            "means": {name: list(values) for name, values in self.means.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StaticPlan:
        """The plan that to_json wrote. Raises KeyError or TypeError for other data."""
        return cls(
            {name: ValueParams(**value) for name, value in data["values"].items()},
            {name: LayerValues(**value) for name, value in data["layers"].items()},
            {name: tuple(values) for name, values in data["means"].items()},
        )


def _from_zero(value: ValueParams) -> ValueParams:
    if value.low >= 0:
        return value
    low = -(1 << value.bits - 1)
    return replace(value, zero_point=value.zero_point - low, low=value.low - low, high=value.high - low)


def bias_scales(input_scale: float, weight_scales: FloatArray) -> FloatArray:
    """(out,) float32 scales of an int32 bias: those of the sums that it is added to."""
    found: FloatArray = np.float32(input_scale) * weight_scales.reshape(-1).astype(np.float32)
    return found


def least_weight_scales(bias: FloatArray, values: ValueParams, output: ValueParams) -> FloatArray:
    """(out,) the smallest weight scale with which a kernel can compute each row.

    A channel that a folded batch norm all but switches off has weights near zero and a bias that is not: in units
    of its sums that bias would not fit. A larger scale loses nothing, for such weights are below a step of the
    output. The second bound keeps the factor from sums to output codes within what kernels take (XNNPACK: 2^-32).
    """
    step = np.maximum(np.abs(bias) / _BIAS_STEPS[values.bits], output.scale * 2.0**-24)
    found: FloatArray = (step / values.scale).astype(np.float32)
    return found


def bias_correction(weight: FloatArray, held: FloatArray, means: FloatArray, groups: int) -> FloatArray:
    """(out,) what a layer's output loses on average because of `held` instead of `weight`, to be added to its bias.

    Both (out, in / groups, …), `means` (in,): of each channel of the input. Rounding errors of one row do not
    cancel where inputs are never negative, as behind a ReLU. (Nagel et al., Data-Free Quantization Through Weight
    Equalization and Bias Correction, ICCV 2019, section 4.2; with measured means.)
    """
    error = (
        (weight.astype(np.float64) - held).reshape(*weight.shape[:2], -1).sum(axis=2)
    )  # (out, in / groups)
    by_group = means.astype(np.float64).reshape(groups, -1)
    of_row = np.repeat(by_group, len(weight) // groups, axis=0)  # (out, in / groups)
    found: FloatArray = (error * of_row).sum(axis=1).astype(np.float32)
    return found


def quantize_bias(
    bias: FloatArray, values: ValueParams, weight_scales: FloatArray
) -> tuple[NDArray[np.int32], FloatArray]:
    """(out,) float32 bias -> integers in units of the input's scale times weight scale, and those units.

    Raises ValueError where an integer is too large: beside 8-bit `values` it must be exact in float32, as one
    runtime's file holds it; beside 16-bit ones it must fit into int32.
    """
    scales = bias_scales(values.scale, weight_scales)
    codes = np.rint(bias.astype(np.float64) / scales)
    largest = _LARGEST_BIAS[values.bits]
    if codes.size and np.abs(codes).max() > largest:
        row = int(np.abs(codes).argmax())
        raise ValueError(
            f"bias[{row}] is {bias[row]:.6g}, {codes[row]:.0f} steps of its scale {scales[row]:.3g}; at most "
            f"{largest:,} are exact"
        )
    return codes.astype(np.int32), scales
