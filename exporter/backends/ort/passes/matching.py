"""Questions that every pass asks of an onnx-ir graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

# Inputs of MatMulNBits behind the first (docs/ContribOperators.md in microsoft/onnxruntime).
WEIGHT, SCALES, ZEROS, ORDER, BIAS = 1, 2, 3, 4, 5


def producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The node that made `value`, if it is of that kind."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op_type else None


def integers(value: ir.Value | None) -> list[int] | None:
    """A constant's elements, or None where the value is none."""
    tensor = None if value is None else value.const_value
    return None if tensor is None else [int(x) for x in tensor.numpy().reshape(-1)]


def only_reader(value: ir.Value) -> ir.Node | None:
    """The one node that reads `value`, or None where several do or it is an output of the graph."""
    readers = value.consumers()
    return readers[0] if len(value.uses()) == 1 and not value.is_graph_output() else None


def place_of(value: ir.Value | None) -> int | None:
    """Where a constant's bytes lie in memory: two operators may read one tensor under two names."""
    tensor = None if value is None else value.const_value
    if tensor is None or isinstance(tensor, ir.LazyTensor):  # not read yet: several layers' joined
        return None
    address: int = tensor.numpy().__array_interface__["data"][0]
    return address


def insert_before(node: ir.Node, nodes: Sequence[ir.Node]) -> None:
    """Put `nodes` in front of `node`."""
    graph = node.graph
    assert graph is not None  # a node that a pass meets belongs to a graph
    graph.insert_before(node, nodes)


def input_at(node: ir.Node, place: int) -> ir.Value | None:
    """An input that may be left out at the end."""
    return node.inputs[place] if place < len(node.inputs) else None


def initializer(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """A tensor of the graph under a name that it does not have yet."""
    shape, kind = ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype)
    value = ir.Value(name=name, shape=shape, type=kind, const_value=tensor)
    graph.register_initializer(value)
    return value


def constant(graph: ir.Graph, name: str, value: np.ndarray) -> ir.Value:
    """An initializer of that name, made once."""
    if name not in graph.initializers:
        initializer(graph, name, ir.tensor(value, name=name))
    return graph.initializers[name]


def attribute(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute."""
    found = node.attributes.get(name)
    return default if found is None else found.as_int()
