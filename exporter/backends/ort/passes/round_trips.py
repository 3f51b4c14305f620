"""Transposes and reshapes that lead back to where they began."""

from __future__ import annotations

import onnx_ir as ir

from exporter.backends.ort.passes.matching import producer
from exporter.backends.ort.passes.outcome import Outcome


def drop_round_trips(model: ir.Model) -> Outcome:
    """Remove Transpose(Transpose(x)) that gives x, and Reshape(Reshape(x)) with x's shape again."""
    outcome = Outcome(sum(_undone(node) for node in list(model.graph) if node.op_type == "Transpose"))
    for node in list(model.graph):
        inner = producer(node.inputs[0], "Reshape") if node.op_type == "Reshape" else None
        if inner is None:
            continue
        start, end = inner.inputs[0], node.outputs[0]
        if start is None or start.shape is None or end.shape is None:
            outcome.leave("two reshapes in a row with an unknown shape")
        elif start.shape != end.shape:
            continue  # a change of shape in two steps, no round trip
        elif any(isinstance(dim, ir.SymbolicDim) and dim.value is None for dim in end.shape):
            outcome.leave("two reshapes in a row whose sizes are not known to be equal")
        elif end.is_graph_output():
            outcome.leave("two reshapes in a row that end in an output of the graph")
        else:
            end.replace_all_uses_with(start)
            outcome.applied += 1
    return outcome


def _undone(node: ir.Node) -> bool:
    """Bypass a Transpose that undoes the one before it; False where it does something else."""
    inner = producer(node.inputs[0], "Transpose")
    if inner is None or inner.inputs[0] is None or node.outputs[0].is_graph_output():
        return False
    first, second = (x.attributes.get("perm") for x in (inner, node))
    if first is None or second is None:
        return False
    order = list(first.as_ints())
    if [order[axis] for axis in second.as_ints()] != sorted(order):
        return False
    node.outputs[0].replace_all_uses_with(inner.inputs[0])
    return True
