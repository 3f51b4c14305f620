"""Quantise and dequantise nodes as ONNX Runtime wants them, to fuse QLinearConv and its like when it loads.

Its selectors (onnxruntime/core/optimizer/qdq_transformer/selectors_actions) ask for constant scales and zero
points, a bias of int32 with its own dequantize node, and nothing between a dequantize node and its operator.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from exporter.backends.ort.names import LAYER_KEY
from exporter.backends.ort.passes.matching import constant, integers, only_reader, producer
from exporter.backends.ort.passes.outcome import Outcome
from exporter.static.weights import BIAS, WEIGHT

_PRODUCTS = ("Conv", "Gemm", "MatMul")
_PARTS = {
    f".{WEIGHT}.values": ".weight",
    f".{WEIGHT}.scales": ".weight_scale",
    f".{BIAS}.values": ".bias",
    f".{BIAS}.scales": ".bias_scale",
}


def name_integers(model: ir.Model, layers: Collection[str]) -> None:
    """In place, right after translation: which node is which of the static `layers`, and its constants by their
    names, straight from initializers."""
    for node in list(model.graph):
        if node.op_type == "DequantizeLinear":
            _constant_parameters(model.graph, node)
    for node in model.graph:
        weight = producer(node.inputs[1], "DequantizeLinear") if node.op_type in _PRODUCTS else None
        layer = _layer(weight.inputs[0].name, layers) if weight and weight.inputs[0] else None
        if layer is not None:
            node.metadata_props[LAYER_KEY] = layer
    for value in list(model.graph.initializers.values()):
        for old, new in _PARTS.items():
            if value.name is not None and value.name.endswith(old):
                _rename(model.graph, value, value.name.removesuffix(old) + new)


def settle_integers(model: ir.Model) -> Outcome:
    """In place, after the passes; `applied` counts the static layers that stand as ONNX Runtime's selectors want."""
    outcome = Outcome()
    for node in list(model.graph):
        if node.op_type == "ReduceMean":
            _as_global_pool(node)
        if node.op_type not in _PRODUCTS or LAYER_KEY not in node.metadata_props:
            continue
        if producer(node.inputs[1], "DequantizeLinear") is None:
            continue
        _merge_padding(node, outcome)
        reader = only_reader(node.outputs[0])
        if producer(node.inputs[0], "DequantizeLinear") is None:
            outcome.leave(f"{node.metadata_props[LAYER_KEY]}: its input does not come straight from integers")
        elif reader is None or reader.op_type != "QuantizeLinear":
            outcome.leave(
                f"{node.metadata_props[LAYER_KEY]}: its output does not become integers straight away"
            )
        else:
            outcome.applied += 1
    _separate_dequantized(model.graph)
    _separate_zero_points(model)
    RemoveUnusedNodesPass()(model)
    return outcome


def _separate_dequantized(graph: ir.Graph) -> None:
    """A dequantize node for each reader, as ONNX Runtime's selectors want an operator and the nodes around it."""
    for node in list(graph):
        if node.op_type != "DequantizeLinear":
            continue
        value = node.outputs[0]
        for reader, place in list(value.uses())[1:]:
            copy = ir.node("DequantizeLinear", list(node.inputs), dict(node.attributes))
            copy.outputs[0].shape, copy.outputs[0].type = value.shape, value.type
            graph.insert_before(reader, copy)
            reader.replace_input_with(place, copy.outputs[0])


def _separate_zero_points(model: ir.Model) -> None:
    """Give each int8 weight zero points of its own: with `session.x64quantprecision` ONNX Runtime rewrites those of
    each weight, and fails where two share them. After the passes, which merge what is equal."""
    for node in model.graph:
        if node.op_type != "DequantizeLinear" or len(node.inputs) < 3:
            continue
        values, zero = node.inputs[0], node.inputs[2]
        if values is None or values.name not in model.graph.initializers or zero is None:
            continue
        assert zero.const_value is not None
        name = f"{values.name}_zero_point"
        node.replace_input_with(2, constant(model.graph, name, zero.const_value.numpy()))


def _constant_parameters(graph: ir.Graph, node: ir.Node) -> None:
    """Scale and zero point of a weight or bias straight from initializers; zero points that are all 0 as integers
    of the weight's type, those of a bias left out."""
    scale = producer(node.inputs[1], "Cast")
    if scale is not None:
        node.replace_input_with(1, scale.inputs[0])
    zero = producer(node.inputs[2], "Cast") if len(node.inputs) > 2 else None
    if zero is None:
        return
    stored, values = zero.inputs[0], node.inputs[0]
    assert stored is not None and stored.const_value is not None and values is not None
    if values.dtype == ir.DataType.INT32:
        node.replace_input_with(2, None)
        return
    array = stored.const_value.numpy().astype(np.int8)
    node.replace_input_with(2, constant(graph, f"zero_points_{len(array)}", array))


def _merge_padding(node: ir.Node, outcome: Outcome) -> None:
    """Zero padding before a convolution becomes the convolution's own, which may differ from side to side."""
    pad = producer(node.inputs[0], "Pad")
    if pad is None or node.op_type != "Conv" or only_reader(pad.outputs[0]) is not node:
        return
    amounts = integers(pad.inputs[1])
    own = node.attributes.get("pads")
    if amounts is None or own is None:
        outcome.leave("a padding whose size is not constant")
        return
    rank = len(amounts) // 2
    begins, ends = amounts[2:rank], amounts[rank + 2 :]
    if any(amounts[:2]) or any(amounts[rank : rank + 2]):
        outcome.leave("a padding of channels")
        return
    before = own.as_ints()
    pads = [a + b for a, b in zip(before, [*begins, *ends], strict=True)]
    node.attributes["pads"] = ir.AttrInt64s("pads", pads)
    node.replace_input_with(0, pad.inputs[0])


def _as_global_pool(node: ir.Node) -> None:
    """The mean over height and width of an integer picture: ONNX Runtime has an integer kernel for the pooling
    operator only."""
    axes = integers(node.inputs[1]) if len(node.inputs) > 1 else None
    keeps = node.attributes.get("keepdims")
    source = producer(node.inputs[0], "DequantizeLinear")
    if axes is None or sorted(axis % 4 for axis in axes) != [2, 3] or source is None:
        return
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    if shape is None or len(shape) != 4 or (keeps is not None and not keeps.as_int()):
        return
    pooled = ir.node("GlobalAveragePool", [node.inputs[0]])
    graph = node.graph
    assert graph is not None
    pooled.outputs[0].shape, pooled.outputs[0].type = node.outputs[0].shape, node.outputs[0].type
    graph.insert_before(node, pooled)
    node.outputs[0].replace_all_uses_with(pooled.outputs[0])


def _layer(name: str | None, layers: Collection[str]) -> str | None:
    """Module path of the layer whose int8 weight has this name; a wrapper's prefix may stand before it."""
    suffix = f".{WEIGHT}.values"
    if name is None or not name.endswith(suffix):
        return None
    path = name.removesuffix(suffix)
    fitting = [layer for layer in layers if path == layer or path.endswith(f".{layer}")]
    return max(fitting, key=len, default=None)


def _rename(graph: ir.Graph, value: ir.Value, name: str) -> None:
    graph.initializers.pop(value.name or "")
    value.name = name
    if value.const_value is not None:
        value.const_value.name = name
    graph.initializers[name] = value
