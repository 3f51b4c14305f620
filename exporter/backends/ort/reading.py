"""Quantised layers out of a written model.onnx and its data, with nothing else at hand."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import numpy_helper

from exporter.backends.base import PackedLayer
from exporter.backends.ort.names import members
from exporter.backends.ort.packing import unpack_codes
from exporter.backends.ort.passes.row_products import PRODUCT
from exporter.backends.ort.static_reading import static_layers
from exporter.backends.ort.storage import DATA, MODEL
from exporter.errors import ArtifactError
from exporter.numerics import canonical_granularity

# operator -> places of data, scales, zero points among its inputs
_PLACES = {"MatMulNBits": (1, 2, 3), "GatherBlockQuantized": (0, 2, 3)}


@dataclass(frozen=True)
class _Stored:
    """An initializer: its elements and where they lie (0, 0 where they lie in the model itself)."""

    array: NDArray[np.generic]
    offset: int
    length: int


def read_back(folder: Path) -> dict[str, PackedLayer]:
    """Every quantised layer by module path, over all graphs of the folder. Raises ArtifactError for a missing
    or damaged file."""
    counted: set[tuple[int, int]] = set()
    layers: dict[str, PackedLayer] = {}
    with _mapped(folder / DATA) as data:
        for path in sorted(folder.glob("*.onnx")) or [folder / MODEL]:
            for layer in _layers(path, data, counted):
                # a layer that several programs use is counted where it was met first
                layers.setdefault(layer.name, layer)
    return layers


def _layers(path: Path, data: mmap.mmap, counted: set[tuple[int, int]]) -> Iterator[PackedLayer]:
    """The quantised layers of one graph."""
    try:
        model = onnx.load(path, load_external_data=False)
    except (OSError, DecodeError) as problem:
        raise ArtifactError(f"{path}: cannot be read ({problem})") from problem
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {output: node for node in model.graph.node for output in node.output}

    def stored(name: str) -> _Stored:
        return _stored(initializers[name], data, path.parent)

    for node in model.graph.node:
        if node.op_type == PRODUCT:
            yield from _turned(node, stored(node.input[1]), _widened(node.input[3], makers, stored))
        if node.op_type not in _PLACES or node.domain != "com.microsoft":
            continue
        parts: list[_Stored | None] = []
        for place in _PLACES[node.op_type]:
            name = node.input[place] if place < len(node.input) else ""
            parts.append(_widened(name, makers, stored) if name else None)
        yield from _unpack(node, parts, counted)

    yield from static_layers(model, lambda name: stored(name).array, str(path))


def _widened(name: str, makers: Mapping[str, onnx.NodeProto], stored: Callable[[str], _Stored]) -> _Stored:
    """A constant as an operator gets it: as it lies in the file, or widened (passes/scales.py)."""
    node = makers.get(name)
    if node is None:
        return stored(name)
    narrow = _widened(node.input[0], makers, stored)
    if node.op_type == "Cast":
        return replace(narrow, array=narrow.array.astype(np.float32))
    shape = tuple(int(size) for size in stored(node.input[1]).array)
    return replace(narrow, array=np.broadcast_to(narrow.array, shape))


def _unpack(
    node: onnx.NodeProto, parts: list[_Stored | None], counted: set[tuple[int, int]]
) -> Iterator[PackedLayer]:
    """One operator's inputs -> the integers of its layers. Bytes already in `counted` are another's."""
    data, scales, zeros = parts
    assert data is not None and scales is not None  # required inputs of both operators
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    bits, block = int(attributes.get("bits", 4)), int(attributes["block_size"])
    rows = data.array.shape[0]
    packed = data.array.reshape(rows, -1).view(np.uint8)
    in_features = int(attributes.get("K", packed.shape[1] * 8 // bits))
    blocks = -(-in_features // block)
    stored_scales = np.ascontiguousarray(scales.array, np.float32).reshape(rows, blocks)
    stored_zeros = None if zeros is None else zeros.array.reshape(rows, -1).view(np.uint8)
    # A tied layer reads its owner's bytes. (torch.onnx also lets two layers share scales or zero points
    # of less than a kilobyte that happen to be equal; each is counted, as the plan does.)
    place = (data.offset, data.length)
    per_row = 0 if place in counted else sum(part.length for part in parts if part is not None) // rows
    counted.add(place)
    for name, own in members(node, rows):
        zero_points = None if stored_zeros is None else unpack_codes(stored_zeros[own], bits, blocks)
        canonical, canonical_zeros, group = canonical_granularity(
            stored_scales[own], zero_points, in_features
        )
        yield PackedLayer(
            name=name,
            bits=bits,
            group=group,
            values=np.ascontiguousarray(unpack_codes(packed[own], bits, in_features)),
            scales=canonical,
            zero_points=canonical_zeros,
            bytes=per_row * (own.stop - own.start),
        )


def _turned(node: onnx.NodeProto, weight: _Stored, scales: _Stored) -> Iterator[PackedLayer]:
    """An integer product's (in, out) weight and scales -> the integers of its layers."""
    features, rows = weight.array.shape
    values = np.ascontiguousarray(weight.array.T.astype(np.int8, copy=False))
    for name, own in members(node, rows):
        one = scales.array[own].astype(np.float32).reshape(-1, 1)
        canonical, _, group = canonical_granularity(one, None, features)
        count = own.stop - own.start
        size = (weight.length + scales.length) // rows * count
        yield PackedLayer(
            name=name,
            bits=8,
            group=group,
            values=values[own],
            scales=canonical,
            zero_points=None,
            bytes=size,
        )


def _mapped(path: Path) -> mmap.mmap:
    """The data file as memory. Raises ArtifactError."""
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as problem:  # ValueError: an empty file cannot be mapped
        raise ArtifactError(f"{path}: cannot be read ({problem})") from problem


def _stored(tensor: onnx.TensorProto, data: mmap.mmap, folder: Path) -> _Stored:
    """An initializer's elements, copied out of the mapping. Raises ArtifactError when cut off."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        array = numpy_helper.to_array(tensor)
        return _Stored(array, 0, array.nbytes)
    entries = {entry.key: entry.value for entry in tensor.external_data}
    offset, length = int(entries.get("offset", 0)), int(entries["length"])
    if entries["location"] != DATA or offset + length > len(data):
        raise ArtifactError(
            f"{folder / DATA}: {tensor.name} should lie at bytes {offset} to {offset + length} of"
            f" {entries['location']}, the file has {len(data)}; it is truncated or another model's"
        )
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    array = np.frombuffer(data[offset : offset + length], dtype).reshape(tuple(tensor.dims))
    return _Stored(array, offset, length)
