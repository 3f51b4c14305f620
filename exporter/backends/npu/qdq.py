"""A program whose values are all integers, as an ONNX graph of quantise and dequantise nodes for the QNN provider.

What that provider (onnxruntime-qnn 2.5.0) was seen to get wrong without a word, and what is written instead:
- it keeps one scale for each initializer, so two constants of equal codes and other scales must not be one;
- the second factor of a product of two values is cut to 8 bits unless its codes are int16: it is recoded before;
- a matrix product with a weight is right as Gemm over rows; as MatMul its weight is computed with in float. One with
  blocks is right as MatMul alone (exporter.backends.npu.onnx_blocks).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass

from exporter.backends.base import PackedLayer
from exporter.backends.npu.onnx_blocks import step_blocks
from exporter.backends.npu.onnx_norms import whole_rms_norms
from exporter.backends.ort.names import LAYER_KEY
from exporter.backends.ort.passes import naming
from exporter.backends.ort.passes.integers import name_integers, settle_integers
from exporter.backends.ort.passes.matching import constant, initializer, producer
from exporter.backends.ort.passes.simplification import simplify
from exporter.backends.ort.static_reading import static_layers
from exporter.backends.ort.tracing import Traced
from exporter.backends.ort.translation import to_onnx
from exporter.errors import LoweringError
from exporter.models.exporting import export
from exporter.models.fixed import FixedEncoder
from exporter.models.fixed_decoder import FixedDecoder
from exporter.static.dialects import with_integers

if TYPE_CHECKING:
    from exporter.models.python_module import ModuleSkeleton

_MIDDLE = 1 << 15
TABLE = ".weight"


def codes_program(skeleton: ModuleSkeleton) -> torch.export.ExportedProgram:
    """The traced module with integers everywhere, in the skeleton's dialect; Qualcomm's HTP has codes from 0 on."""
    program = export(Held(skeleton.build(_no_other)), skeleton.example_inputs)
    schemes = {name: planned.scheme for name, planned in skeleton.layers.items()}
    plan = skeleton.static
    assert plan is not None  # the pipeline calibrates first
    qualcomm = skeleton.dialect == "qualcomm"
    return with_integers(program, schemes, plan.unsigned(wide=True) if qualcomm else plan, skeleton.dialect)


class Held(torch.nn.Module):
    """Gives every parameter the same prefix, whatever the module."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net.net if isinstance(net, FixedEncoder | FixedDecoder) else net
        self._whole = [net]  # in a list: its parameters are not registered a second time

    def forward(self, *args: torch.Tensor) -> object:
        """As the module's."""
        return self._whole[0](*args)


def _no_other(planned: object) -> torch.nn.Module:
    raise LoweringError("an NPU takes layers with static activations only; this is a mistake of the plan")


def write_qdq(skeleton: ModuleSkeleton, names: tuple[str, ...], path: Path) -> None:
    """Write the graph; inputs have these names. Raises TraceError, LoweringError."""
    program = codes_program(skeleton)
    count = len(program.graph_signature.user_outputs)
    outputs = ("output",) if count == 1 else tuple(f"output_{i}" for i in range(count))
    model = to_onnx(Traced(program, names, outputs, {}, None))
    step_blocks(model)
    whole_rms_norms(model)
    name_integers(model, list(skeleton.layers))
    simplify(model)
    RemoveUnusedNodesPass()(model)
    settle_integers(model)
    schemes = {name: planned.scheme for name, planned in skeleton.layers.items()}
    four = {name for name, scheme in schemes.items() if scheme.bits == 4 and not scheme.steps_scales}
    _pack_int4(model, four)
    _recode_second_factors(model)
    _own_initializers(model)
    naming.name_all(model, {})
    ir.save(model, path)


def _pack_int4(model: ir.Model, layers: set[str]) -> None:
    """In place: weights of these layers, and their zero points, as INT4."""
    for node in model.graph:
        if node.metadata_props.get(LAYER_KEY) not in layers:
            continue
        weight = producer(node.inputs[1], "DequantizeLinear")
        assert weight is not None
        for place in (0, 2):
            value = weight.inputs[place]
            if value is None:
                continue
            assert value.const_value is not None and value.name is not None
            packed = value.const_value.numpy().astype(ml_dtypes.int4)
            name = f"{value.name}_int4"
            made = initializer(model.graph, name, ir.Tensor(packed, dtype=ir.DataType.INT4, name=name))
            weight.replace_input_with(place, made)
    RemoveUnusedNodesPass()(model)


def _recode_second_factors(model: ir.Model) -> None:
    """In place: uint16 codes whose zero is the middle become int16 ones, 32,768 less, before a product of values."""
    graph = model.graph
    for node in list(graph):
        second = producer(node.inputs[1], "DequantizeLinear") if node.op_type == "MatMul" else None
        if second is None or second.inputs[2] is None or second.inputs[2].const_value is None:
            continue
        zero = second.inputs[2].const_value.numpy()
        if zero.dtype != np.uint16:
            continue
        if int(zero) != _MIDDLE:
            raise LoweringError(f"{node.name}: its second factor has zero point {int(zero)}, not {_MIDDLE}")
        middle = constant(graph, f"{node.name}_zero", np.array(0, np.int16))
        held = ir.node("QuantizeLinear", [second.outputs[0], second.inputs[1], middle])
        back = ir.node("DequantizeLinear", [held.outputs[0], second.inputs[1], middle])
        for made, kind in ((held, ir.DataType.INT16), (back, ir.DataType.FLOAT)):
            made.outputs[0].shape = second.outputs[0].shape
            made.outputs[0].type = ir.TensorType(kind)
        graph.insert_before(node, [held, back])
        node.replace_input_with(1, back.outputs[0])


def _own_initializers(model: ir.Model) -> None:
    """In place: no two dequantise nodes share their integers."""
    seen: set[str] = set()
    for node in model.graph:
        value = node.inputs[0] if node.op_type == "DequantizeLinear" else None
        if value is None or value.name not in model.graph.initializers:
            continue
        if value.name in seen:
            assert value.const_value is not None
            name = f"{value.name}_{len(seen)}"
            copy = ir.Tensor(value.const_value.numpy(), dtype=value.dtype, name=name)
            made = initializer(model.graph, name, copy)
            node.replace_input_with(0, made)
            value = made
        seen.add(str(value.name))


def read_qdq(path: Path) -> dict[str, PackedLayer]:
    """Every layer's integers out of the graph."""
    model = onnx.load(path)
    held = {tensor.name: tensor for tensor in model.graph.initializer}

    def load(name: str) -> np.ndarray:
        found: np.ndarray = onnx.numpy_helper.to_array(held[name])
        return found.astype(np.int8) if held[name].data_type == onnx.TensorProto.INT4 else found

    found = {layer.name: layer for layer in static_layers(model, load, str(path))}
    makers = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        table = makers.get(node.input[0]) if node.op_type == "Gather" else None
        if table is None or not table.input[0].endswith(TABLE):
            continue
        if held[table.input[0]].data_type != onnx.TensorProto.INT8:
            continue  # a table that the plan keeps float, in the codes of all values
        values = load(table.input[0])
        scales = np.full((1, 1), load(table.input[1]).reshape(-1)[0], np.float32)
        name = table.input[0].removesuffix(TABLE).removeprefix("net.")
        found[name] = PackedLayer(name, 8, "tensor", values, scales, None, values.nbytes)
    return found
