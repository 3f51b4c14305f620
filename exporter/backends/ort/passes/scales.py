"""Scales stored as bfloat16, and once for each row where they repeat, widened by nodes that are computed while loading.

numerics rounds scales to bfloat16 before it computes integers, so two bytes hold each of them exactly. MatMulNBits and
GatherBlockQuantized take float32 ones, one for each block. A Cast and an Expand of a constant are constant themselves:
ONNX Runtime folds them at its lowest level of optimisation, before its kernels pack their weights, so that what runs is
the same as with float32 scales in the file (found by running 1.20.1, 1.22.1, 1.23.2, 1.26.0, 1.28.0 and 1.32.0).

With optimisation switched off (ORT_DISABLE_ALL) nothing is folded, and MatMulNBits with int8 activations computes zeros
(1.28.0, 1.32.0) or NaN (1.20.1, 1.22.1, 1.23.2) without an error: scales go into the packed weight while a session is
made, and the kernel does not ask whether there were any. Float activations and GatherBlockQuantized take any scales.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporter.backends.ort.passes.matching import SCALES, attribute, constant, insert_before, place_of
from exporter.backends.ort.passes.outcome import Outcome

_WEIGHT = {"MatMulNBits": 1, "GatherBlockQuantized": 0}  # place among the inputs


def widen_scales(model: ir.Model) -> Outcome:
    """In place, the last to look at scales: from (rows, 1 or blocks) bfloat16 to (rows, blocks) float32.

    Operators that read the same scales, as those of a tied table, share the nodes.
    """
    outcome = Outcome()
    made: dict[object, ir.Value] = {}
    for node in [node for node in model.graph if node.op_type in _WEIGHT]:
        scales = node.inputs[SCALES]
        assert scales is not None
        if scales.const_value is None or scales.const_value.dtype != ir.DataType.BFLOAT16:
            outcome.leave("scales that are not stored as bfloat16")
            continue
        rows, stored = (int(size) for size in scales.const_value.shape.numpy())
        shape = (rows, _blocks(node))
        key = (place_of(scales) or scales, shape)
        if key not in made:
            made[key] = _widened(model.graph, node, scales, shape, repeats=stored != shape[1])
        node.replace_input_with(SCALES, made[key])
        outcome.applied += 1
    return outcome


def _blocks(node: ir.Node) -> int:
    """Scales that the kernel reads for each row of its weight."""
    data = node.inputs[_WEIGHT[node.op_type]]
    assert data is not None and data.shape is not None
    width = int(data.shape.numpy()[1])  # (rows, blocks, bytes of a block) or (rows, bytes)
    if node.op_type == "MatMulNBits":
        return width
    return width * 8 // attribute(node, "bits", 4) // attribute(node, "block_size", 0)


def _widened(
    graph: ir.Graph, node: ir.Node, scales: ir.Value, shape: tuple[int, int], repeats: bool
) -> ir.Value:
    """The float32 scales, by nodes in front of the first operator that reads them."""
    nodes = [ir.node("Cast", [scales], {"to": ir.DataType.FLOAT})]
    if repeats:
        whole = constant(graph, "scales_{}_{}".format(*shape), np.asarray(shape, np.int64))
        nodes.append(ir.node("Expand", [nodes[0].outputs[0], whole]))
    insert_before(node, nodes)
    for one in nodes:
        one.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    nodes[0].outputs[0].shape, nodes[-1].outputs[0].shape = scales.shape, ir.Shape(shape)
    return nodes[-1].outputs[0]
