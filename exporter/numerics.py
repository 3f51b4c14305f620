"""Integers once: scales, rounding and packing, in NumPy, before any backend sees a weight.

Conventions
- weight ~= (values - zero_points) * scales, values int8 of shape (out, in).
- scales are float32 numbers that bf16 holds exactly: they are rounded to bf16 BEFORE the integers
  are computed, because XNNPACK stores block-wise int4 scales in bf16
  (backends/xnnpack/operators/node_visitor.py in executorch) and both runtimes must hold one number.
- groups run along the input axis, the axis a matrix product sums over.
- scales of a static layer's groups are whole steps of one bf16 scale of their row (exporter.blocks).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.blocks import stepped
from exporter.schemes import QuantScheme

FloatArray = NDArray[np.float32]
Int8Array = NDArray[np.int8]

# Factors tried on the scale that just covers a group (1.0 being that scale). Below 1 the outermost
# weights are clipped, which pays for Gaussian groups at 4 bits (optimum near 0.8).
_FACTORS = (1.1, 1.05, 1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
_CHUNK_ELEMENTS = 1 << 18  # rows are searched in chunks that stay in the L2 cache
_SMALLEST_NORMAL = np.float32(2.0**-126)


@dataclass(frozen=True)
class QuantizedTensor:
    """One layer's integers: what every backend repacks and none recomputes."""

    values: Int8Array  # (out, in)
    scales: FloatArray  # (out, groups); (1, 1) for one scale per tensor
    zero_points: Int8Array | None  # like scales; None when symmetric
    scheme: QuantScheme

    def __post_init__(self) -> None:
        out_features, in_features = self.values.shape
        expected = (
            (1, 1) if self.scheme.group == "tensor" else (out_features, self.scheme.groups(in_features))
        )
        if self.scales.shape != expected:
            raise ValueError(
                f"scales {self.scales.shape} for values {self.values.shape}, expected {expected}"
            )
        if (self.zero_points is None) != self.scheme.symmetric:
            raise ValueError("zero points belong to asymmetric schemes, and only to those")

    @property
    def integers_sha256(self) -> str:
        """Hash over the (out, in) int8 integers in C order."""
        return sha256_of(self.values)

    @property
    def scales_sha256(self) -> str:
        """Hash over the (out, groups) float32 scales in C order."""
        return sha256_of(self.scales)

    def dequantized(self) -> FloatArray:
        """(out, in) float32 weights that the integers stand for."""
        out_features, in_features = self.values.shape
        groups = self.scales.shape[1]
        values = self.values.reshape(out_features, groups, in_features // groups).astype(np.float32)
        if self.zero_points is not None:
            values -= self.zero_points[:, :, None].astype(np.float32)
        values *= self.scales[:, :, None]
        return values.reshape(out_features, in_features)

    def row_scales(self) -> FloatArray:
        """(out, groups) scales, a per-tensor scale repeated for each row."""
        return np.ascontiguousarray(
            np.broadcast_to(self.scales, (self.values.shape[0], self.scales.shape[1]))
        )

    def row_zero_points(self) -> Int8Array | None:
        """(out, groups) zero points, repeated like row_scales."""
        if self.zero_points is None:
            return None
        return np.ascontiguousarray(np.broadcast_to(self.zero_points, self.row_scales().shape))


def save_arrays(path: str | Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Arrays by name into one .npz."""
    np.savez(path, **arrays)  # type: ignore[arg-type]  # any of them could be called allow_pickle, for mypy


def sha256_of(array: NDArray[np.generic]) -> str:
    """sha256 of an array's bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def round_to_bf16(x: FloatArray) -> FloatArray:
    """Nearest bfloat16, ties to even, returned as float32 (IEEE 754 round to nearest)."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)


def bf16_bits(x: FloatArray) -> NDArray[np.uint16]:
    """The upper halves of float32 numbers that bfloat16 holds exactly, as every scale. Raises ValueError for others."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    other = np.flatnonzero(bits & np.uint32(0xFFFF))
    if other.size:
        raise ValueError(
            f"{other.size} of {bits.size} numbers are none of bfloat16, the first is"
            f" {np.ravel(x)[other[0]]}; round scales with round_to_bf16 before the integers are computed"
        )
    return (bits >> np.uint32(16)).astype(np.uint16)


def from_bf16_bits(bits: NDArray[np.uint16]) -> FloatArray:
    """Inverse of bf16_bits, exact."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def check_finite(rows: FloatArray, first: int = 0) -> None:
    """Raise ValueError naming the element of a weight that is not finite; `rows` are its rows from `first` on."""
    if not np.isfinite(rows).all():
        row, column = np.argwhere(~np.isfinite(rows))[0]
        raise ValueError(f"weight[{first + row}, {column}] is {rows[row, column]}")


def quantize(
    weight: FloatArray,
    scheme: QuantScheme,
    least: FloatArray | None = None,
    power: FloatArray | None = None,
) -> QuantizedTensor:
    """Quantise a (out, in) float32 weight.

    `least`: (out,) the smallest scale that each row may have, for a kernel whose sums must reach as far as a
    bias does. `power`: (in,) mean square of each input, for a search that weighs errors by it. Raises ValueError
    for a weight that is not finite, has no two axes, or whose input axis the group does not divide.
    """
    if weight.ndim != 2:
        raise ValueError(f"a weight of shape {weight.shape} is not (out, in)")
    out_features, in_features = weight.shape
    if isinstance(scheme.group, int) and in_features % scheme.group:
        raise ValueError(f"group {scheme.group} does not divide the {in_features} input features")
    weight = np.ascontiguousarray(weight, dtype=np.float32)
    check_finite(weight)
    if scheme.group == "tensor":
        rows = weight.reshape(1, 1, -1)  # one group holds everything
    else:
        rows = weight.reshape(out_features, scheme.groups(in_features), -1)  # (out, groups, group)
    values = np.empty(rows.shape, np.int8)
    scales = np.empty(rows.shape[:2], np.float32)
    zero_points = None if scheme.symmetric else np.empty(rows.shape[:2], np.int8)
    floor = _floor(least, scheme, rows.shape[0])  # (out, 1)
    shared = None if power is None else _by_group(power, rows.shape, out_features)
    step = max(1, _CHUNK_ELEMENTS // (rows.shape[1] * rows.shape[2]))
    for start in range(0, rows.shape[0], step):
        part = slice(start, start + step)
        values[part], scales[part], zeros = _quantize_groups(rows[part], scheme, floor[part], shared)
        if zero_points is not None and zeros is not None:
            zero_points[part] = zeros
    return QuantizedTensor(values.reshape(out_features, in_features), scales, zero_points, scheme)


def _floor(least: FloatArray | None, scheme: QuantScheme, rows: int) -> FloatArray:
    """(rows, 1) the smallest scale of each row, rounded up to bf16; 0 where there is no such."""
    if least is None:
        return np.zeros((rows, 1), np.float32)
    # 2^-7 is more than bf16's step, so that rounding to nearest does not go below
    raised = round_to_bf16(np.asarray(least, np.float32) * np.float32(1 + 2.0**-7))
    return np.full((1, 1), raised.max(), np.float32) if scheme.group == "tensor" else raised.reshape(rows, 1)


def _by_group(power: FloatArray, shape: tuple[int, ...], out_features: int) -> FloatArray:
    """(in,) -> (1, groups, size), as the rows of a weight are cut; inputs without power count a little."""
    floor = np.float32(max(1e-6 * float(power.mean()), 1e-30))
    raised = np.maximum(np.asarray(power, np.float32), floor)
    if shape[0] != out_features:  # one group for the whole tensor: its rows follow each other
        raised = np.tile(raised, out_features)
    return raised.reshape(1, *shape[1:])


def _quantize_groups(
    groups: FloatArray, scheme: QuantScheme, floor: FloatArray, power: FloatArray | None = None
) -> tuple[Int8Array, FloatArray, Int8Array | None]:
    """(rows, groups, size) -> integers of that shape, scales and zero points of (rows, groups).

    Method "rtn" takes the scale that just covers the group. Method "mse" takes, of several scales and
    their least-squares refits, the one of least squared error weighted by the square of the weight:
    an error on a large weight costs more. The weighting is that of ggml's make_qx_quants
    (ggml/src/ggml-quants.c); unweighted, the search loses to "rtn" in KL (docs/design.md). With the `power` of
    inputs, (1, groups, size), the weighting is that: the error of the layer's output where inputs do not go together.
    """
    low, high = scheme.limits
    searches = scheme.method != "rtn"
    if power is None or not searches:
        importance = np.square(groups) if searches else np.ones_like(groups)
    else:
        importance = np.ascontiguousarray(np.broadcast_to(power, groups.shape))
    best_error = np.full(groups.shape[:2], np.inf, np.float32)
    best_scale = np.ones(groups.shape[:2], np.float32)
    best_zero = np.zeros(groups.shape[:2], np.float32)
    smallest, largest = groups.min(axis=2), groups.max(axis=2)
    for factor in _FACTORS if searches else (1.0,):
        scale, zero = _scale_for(smallest * np.float32(factor), largest * np.float32(factor), scheme, floor)
        for refit in range(2 if searches else 1):
            codes = _codes(groups, scale, zero, low, high)
            codes -= zero[:, :, None]
            if refit:  # the scale that fits these integers best, then their nearest integers again
                power = np.einsum("rgk,rgk,rgk->rg", importance, codes, codes)
                fit = np.einsum("rgk,rgk,rgk->rg", importance, codes, groups)
                scale = _usable(np.where(power > 0, fit / np.maximum(power, 1e-30), scale), floor)
                codes = _codes(groups, scale, zero, low, high)
                codes -= zero[:, :, None]
            codes *= scale[:, :, None]
            codes -= groups
            error = np.einsum("rgk,rgk,rgk->rg", importance, codes, codes)
            better = error < best_error
            best_error = np.where(better, error, best_error)
            best_scale = np.where(better, scale, best_scale)
            best_zero = np.where(better, zero, best_zero)
    if scheme.steps_scales:
        best_scale = stepped(np.where(groups.any(axis=2), best_scale, np.float32(0)), floor)
    values = _codes(groups, best_scale, best_zero, low, high).astype(np.int8)
    return values, best_scale, None if scheme.symmetric else best_zero.astype(np.int8)


def _codes(groups: FloatArray, scale: FloatArray, zero: FloatArray, low: int, high: int) -> FloatArray:
    """Nearest integer code (ties to even) as float32, clipped to [low, high]."""
    codes = groups / scale[:, :, None]
    np.rint(codes, out=codes)
    codes += zero[:, :, None]
    return np.clip(codes, low, high, out=codes)


def _scale_for(
    smallest: FloatArray, largest: FloatArray, scheme: QuantScheme, floor: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Scale and zero point that just cover [smallest, largest], the scale already rounded to bf16."""
    low, high = scheme.limits
    if scheme.symmetric:
        scale = _usable(np.maximum(largest / np.float32(high), smallest / np.float32(low)), floor)
        return scale, np.zeros_like(scale)
    smallest, largest = np.minimum(smallest, 0), np.maximum(largest, 0)  # zero stays representable
    scale = _usable((largest - smallest) / np.float32(high - low), floor)
    zero = np.clip(np.rint(low - smallest / scale), low, high)
    return scale, zero.astype(np.float32)


def usable_scales(scale: FloatArray) -> FloatArray:
    """Scales as kernels take them: bf16-rounded, positive and normal."""
    return _usable(scale, np.zeros((1, 1), np.float32))


def _usable(scale: FloatArray, floor: FloatArray) -> FloatArray:
    """bf16-rounded, positive and normal: XNNPACK refuses a zero or subnormal scale. Not below the row's floor."""
    rounded = np.maximum(round_to_bf16(scale.astype(np.float32)), floor)
    return np.where(rounded >= _SMALLEST_NORMAL, rounded, np.float32(1.0)).astype(np.float32)


def canonical_granularity(
    scales: FloatArray, zero_points: Int8Array | None, in_features: int
) -> tuple[FloatArray, Int8Array | None, int | str]:
    """Coarsest granularity that holds the same scales, so that files of any runtime compare.

    A kernel that knows only blocks stores a per-channel scale once per block; a kernel that knows
    only channels stores a per-tensor scale once per row. (out, blocks) -> (out, groups) or (1, 1).
    """

    def repeats(axis: int) -> bool:
        arrays: list[NDArray[Any]] = [scales] if zero_points is None else [scales, zero_points]
        return all(bool((a == a.take([0], axis=axis)).all()) for a in arrays)

    if not repeats(1):
        return scales, zero_points, in_features // scales.shape[1]
    rows = 1 if repeats(0) else scales.shape[0]
    zero_points = None if zero_points is None else np.ascontiguousarray(zero_points[:rows, :1])
    return np.ascontiguousarray(scales[:rows, :1]), zero_points, "tensor" if rows == 1 else "channel"


def pack_int4(values: Int8Array) -> NDArray[np.uint8]:
    """(…, n) int8 codes in [-8, 7] -> (…, n / 2) bytes, code + 8, the even element in the low nibble."""
    codes = (values.astype(np.int16) + 8).astype(np.uint8)
    packed: NDArray[np.uint8] = codes[..., 0::2] | (codes[..., 1::2] << np.uint8(4))
    return packed


def unpack_int4(packed: NDArray[np.uint8]) -> Int8Array:
    """Inverse of pack_int4."""
    codes = np.empty((*packed.shape[:-1], packed.shape[-1] * 2), np.int8)
    codes[..., 0::2] = (packed & 0x0F).astype(np.int8) - 8
    codes[..., 1::2] = (packed >> 4).astype(np.int8) - 8
    return codes
