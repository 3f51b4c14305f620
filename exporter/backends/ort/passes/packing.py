"""Projections of one input as one MatMulNBits: for attention's packed form, or with a Split behind it.

A product with few rows is mostly fixed costs: rounding the input to int8, waking the threads. Both are
paid once for all projections; the Split behind costs a copy of a few kilobytes per token.

Rows of the weights are put one below the other, so the integers and their scales stay as they are. The
packed node is called after all of its layers, "a.q_proj|a.k_proj|a.v_proj", and says in its metadata
how many rows each of them has: a file alone tells which integers belong to which layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from exporter.backends.ort.names import LAYER_KEY, ROWS_KEY, SEPARATOR
from exporter.backends.ort.passes.matching import (
    BIAS,
    ORDER,
    SCALES,
    WEIGHT,
    ZEROS,
    attribute,
    constant,
    initializer,
    input_at,
    insert_before,
    only_reader,
    producer,
)
from exporter.backends.ort.passes.outcome import Outcome

_MATMUL = "MatMulNBits"
_SAME = {"K": 0, "bits": 4, "block_size": 0, "accuracy_level": 0}


def pack_attention_inputs(model: ir.Model) -> Outcome:
    """Make queries, keys and values of each GroupQueryAttention in one MatMulNBits."""
    outcome = Outcome()
    for attention in [node for node in model.graph if node.op_type == "GroupQueryAttention"]:
        members = [producer(value, _MATMUL) for value in attention.inputs[:3]]
        nodes = [node for node in members if node is not None]
        why = _different(nodes) if len(nodes) == 3 else "an attention that does not read three projections"
        if why is not None:
            outcome.leave(why)
            continue
        packed = _packed(model.graph, nodes)
        insert_before(attention, [packed])
        attention.replace_input_with(0, packed.outputs[0])
        attention.replace_input_with(1, None)
        attention.replace_input_with(2, None)
        for node in nodes:
            model.graph.remove(node, safe=True)
        outcome.applied += 1
    return outcome


def pack_siblings(model: ir.Model) -> Outcome:
    """Make projections of one input that have the same form one MatMulNBits and a Split."""
    outcome = Outcome()
    readers: dict[ir.Value, list[ir.Node]] = {}
    for node in model.graph:
        if node.op_type == _MATMUL and node.inputs[0] is not None:
            readers.setdefault(node.inputs[0], []).append(node)
    for nodes in readers.values():
        groups: dict[object, list[ir.Node]] = {}
        for node in nodes:
            groups.setdefault(_form(node), []).append(node)
        for group in groups.values():
            why = _unpackable(group)
            if why is None:
                _split(model.graph, group)
                outcome.applied += 1
            elif len(nodes) > 1:
                outcome.leave(why)
    return outcome


def _form(node: ir.Node) -> tuple[object, ...]:
    """What two layers must have in common."""
    numbers = [attribute(node, name, default) for name, default in _SAME.items()]
    return (*numbers, *(input_at(node, place) is None for place in (ZEROS, ORDER)))


def _unpackable(group: Sequence[ir.Node]) -> str | None:
    """Why a group of one form stays as it is, or None."""
    if len(group) == 1:
        return "a projection of another form than its siblings"
    if any(node.outputs[0].is_graph_output() for node in group):
        return "a projection that is an output of the graph"
    return _different(group, several_readers=True)


def _split(graph: ir.Graph, group: Sequence[ir.Node]) -> None:
    """Replace a group, in the graph's order, by one node and a Split."""
    packed = _packed(graph, group)
    rows = np.asarray([attribute(node, "N", 0) for node in group], np.int64)
    sizes = constant(graph, "rows_" + "_".join(map(str, rows)), rows)
    split = ir.node("Split", [packed.outputs[0], sizes], attributes={"axis": -1}, num_outputs=len(group))
    insert_before(group[0], [packed, split])
    for node, value in zip(group, split.outputs, strict=True):
        value.type, value.shape = node.outputs[0].type, node.outputs[0].shape
        node.outputs[0].replace_all_uses_with(value)
        graph.remove(node, safe=True)


def _different(nodes: Sequence[ir.Node], several_readers: bool = False) -> str | None:
    """Why these layers cannot be one, or None."""
    first = nodes[0]
    for node in nodes:
        if not several_readers and only_reader(node.outputs[0]) is None:
            return "a projection that others read too"
        if LAYER_KEY not in node.metadata_props or node.inputs[0] is not first.inputs[0]:
            return "projections of different inputs"
        for name, default in _SAME.items():
            ours, other = attribute(first, name, default), attribute(node, name, default)
            if ours != other:
                return f"projections that differ in {name} ({ours} and {other})"
        if (input_at(node, ZEROS) is None) != (input_at(first, ZEROS) is None):
            return "projections with and without zero points"
        if input_at(node, ORDER) is not None:
            return "projections whose input is reordered"
        for place in (WEIGHT, SCALES, ZEROS, BIAS):
            value = input_at(node, place)
            if value is not None and value.const_value is None:
                return "projections whose weight is computed"
    return None


def _packed(graph: ir.Graph, nodes: Sequence[ir.Node]) -> ir.Node:
    """One node for all, not yet in the graph."""
    name = SEPARATOR.join(node.metadata_props[LAYER_KEY] for node in nodes)
    rows = [attribute(node, "N", 0) for node in nodes]
    inputs: list[ir.Value | None] = [nodes[0].inputs[0]]
    parts = {WEIGHT: "data", SCALES: "scales", ZEROS: "zero_points", ORDER: "", BIAS: "bias"}
    for place, part in parts.items():
        values = [input_at(node, place) for node in nodes]
        inputs.append(_joined(graph, f"{name}.{part}", values, rows))
    while inputs[-1] is None:
        inputs.pop()
    attributes = [x for x in nodes[0].attributes.values() if x.name != "N"]
    packed = ir.Node(
        nodes[0].domain,
        _MATMUL,
        inputs,
        [*attributes, ir.AttrInt64("N", sum(rows))],
        version=nodes[0].version,
        metadata_props={LAYER_KEY: name, ROWS_KEY: SEPARATOR.join(map(str, rows))},
    )
    old = nodes[0].outputs[0]
    packed.outputs[0].type = old.type
    if old.shape is not None:
        packed.outputs[0].shape = ir.Shape([*old.shape[:-1], sum(rows)])
    return packed


def _joined(
    graph: ir.Graph, name: str, values: Sequence[ir.Value | None], rows: Sequence[int]
) -> ir.Value | None:
    """The layers' tensors one below the other, read when the file is written; None where none has any.

    A layer without a bias gets zeros where another has one, and one with a scale for each row as many of them as
    another has blocks.
    """
    tensors = [None if value is None else value.const_value for value in values]
    known = next((tensor for tensor in tensors if tensor is not None), None)
    if known is None:
        return None
    tails = [tuple(int(size) for size in x.shape.numpy()[1:]) for x in tensors if x is not None]
    tail = max(tails)
    dtype = known.dtype

    def join() -> ir.TensorProtocol:
        parts = [
            np.zeros([count, *tail], dtype.numpy())
            if tensor is None
            else np.broadcast_to(tensor.numpy(), (count, *tail))
            for tensor, count in zip(tensors, rows, strict=True)
        ]
        return ir.tensor(np.concatenate(parts), name=name)

    shape = ir.Shape([sum(rows), *tail])
    lazy = ir.LazyTensor(join, dtype, shape, name=name)
    return initializer(graph, name, lazy)
