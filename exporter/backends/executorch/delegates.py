"""Write a piece of a traced language model as one XNNPACK delegate, node by node.

ExecuTorch's own way to a delegate (partitioner, submodule, seventeen passes, node visitors) interprets the
graph many times over; a transformer needs some twenty kinds of nodes, each a line in the tables below.

The constants' keys in the file are `MODULE_PATH.weight:SHA256` and `MODULE_PATH.scales:SHA256`, which lets a
reader name every tensor, and keeps keys of different models apart in a process-wide weights cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Sequence
from typing import Any

import numpy as np
import torch
from executorch.backends.transforms import get_shape
from executorch.backends.xnnpack.serialization import xnnpack_graph_schema as schema
from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import (
    CONSTANT_TENSOR_ALIGNMENT,
    serialize_xnnpack_binary,
)
from executorch.backends.xnnpack.utils.xnnpack_constants import (
    UINT64_MAX,
    XNN_INVALID_VALUE_ID,
    XNN_VALUE_FLAG_EXTERNAL_INPUT,
    XNN_VALUE_FLAG_EXTERNAL_OUTPUT,
)
from executorch.exir._serialize._named_data_store import NamedDataStore
from numpy.typing import NDArray

from exporter.backends.executorch.operators import planned_layer
from exporter.models.skeleton import PlannedLayer
from exporter.numerics import QuantizedTensor, bf16_bits, pack_int4

Number = int  # of a tensor in a delegate's graph

_MAX_AXES = 6  # XNN_MAX_TENSOR_DIMS
_PACKED_AT_ONCE = 1 << 22  # codes
_MAX_PIECES = 5  # of a concatenation
_aten = torch.ops.aten
_qexport = torch.ops.qexport

_BINARY = {
    _aten.add.Tensor: schema.XNNAdd,
    _aten.sub.Tensor: schema.XNNSubtract,
    _aten.mul.Tensor: schema.XNNMultiply,
    _aten.div.Tensor: schema.XNNDiv,
    _aten.minimum.default: schema.XNNMinimum,
    _aten.maximum.default: schema.XNNMaximum,
}
_UNARY = {
    _aten.rsqrt.default: schema.XNNReciprocalSquareRoot,
    _aten.sqrt.default: schema.XNNSquareRoot,
    _aten.sigmoid.default: schema.XNNSigmoid,
    _aten.tanh.default: schema.XNNTanh,
    _aten.exp.default: schema.XNNExp,
    _aten.neg.default: schema.XNNNegate,
    _aten.abs.default: schema.XNNAbs,
    _aten.sin.default: schema.XNNSin,
    _aten.cos.default: schema.XNNCos,
    _aten.gelu.default: schema.XNNGelu,
}
_CONCATENATE = {
    2: schema.XNNConcatenate2,
    3: schema.XNNConcatenate3,
    4: schema.XNNConcatenate4,
    5: schema.XNNConcatenate5,
}


class DelegateGraph:
    """An XNNPACK graph under construction."""

    def __init__(self, inputs: Sequence[torch.fx.Node], outputs: Sequence[torch.fx.Node]) -> None:
        self.graph = schema.XNNGraph(
            version="0",
            xnodes=[],
            xvalues=[],
            num_externs=len(inputs) + len(outputs),
            input_ids=[],
            output_ids=[],
            constant_data=[schema.ConstantDataOffset(0, 0)],
        )
        self.store = NamedDataStore()
        self.numbers: dict[torch.fx.Node, Number] = {}
        self.outputs = {node: len(inputs) + index for index, node in enumerate(outputs)}
        self.rounded: dict[Number, Number] = {}  # float tensor -> its int8 conversion
        self._constants: dict[str, Number] = {}
        for index, node in enumerate(inputs):
            number = self.tensor(get_shape(node), external=index, flags=XNN_VALUE_FLAG_EXTERNAL_INPUT)
            self.graph.input_ids.append(number)
            self.numbers[node] = number

    @classmethod
    def continued(
        cls, graph: schema.XNNGraph, store: NamedDataStore, rounded: dict[Number, Number]
    ) -> DelegateGraph:
        """To append to a graph that ExecuTorch's own node visitors write."""
        self = cls([], [])
        self.graph, self.store, self.rounded = graph, store, rounded
        return self

    def to_bytes(self) -> bytes:
        """The delegate's payload; its constants are in `store`."""
        payload: bytes = serialize_xnnpack_binary(self.graph, bytearray())
        return payload

    def tensor(
        self,
        shape: Sequence[int],
        kind: schema.XNNDatatype = schema.XNNDatatype.xnn_datatype_fp32,
        constant: int = 0,
        quantization: Any = None,
        external: int = XNN_INVALID_VALUE_ID,
        flags: int = 0,
    ) -> Number:
        """A new tensor; axes that depend on the number of tokens by their upper bound."""
        number = len(self.graph.xvalues)
        dims = [int(size) for size in shape] or [1]
        value = schema.XNNTensorValue(kind, len(dims), dims, constant, external, flags, number)
        union = value if quantization is None else schema.XNNQuantizedTensorValue(value, quantization)
        self.graph.xvalues.append(schema.XValue(union))
        return number

    def result(self, node: torch.fx.Node) -> Number:
        """The tensor that the node's operator writes."""
        external = self.outputs.get(node)
        if external is None:
            number = self.tensor(get_shape(node))
        else:
            number = self.tensor(get_shape(node), external=external, flags=XNN_VALUE_FLAG_EXTERNAL_OUTPUT)
            self.graph.output_ids.append(number)
        self.numbers[node] = number
        return number

    def append(self, operator: Any, bounds: tuple[float | str, float | str] | None = None) -> None:
        """Add an operator; `bounds` clamp its output."""
        limits = None if bounds is None else schema.OutputMinMax(*bounds)
        self.graph.xnodes.append(schema.XNode(operator, 0, limits))

    def data(self, name: str, array: NDArray[Any]) -> int:
        """Store bytes under a key that carries the name; the index for `tensor`."""
        content = np.ascontiguousarray(array).tobytes()
        key = f"{name}:{hashlib.sha256(content).hexdigest()}"
        self.graph.constant_data.append(schema.ConstantDataOffset(UINT64_MAX, len(content), key))
        self.store.add_named_data(key, content, CONSTANT_TENSOR_ALIGNMENT)
        return len(self.graph.constant_data) - 1

    def constant(self, name: str, array: NDArray[Any]) -> Number:
        """A float32 tensor that never changes."""
        if name not in self._constants:
            values = np.asarray(array, np.float32)
            self._constants[name] = self.tensor(values.shape, constant=self.data(name, values))
        return self._constants[name]

    def linear(
        self, source: Number, weight: Number, result: Number, bias: Number = XNN_INVALID_VALUE_ID
    ) -> None:
        """source (…, in) times weight (out, in) transposed, plus bias."""
        self.append(schema.XNNFullyConnected(source, weight, bias, result, 0))

    def dims(self, number: Number) -> list[int]:
        """Upper bounds of a tensor's axes."""
        value = self.graph.xvalues[number].xvalue_union
        if isinstance(value, schema.XNNQuantizedTensorValue):
            value = value.tensor_value
        return list(value.dims)


