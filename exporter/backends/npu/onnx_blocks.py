"""Products with blocks of int4 weights, in the one form that onnxruntime-qnn 2.5.0 computes in integers.

That is a MatMul whose weight is dequantised with scales that are themselves dequantised: steps of a block times the
scale of its row (LowPowerBlockQuantizedMatMulFusion of its sources). As Gemm it drops the bias; with scales in float it
computes in float16 (docs/npu.md).
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from exporter.backends.ort.passes.matching import constant, initializer, producer
from exporter.blocks import split


def step_blocks(model: ir.Model) -> None:
    """In place, right after translation: every product with a weight in blocks gets that form."""
    graph = model.graph
    for node in list(graph):
        weight = producer(node.inputs[1], "DequantizeLinear") if node.op_type == "Gemm" else None
        if weight is None or "block_size" not in weight.attributes:
            continue
        scale, dequantized = _dequantized(graph, weight)
        product = ir.node("MatMul", [node.inputs[0], dequantized.outputs[0]], name=node.name)
        product.metadata_props.update(node.metadata_props)
        product.outputs[0].shape, product.outputs[0].type = node.outputs[0].shape, node.outputs[0].type
        graph.insert_before(node, [scale, dequantized, product])
        node.outputs[0].replace_all_uses_with(product.outputs[0])
    RemoveUnusedNodesPass()(model)


def _dequantized(graph: ir.Graph, weight: ir.Node) -> tuple[ir.Node, ir.Node]:
    """What dequantises the scales, and what with them a block-wise (out, in) weight as (in, out)."""
    values, scales = weight.inputs[0], weight.inputs[1]
    assert values is not None and scales is not None and values.name is not None and scales.name is not None
    assert values.const_value is not None and scales.const_value is not None
    codes = values.const_value.numpy().T  # (in, out)
    steps, rows = split(scales.const_value.numpy())
    # name_integers renames what ends as a static weight's parts do
    held = _held(graph, f"int4.{values.name}", np.ascontiguousarray(codes).astype(ml_dtypes.int4))
    stepped = _held(graph, f"steps.{scales.name}", np.ascontiguousarray(steps.T))  # (blocks, out)
    row = _held(graph, f"rows.{scales.name}", rows)  # (out,)
    zero = constant(graph, f"no_steps_{len(rows)}", np.zeros(len(rows), np.uint8))
    middle = np.zeros(steps.T.shape, ml_dtypes.int4)
    zeros = _held(graph, f"zeros.{values.name}", middle)
    scale = ir.node("DequantizeLinear", [stepped, row, zero], {"axis": 1})
    scale.outputs[0].shape, scale.outputs[0].type = ir.Shape(steps.T.shape), ir.TensorType(ir.DataType.FLOAT)
    block = weight.attributes["block_size"].as_int()
    found = ir.node("DequantizeLinear", [held, scale.outputs[0], zeros], {"axis": 0, "block_size": block})
    found.outputs[0].shape, found.outputs[0].type = ir.Shape(codes.shape), ir.TensorType(ir.DataType.FLOAT)
    return scale, found


def _held(graph: ir.Graph, name: str, array: NDArray[np.generic]) -> ir.Value:
    """An initializer, the one of that name where it is there: a layer may be called twice."""
    if name in graph.initializers:
        return graph.initializers[name]
    kind = ir.DataType.INT4 if array.dtype == ml_dtypes.int4 else ir.DataType.from_numpy(array.dtype)
    return initializer(graph, name, ir.Tensor(array, dtype=kind, name=name))
