"""Rotary positions inside GroupQueryAttention.

transformers applies q * cos + rotate_half(q) * sin before the attention function is asked.
GroupQueryAttention does the same from a table of cosines and sines by position (do_rotary). The table
is not stored: its nodes are those of the trace, fed with 0, 1, 2, … instead of the step's positions,
and ONNX Runtime folds them once when it loads the model. Layers that turn by the same angles share one
table.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from exporter.backends.ort.passes.matching import constant, insert_before, integers, producer
from exporter.backends.ort.passes.outcome import Outcome

_ATTENTION = "GroupQueryAttention"
_POSITIONS = "Positions"


@dataclass(frozen=True)
class _Rotation:
    """One tensor that the graph rotates: where it came from, and the angles."""

    source: ir.Value  # (batch, new, heads * size), before the rotation
    cosine: ir.Value  # (batch, new, size)
    sine: ir.Value


def fuse_rotary(model: ir.Model, context: int) -> Outcome:
    """Move rotary positions into every attention node whose trace has the half-rotating form.

    The others keep their explicit nodes. `context`: rows of the table.
    """
    outcome = Outcome()
    marker = next((node for node in model.graph if node.op_type == _POSITIONS), None)
    if marker is None:
        return outcome
    tables: dict[tuple[str | None, str | None], tuple[ir.Value, ir.Value]] = {}
    for node in [n for n in model.graph if n.op_type == _ATTENTION]:
        query, key = _rotation(node, 0), _rotation(node, 1)
        if query is None or key is None:
            outcome.leave("an attention whose queries or keys are not turned by halves")
            continue
        if (query.cosine, query.sine) != (key.cosine, key.sine):
            outcome.leave("an attention that turns queries and keys by different angles")
            continue
        name = (query.cosine.name, query.sine.name)
        if name not in tables:
            pair = _tables(model.graph, marker, query, context)
            if pair is None:
                outcome.leave("an attention whose angles depend on more than positions")
                continue
            tables[name] = pair
        _rotate_inside(node, query, key, tables[name])
        outcome.applied += 1
    positions = marker.inputs[0]
    assert positions is not None  # the marker was traced with one input
    marker.outputs[0].replace_all_uses_with(positions)
    model.graph.remove(marker, safe=True)
    model.opset_imports.pop(marker.domain, None)
    return outcome


def _rotation(attention: ir.Node, place: int) -> _Rotation | None:
    """Match Reshape(Transpose(x * cos + concat(-x[half:], x[:half]) * sin)), x = Transpose(source)."""
    reshape = producer(attention.inputs[place], "Reshape")
    transpose = producer(reshape.inputs[0], "Transpose") if reshape else None
    total = producer(transpose.inputs[0], "Add") if transpose else None
    if reshape is None or total is None:
        return None
    left, right = producer(total.inputs[0], "Mul"), producer(total.inputs[1], "Mul")
    if left is None or right is None:
        return None
    for plain, turned in ((left, right), (right, left)):
        for a, b in ((0, 1), (1, 0)):
            concat = producer(turned.inputs[a], "Concat")
            heads = _half_turned(concat) if concat else None
            if heads is None or heads not in plain.inputs:
                continue
            angles = plain.inputs[1 - list(plain.inputs).index(heads)], turned.inputs[b]
            cosine, sine = (producer(angle, "Unsqueeze") for angle in angles)
            before = producer(heads, "Transpose")
            if cosine is None or sine is None or before is None:
                return None
            source = _flat(before.inputs[0], reshape)
            if source is None or cosine.inputs[0] is None or sine.inputs[0] is None:
                return None
            return _Rotation(source, cosine.inputs[0], sine.inputs[0])
    return None


def _half_turned(concat: ir.Node) -> ir.Value | None:
    """x, where concat is (-x[half:], x[:half]) along the last axis and x's size is even."""
    negated = producer(concat.inputs[0], "Neg")
    upper = producer(negated.inputs[0], "Slice") if negated else None
    lower = producer(concat.inputs[1], "Slice")
    if upper is None or lower is None or upper.inputs[0] is not lower.inputs[0]:
        return None
    x = upper.inputs[0]
    if x is None or x.shape is None or not isinstance(x.shape[-1], int):
        return None
    half, rest = divmod(x.shape[-1], 2)
    (low,), (high,) = integers(lower.inputs[1]) or (None,), integers(lower.inputs[2]) or (None,)
    (start,), (end,) = integers(upper.inputs[1]) or (None,), integers(upper.inputs[2]) or (None,)
    if rest or half % 8 or low != 0 or high != half or start != half or end is None or end < 2 * half:
        return None  # the kernel wants half a head in multiples of 8
    return x


