"""Static layers out of XNNPACK's graphs: nodes whose input, weight and output are integers with fixed scales."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from flatbuffers.encode import Get as get
from flatbuffers.number_types import Float32Flags, Uint8Flags, UOffsetTFlags
from flatbuffers.table import Table

from exporter.backends.base import PackedLayer, PackedStatic
from exporter.numerics import canonical_granularity

_NODES = ("XNNConv2d", "XNNDepthwiseConv2d", "XNNFullyConnected")
_QUANTIZED = "XNNQuantizedTensorValue"
_QUANTIZED_NUMBER, _PER_TENSOR_NUMBER = 2, 2  # in the unions XValueUnion and XNNQuantParams
_WEIGHTS = ("xnn_datatype_qcint8", "xnn_datatype_qint8")
Constant = Callable[[int], tuple[str, bytes]]  # name and bytes of a constant by its number


def exact_scales(graph: bytes) -> dict[int, float]:
    """Number of a value with one scale -> that scale, as a float32 number.

    flatc prints six decimals of a float, which is not enough; places of the fields are those of schema.fbs.
    """
    root = Table(graph, get(UOffsetTFlags.packer_type, graph, 0))
    found = {}
    values = root.Offset(_slot(2))
    for number in range(root.VectorLen(values) if values else 0):
        value = _table(root, root.Vector(values) + 4 * number)
        quantized = _field(value, 1) if _byte(value, 0) == _QUANTIZED_NUMBER else None
        params = (
            _field(quantized, 2)
            if quantized is not None and _byte(quantized, 1) == _PER_TENSOR_NUMBER
            else None
        )
        if params is not None:
            place = params.Offset(_slot(0))
            found[number] = float(params.Get(Float32Flags, params.Pos + place)) if place else 0.0
    return found


def _slot(field: int) -> int:
    """Place of a field in a table's list of offsets."""
    return 4 + 2 * field


def _table(parent: Any, place: int) -> Any:
    return Table(parent.Bytes, parent.Indirect(place))


def _field(table: Any, field: int) -> Any:
    """The table that a field refers to, or None."""
    offset = table.Offset(_slot(field))
    return _table(table, table.Pos + offset) if offset else None


def _byte(table: Any, field: int) -> int:
    """A small number, the kind of a union; 0 where it is left out."""
    offset = table.Offset(_slot(field))
    return int(table.Get(Uint8Flags, table.Pos + offset)) if offset else 0


def static_layers(
    nodes: Sequence[Mapping[str, Any]], values: Sequence[Mapping[str, Any]], constant: Constant
) -> Iterator[PackedLayer]:
    """Every static layer of one delegate's graph."""
    for node in nodes:
        if node["xnode_union_type"] not in _NODES:
            continue
        call = node["xnode_union"]
        source, weight, result = (values[call[key]] for key in ("input1_id", "filter_id", "output_id"))
        if (
            not all(is_static(value) for value in (source, result))
            or weight["xvalue_union_type"] != _QUANTIZED
        ):
            continue
        bias = values[call["bias_id"]] if call["bias_id"] < len(values) else None
        depthwise = node["xnode_union_type"] == "XNNDepthwiseConv2d"
        yield _layer(weight["xvalue_union"], depthwise, bias, _pair(source), _pair(result), constant)


def is_static(value: Mapping[str, Any]) -> bool:
    """Whether a value is integers of one fixed scale."""
    union = value["xvalue_union"]
    return bool(value["xvalue_union_type"] == _QUANTIZED and union["quant_params_type"] == "PerTensorQuant")


def _pair(value: Mapping[str, Any]) -> tuple[float, int]:
    """Scale and zero point."""
    params = value["xvalue_union"]["quant_params"]
    return params["scale"], params["zero_point"]


def _layer(
    weight: Mapping[str, Any],
    depthwise: bool,
    bias: Mapping[str, Any] | None,
    source: tuple[float, int],
    result: tuple[float, int],
    constant: Constant,
) -> PackedLayer:
    tensor, params = weight["tensor_value"], weight["quant_params"]
    assert tensor["datatype"] in _WEIGHTS
    name, data = constant(tensor["constant_buffer_idx"])
    values = _rows(np.frombuffer(data, np.int8).reshape(tensor["dims"]), depthwise)
    _, scale_data = constant(params["scale_buffer_idx"])
    scales = np.frombuffer(scale_data, np.float32).reshape(-1, 1)
    codes = None
    if bias is not None:
        held = bias["xvalue_union"]
        _, bias_data = constant(held["tensor_value"]["constant_buffer_idx"])
        codes = np.frombuffer(bias_data, np.int32)
    scales, _, group = canonical_granularity(scales, None, values.shape[1])
    size = len(data) + len(scale_data)
    static = PackedStatic(source, result, codes)
    return PackedLayer(name.removesuffix(".weight"), 8, group, values, scales, None, size, static)


def _rows(stored: np.ndarray[Any, np.dtype[np.int8]], depthwise: bool) -> np.ndarray[Any, np.dtype[np.int8]]:
    """XNNPACK's order -> (out, in * height * width) as PyTorch's.

    (out, height, width, in) for a convolution; (1, height, width, out) for one of each channel for itself.
    """
    if stored.ndim == 4:
        stored = stored.transpose(3, 0, 1, 2) if depthwise else stored.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(stored.reshape(len(stored), -1))