def write_planned_linear(graph: DelegateGraph, layer: PlannedLayer, source: Number, result: Number) -> None:
    """A quantised linear layer with the plan's integers, as XNNPACK's fully-connected operator."""
    name, rounds = layer.info.name, layer.scheme.activations == "dynamic-int8"
    if rounds:
        if source not in graph.rounded:  # query, key and value share one conversion
            rows = schema.PerTokenDynamicQuant(num_nonbatch_dims=1)
            number = graph.tensor(
                graph.dims(source), schema.XNNDatatype.xnn_datatype_qdint8, quantization=rows
            )
            graph.append(schema.XNNConvert(source, number, 0))
            graph.rounded[source] = number
        source = graph.rounded[source]
    weight = _planned_weight(graph, name, layer.load())
    if layer.bias is None:
        graph.linear(source, weight, result)
        return
    bias = graph.constant(f"{name}.bias", layer.bias.detach().numpy())
    if rounds:
        graph.linear(source, weight, result, bias)
        return
    # The float-activation kernels (f32-qc8w, f32-qc4w) multiply the bias by the weights' scale
    # too (seen: an input of zeros gives bias * scale), so it is added behind them.
    product = graph.tensor(graph.dims(result))
    graph.linear(source, weight, product)
    graph.append(schema.XNNAdd(product, bias, result, 0))


def _planned_weight(graph: DelegateGraph, name: str, quantized: QuantizedTensor) -> Number:
    """XNNPACK's tensor for the integers (out, in) and their scales."""
    four_bits = quantized.scheme.bits == 4
    # convert_to_qc4w in node_visitor.py: code + 8, even element in the low nibble, as pack_int4
    packed: NDArray[Any] = packed_rows(quantized.values) if four_bits else quantized.values
    index = graph.data(f"{name}.weight", packed)
    scales = quantized.row_scales()  # (out, groups)
    quantization: Any
    if isinstance(quantized.scheme.group, int):
        kind = schema.XNNDatatype.xnn_datatype_qbint4
        quantization = schema.PerChannelGroupQuant(
            scale=[],
            channel_dim=0,
            group_size=quantized.scheme.group,
            scale_buffer_idx=graph.data(f"{name}.scales", bf16_bits(scales)),
            num_scales=scales.size,
        )
    else:
        kind = schema.XNNDatatype.xnn_datatype_qcint4 if four_bits else schema.XNNDatatype.xnn_datatype_qcint8
        quantization = schema.PerChannelQuant(
            scale=[],
            channel_dim=0,
            scale_buffer_idx=graph.data(f"{name}.scales", scales),
            num_scales=scales.size,
        )
    return graph.tensor(quantized.values.shape, kind, index, quantization)


