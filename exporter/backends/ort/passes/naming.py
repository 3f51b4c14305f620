"""Names that a person knows and no traces of the machine that exported, once the passes are done."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
import onnx_ir.passes.common as common

from exporter.backends.ort.names import LAYER_KEY, ROWS_KEY

PREFIX = "net."  # of every parameter in a traced wrapper
QUANTISED = ("MatMulNBits", "GatherBlockQuantized", "DequantizeLinear", "MatMulIntegerToFloat")


def name_all(model: ir.Model, dimensions: Mapping[str, tuple[str | int, ...]]) -> set[str]:
    """In place; returns the names of the quantised layers' initializers."""
    rows = {node: node.metadata_props[ROWS_KEY] for node in model.graph if ROWS_KEY in node.metadata_props}
    _name_nodes(model.graph)
    _name_initializers(model.graph)
    _name_dimensions(model.graph, dimensions)
    # torch's exporter leaves stack traces, with paths of the building machine, in the metadata
    common.ClearMetadataAndDocStringPass()(model)
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    for node in model.graph:
        for value in node.outputs:
            value.metadata_props.clear()
            value.doc_string = None
    for node, text in rows.items():
        node.metadata_props[ROWS_KEY] = text
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.doc_string = model.graph.doc_string = None
    model.producer_name, model.producer_version = "qexport", None
    model.graph.name = "model"
    used = [
        stored(value) for node in model.graph if node.op_type in QUANTISED for value in node.inputs if value
    ]
    return {value.name for value in used if value.name is not None and value.name in model.graph.initializers}


def stored(value: ir.Value) -> ir.Value:
    """What the file holds of a value that is widened while it is loaded (passes/scales.py)."""
    maker = value.producer()
    while maker is not None and maker.op_type in ("Cast", "Expand") and maker.inputs[0] is not None:
        value = maker.inputs[0]
        maker = value.producer()
    return value


def operators(model: ir.Model) -> list[str]:
    """Every operator of the graph as domain::name, sorted."""
    return sorted({f"{node.domain or 'ai.onnx'}::{node.op_type}" for node in model.graph})


def _name_nodes(graph: ir.Graph) -> None:
    """A quantised node is called after its layer, every other one after its operator and place."""
    counts: dict[str, int] = {}
    for node in graph:
        layer = node.metadata_props.get(LAYER_KEY)
        number = counts.get(node.op_type, 0)
        if layer is None:
            counts[node.op_type] = number + 1
        node.name = f"{node.op_type}_{number}" if layer is None else layer
        for place, value in enumerate(node.outputs):
            if value.is_graph_output():
                continue
            if place and not value.uses():
                value.name = ""  # an optional output that nobody reads need not be computed
            else:
                value.name = f"{node.name}.output" if place == 0 else f"{node.name}.output_{place}"


def _name_initializers(graph: ir.Graph) -> None:
    """Drop the wrapper's prefix; number the constants."""
    number = 0
    for value in list(graph.initializers.values()):
        name = value.name or ""
        if value.is_graph_input():
            continue  # a default
        if name.startswith(PREFIX):
            new = name.removeprefix(PREFIX)
        else:
            new, number = f"constant_{number}", number + 1
        graph.initializers.pop(name)
        value.name = new
        if value.const_value is not None:
            value.const_value.name = new
        graph.initializers[new] = value


def _name_dimensions(graph: ir.Graph, dimensions: Mapping[str, tuple[str | int, ...]]) -> None:
    """Symbols of the inputs and outputs as a person would call them; none inside the graph."""
    for node in graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None  # torch's symbols (s43, s70 + 5) mean nothing to anyone else
    for value in (*graph.inputs, *graph.outputs):
        if value.name is not None and value.name in dimensions:
            value.shape = ir.Shape(dimensions[value.name])
