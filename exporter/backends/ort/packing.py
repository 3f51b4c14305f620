"""Layouts of MatMulNBits and GatherBlockQuantized, to and from our integers.

Both operators keep unsigned codes, value + 2^(bits - 1), low nibble first, blocks along the input
axis; MatMulNBits calls the same bytes (out, blocks, blob) that GatherBlockQuantized calls
(out, row bytes). (docs/ContribOperators.md in microsoft/onnxruntime)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exporter.backends.ort.capabilities import block_size
from exporter.numerics import Int8Array, QuantizedTensor, bf16_bits, pack_int4, unpack_int4

UInt8Array = NDArray[np.uint8]


@dataclass(frozen=True)
class PackedWeight:
    """A weight as the operators read it."""

    data: UInt8Array  # (out, in * bits / 8)
    scales: NDArray[np.uint16]  # (out, blocks), or (out, 1) for one scale of all blocks; bits of bfloat16
    zero_points: UInt8Array | None  # (out, ceil(blocks * bits / 8))
    bits: int
    block: int


def pack(tensor: QuantizedTensor) -> PackedWeight:
    """Our integers -> the operators' bytes. Zero points of a channel or tensor are repeated per block; scales are
    repeated while the file is loaded (passes/scales.py)."""
    rows, in_features = tensor.values.shape
    block = block_size(tensor.scheme, in_features)
    if block is None:
        raise ValueError(f"no block stores {tensor.scheme.describe()} with {in_features} input features")
    bits, blocks = tensor.scheme.bits, in_features // block
    zero_points = tensor.row_zero_points()
    packed_zeros = None
    if zero_points is not None:
        packed_zeros = _pack_codes(np.broadcast_to(zero_points, (rows, blocks)), bits)
    scales = bf16_bits(tensor.row_scales())
    return PackedWeight(_pack_codes(tensor.values, bits), scales, packed_zeros, bits, block)


def unpack_codes(packed: UInt8Array, bits: int, columns: int) -> Int8Array:
    """(rows, bytes) -> (rows, columns) signed codes; inverse of the packing, padding dropped."""
    if bits == 4:
        return unpack_int4(packed)[:, :columns]
    # flipping the top bit turns code + 128 into two's complement
    return (packed ^ np.uint8(0x80)).view(np.int8)[:, :columns]


def _pack_codes(codes: Int8Array, bits: int) -> UInt8Array:
    """(rows, columns) signed codes -> (rows, ceil(columns * bits / 8)) bytes."""
    if bits == 8:
        return np.ascontiguousarray(codes).view(np.uint8) ^ np.uint8(0x80)
    if codes.shape[1] % 2:  # zero points of an odd number of blocks: the last nibble is unused
        codes = np.concatenate([codes, np.zeros((codes.shape[0], 1), np.int8)], axis=1)
    return pack_int4(codes)