def packed_rows(
    values: NDArray[np.int8], change: Callable[[NDArray[np.int8]], NDArray[np.int8]] | None = None
) -> NDArray[np.uint8]:
    """int4 codes (rows, n), each block of rows changed first -> two to a byte (rows, n / 2).

    In blocks, because the codes take a byte each and packing makes copies of them: of a large table, more
    than the packed model.
    """
    rows, columns = values.shape
    packed = np.empty((rows, columns // 2), np.uint8)
    step = max(1, _PACKED_AT_ONCE // columns)
    for start in range(0, rows, step):
        block = values[start : start + step]
        packed[start : start + step] = pack_int4(block if change is None else change(block))
    return packed


def can_delegate(node: torch.fx.Node, constants: Container[torch.fx.Node]) -> bool:
    """Whether the node can be written into a delegate: known, float32, and reshaped only where one axis varies."""
    if node.op != "call_function" or node.target not in _WRITERS:
        return False
    found = [entry.meta.get("val") for entry in (node, *node.all_input_nodes)]
    values = [value for value in found if isinstance(value, torch.Tensor)]
    if len(values) < len(found):
        return False
    if any(value.dtype != torch.float32 or value.dim() > _MAX_AXES for value in values):
        return False
    if node.target == _aten.reshape.default and any(
        sum(not isinstance(size, int) for size in value.shape) > 1 for value in values
    ):
        return False
    check = _CHECKS.get(node.target)
    return check is None or check(node, constants)


def write_node(graph: DelegateGraph, node: torch.fx.Node) -> None:
    """Append the node; its inputs have numbers."""
    _WRITERS[node.target](graph, node)


def _operand(graph: DelegateGraph, value: Any) -> Number:
    """Number of a node's tensor, or of a scalar."""
    if isinstance(value, torch.fx.Node):
        return graph.numbers[value]
    return graph.constant(f"scalar_{float(value)!r}", np.full((1,), value, np.float32))


def _binary(graph: DelegateGraph, node: torch.fx.Node) -> None:
    left, right = (_operand(graph, value) for value in node.args[:2])
    graph.append(_BINARY[node.target](left, right, graph.result(node), 0))  # type: ignore[index]


def _unary(graph: DelegateGraph, node: torch.fx.Node) -> None:
    graph.append(_UNARY[node.target](_operand(graph, node.args[0]), graph.result(node), 0))  # type: ignore[index]


def _power(graph: DelegateGraph, node: torch.fx.Node) -> None:
    graph.append(schema.XNNSquare(_operand(graph, node.args[0]), graph.result(node), 0))


def _clamp(graph: DelegateGraph, node: torch.fx.Node) -> None:
    low, high = [*node.args[1:], None, None][:2]
    bounds = ("-inf" if low is None else float(low), "inf" if high is None else float(high))  # type: ignore[arg-type]
    graph.append(schema.XNNClamp(_operand(graph, node.args[0]), graph.result(node), 0), bounds)


def _reshape(graph: DelegateGraph, node: torch.fx.Node) -> None:
    shape = [0 if size == -1 else size for size in node.args[1]]  # type: ignore[union-attr]
    source = _operand(graph, node.args[0])
    graph.append(schema.XNNStaticReshape(len(shape), shape, source, graph.result(node), 0))


def _matmul(graph: DelegateGraph, node: torch.fx.Node) -> None:
    left, right = (_operand(graph, source) for source in node.args)
    graph.append(schema.XNNBatchMatrixMultiply(left, right, graph.result(node), 0))


def _softmax(graph: DelegateGraph, node: torch.fx.Node) -> None:
    graph.append(schema.XNNSoftmax(_operand(graph, node.args[0]), graph.result(node), 0))


def _transpose(graph: DelegateGraph, node: torch.fx.Node) -> None:
    axes = list(range(node.meta["val"].dim()))
    first, second = (int(axis) for axis in node.args[1:3])  # type: ignore[arg-type]
    axes[first], axes[second] = axes[second], axes[first]
    source = _operand(graph, node.args[0])
    graph.append(schema.XNNStaticTranspose(len(axes), axes, source, graph.result(node), 0))


def _concatenate(graph: DelegateGraph, node: torch.fx.Node) -> None:
    pieces = [_operand(graph, piece) for piece in node.args[0]]  # type: ignore[union-attr]
    axis = int(node.args[1]) if len(node.args) > 1 else 0  # type: ignore[arg-type]
    operator = _CONCATENATE[len(pieces)]
    pieces += [XNN_INVALID_VALUE_ID] * (_MAX_PIECES - len(pieces))
    first, second, third, fourth, fifth = pieces
    axis %= node.meta["val"].dim()
    graph.append(operator(axis, first, second, third, fourth, graph.result(node), 0, fifth))


def _mean_last(graph: DelegateGraph, node: torch.fx.Node) -> None:
    """A fully-connected operator with n weights of 1/n: XNNPACK's own mean wants four axes."""
    source = node.args[0]
    assert isinstance(source, torch.fx.Node)
    size = int(source.meta["val"].shape[-1])
    weight = graph.constant(f"mean_of_{size}", np.full((1, size), 1 / size, np.float32))
    offset = float(node.args[1]) if len(node.args) > 1 else 0.0  # type: ignore[arg-type]
    bias = _operand(graph, offset) if offset else XNN_INVALID_VALUE_ID
    graph.linear(graph.numbers[source], weight, graph.result(node), bias)


def _slice_axis(graph: DelegateGraph, node: torch.fx.Node) -> None:
    """A size of 0 leaves an axis whole (static-slice.c)."""
    axis, start, size = (int(value) for value in node.args[1:])  # type: ignore[arg-type]
    axes = node.meta["val"].dim()
    offsets, sizes = [0] * axes, [0] * axes
    offsets[axis], sizes[axis] = start, size
    number = _operand(graph, node.args[0])
    graph.append(schema.XNNStaticSlice(axes, offsets, sizes, number, graph.result(node), 0))


def _planned_linear(graph: DelegateGraph, node: torch.fx.Node) -> None:
    layer = planned_layer(str(node.args[1]))
    write_planned_linear(graph, layer, _operand(graph, node.args[0]), graph.result(node))


def _float_linear(graph: DelegateGraph, node: torch.fx.Node) -> None:
    source, weight, bias = [*node.args, None][:3]
    none = XNN_INVALID_VALUE_ID if bias is None else _operand(graph, bias)
    graph.linear(_operand(graph, source), _operand(graph, weight), graph.result(node), none)


_WRITERS: dict[Any, Callable[[DelegateGraph, torch.fx.Node], None]] = {
    **dict.fromkeys(_BINARY, _binary),
    **dict.fromkeys(_UNARY, _unary),
    _aten.pow.Tensor_Scalar: _power,
    _aten.clamp.default: _clamp,
    _aten.reshape.default: _reshape,
    _aten.transpose.int: _transpose,
    _aten.cat.default: _concatenate,
    _aten.linear.default: _float_linear,
    _aten.matmul.default: _matmul,
    _aten.softmax.int: _softmax,
    _qexport.mean_last.default: _mean_last,
    _qexport.slice_axis.default: _slice_axis,
    _qexport.planned_linear.default: _planned_linear,
}


def _all_constants(node: torch.fx.Node, constants: Container[torch.fx.Node]) -> bool:
    return all(source in constants for source in node.all_input_nodes[1:])


def _same_batch(node: torch.fx.Node, constants: Container[torch.fx.Node]) -> bool:
    left, right = (source.meta["val"].shape for source in node.args)  # type: ignore[union-attr]
    return len(left) == len(right) >= 3 and left[:-2] == right[:-2]


def _over_last(node: torch.fx.Node, constants: Container[torch.fx.Node]) -> bool:
    return node.args[1] in (-1, node.meta["val"].dim() - 1)


_CHECKS: dict[Any, Callable[[torch.fx.Node, Container[torch.fx.Node]], bool]] = {
    _aten.add.Tensor: lambda node, constants: not node.kwargs,
    _aten.sub.Tensor: lambda node, constants: not node.kwargs,
    _aten.gelu.default: lambda node, constants: node.kwargs.get("approximate", "none") == "none",
    _aten.pow.Tensor_Scalar: lambda node, constants: bool(node.args[1] == 2),
    _aten.clamp.default: lambda node, constants: not node.kwargs,
    _aten.cat.default: lambda node, constants: 2 <= len(node.args[0]) <= _MAX_PIECES,  # type: ignore[arg-type]
    _aten.linear.default: _all_constants,
    _aten.matmul.default: _same_batch,
    _aten.softmax.int: _over_last,
    _aten.reshape.default: lambda node, constants: all(isinstance(size, int) for size in node.args[1]),  # type: ignore[union-attr]
}