def _flat(value: ir.Value | None, reshape: ir.Node) -> ir.Value | None:
    """(batch, new, heads, size) -> (batch, new, heads * size), the linear layer's output where it is one."""
    if value is None:
        return None
    split = producer(value, "Reshape")
    outer = reshape.outputs[0]
    if split is not None and split.inputs[0] is not None and split.inputs[0].shape == outer.shape:
        return split.inputs[0]
    node = ir.node("Reshape", [value, reshape.inputs[1]])
    node.outputs[0].shape = outer.shape
    node.outputs[0].type = value.type
    insert_before(reshape, [node])
    return node.outputs[0]


def _tables(
    graph: ir.Graph, marker: ir.Node, rotation: _Rotation, context: int
) -> tuple[ir.Value, ir.Value] | None:
    """(context, size / 2) cosines and sines, or None where the angles depend on more than positions."""
    chains = [_angle_chain(value) for value in (rotation.cosine, rotation.sine)]
    if chains[0] is None or chains[1] is None or chains[0][0] is not chains[1][0]:
        return None
    angles = chains[0][0]
    nodes = _path(angles, marker.outputs[0])
    if nodes is None:
        return None
    made: list[ir.Node] = []
    start, stop, step, axis = (constant(graph, name, x) for name, x in _range_constants(context))
    counted = ir.node("Range", [start, stop, step])
    rows = ir.node("Unsqueeze", [counted.outputs[0], axis])  # (1, context)
    made += [counted, rows]
    copies: dict[ir.Value | None, ir.Value] = {marker.outputs[0]: rows.outputs[0]}
    for node in nodes:
        made.append(_copy(node, copies))
    results = []
    for chain in chains:
        assert chain is not None
        copies_of_chain = dict(copies)
        copies_of_chain[chain[1]] = copies.get(angles, angles)  # half the width: skip the Concat
        last = copies_of_chain[chain[1]]
        for node in chain[2]:
            made.append(_copy(node, copies_of_chain))
            last = made[-1].outputs[0]
        squeezed = ir.node("Squeeze", [last, axis])
        made.append(squeezed)
        results.append(squeezed.outputs[0])
    insert_before(next(iter(graph)), made)
    return results[0], results[1]


def _range_constants(context: int) -> list[tuple[str, np.ndarray]]:
    values = {"start": np.int64(0), "stop": np.int64(context), "step": np.int64(1)}
    named = [(f"rotary_{name}", np.asarray(value)) for name, value in values.items()]
    return [*named, ("rotary_axis", np.asarray([0], np.int64))]


def _angle_chain(value: ir.Value) -> tuple[ir.Value, ir.Value, list[ir.Node]] | None:
    """cos or sin -> (angles of half a head, their doubled form, nodes after it in order).

    The nodes may be Cos or Sin, a Mul by a constant (attention scaling) and a Cast, on top of
    Concat(angles, angles): the two halves of a head turn by the same angles.
    """
    chain: list[ir.Node] = []
    while True:
        node = value.producer()
        if node is None:
            return None
        if node.op_type == "Concat":
            halves = list(node.inputs)
            if len(halves) != 2 or halves[0] is not halves[1] or halves[0] is None:
                return None
            return halves[0], value, chain[::-1]
        inputs = [x for x in node.inputs if x is not None and x.const_value is None]
        if node.op_type not in ("Cos", "Sin", "Mul", "Cast") or len(inputs) != 1:
            return None
        if any(x.const_value.size != 1 for x in node.inputs if x is not None and x.const_value is not None):
            return None
        chain.append(node)
        value = inputs[0]


def _path(end: ir.Value, start: ir.Value) -> list[ir.Node] | None:
    """Nodes between start and end in order, or None if anything else but constants feeds them."""
    nodes: list[ir.Node] = []
    seen: set[ir.Value] = {start}

    def visit(value: ir.Value) -> bool:
        if value in seen or value.const_value is not None:
            return True
        node = value.producer()
        if node is None or not all(visit(x) for x in node.inputs if x is not None):
            return False
        seen.update(node.outputs)
        nodes.append(node)
        return True

    return nodes if visit(end) else None


def _copy(node: ir.Node, copies: dict[ir.Value | None, ir.Value]) -> ir.Node:
    """The same operator on copied inputs; its outputs are entered into `copies`."""
    inputs = [copies.get(value, value) for value in node.inputs]
    copy = ir.Node(node.domain, node.op_type, inputs, tuple(node.attributes.values()), version=node.version)
    for old, new in zip(node.outputs, copy.outputs, strict=True):
        new.type = old.type
        copies[old] = new
    return copy


def _rotate_inside(node: ir.Node, query: _Rotation, key: _Rotation, table: tuple[ir.Value, ir.Value]) -> None:
    """Give the attention node the unrotated tensors and the table."""
    node.replace_input_with(0, query.source)
    node.replace_input_with(1, key.source)
    node.resize_inputs(9)
    node.replace_input_with(7, table[0])
    node.replace_input_with(8, table[1])
    node.attributes["do_rotary"] = ir.AttrInt64("do_rotary", 1)
