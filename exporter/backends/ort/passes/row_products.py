"""8-bit products of many tokens at once in integers: each token rounded by its own scale, one integer GEMM.

MatMulNBits is made for a token at a time: over 128 of them its 8-bit kernel takes twice as long as ONNX Runtime's
integer GEMM (scripts/task_peers.py has whole models). Where a layer has one scale for each row of its weight and rounds
its activations, the same integers are written for that GEMM:

    low = min(x, 0), high = max(x, 0), s = (high - low) / 255, z = round(-low / s)          for each token
    q = round(x / s) + z       y = s * ((q - 128) W^T * scales) + (128 - z) s * (sums of W's rows * scales) + bias

com.microsoft::DynamicQuantizeMatMul, which ONNX Runtime's own quantiser writes, has one s for all tokens and all texts
of a batch, padding included: one loud token takes the precision of the others.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporter.backends.ort.names import LAYER_KEY
from exporter.backends.ort.packing import unpack_codes
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
    place_of,
)
from exporter.backends.ort.passes.naming import PREFIX
from exporter.backends.ort.passes.outcome import Outcome

PRODUCT = "MatMulIntegerToFloat"
_CONTRIB = "com.microsoft"
_LEAST = 2.0**-100  # scale of a token that is all zeros
_MIDDLE, _CODES = 128, 255


def round_rows(model: ir.Model) -> Outcome:
    """In place, of a graph that is given many tokens at a time."""
    outcome = Outcome()
    tables = {place_of(node.inputs[0]) for node in model.graph if node.op_type == "GatherBlockQuantized"}
    for node in [node for node in model.graph if node.op_type == "MatMulNBits"]:
        tied = place_of(node.inputs[WEIGHT]) in tables - {None}
        why = "a table that a lookup reads too" if tied else _unfit(node)
        if why is None:
            _replace(model.graph, node)
            outcome.applied += 1
        else:
            outcome.leave(why)
    return outcome


def _unfit(node: ir.Node) -> str | None:
    """Why a product stays as it is, or None."""
    data, scales = node.inputs[WEIGHT], node.inputs[SCALES]
    if attribute(node, "bits", 4) != 8 or input_at(node, ZEROS) is not None:
        return "weights that are no symmetric int8"
    if attribute(node, "accuracy_level", 0) != 4:
        return "activations that stay float"
    constants = [value for value in (data, scales, input_at(node, BIAS)) if value is not None]
    if data is None or scales is None or any(value.const_value is None for value in constants):
        return "a weight or a bias that is computed"
    if len(data.uses()) > 1:
        return "a weight that another product reads too"
    if input_at(node, ORDER) is not None or node.inputs[0] is None or node.inputs[0].shape is None:
        return "an input of unknown shape"
    rows = _rows_of(scales, attribute(node, "N", 0))
    return None if (rows == rows[:, :1]).all() else "several scales for a row of the weight"


def _rows_of(scales: ir.Value, rows: int) -> np.ndarray:
    """(rows, 1 or blocks) as they are stored, in bfloat16."""
    assert scales.const_value is not None
    return scales.const_value.numpy().reshape(rows, -1)


class _Rows:
    """The nodes of the module's formulas in the place of one, in the making."""

    def __init__(self, graph: ir.Graph, node: ir.Node) -> None:
        self.graph, self.node = graph, node
        self.features, self.rows = attribute(node, "K", 0), attribute(node, "N", 0)
        self.name = node.metadata_props[LAYER_KEY]
        self.made: list[ir.Node] = []

    def add(self, operator: str, *inputs: ir.Value | None, domain: str = "", **attributes: int) -> ir.Value:
        """The output of one more node."""
        self.made.append(ir.node(operator, list(inputs), attributes=attributes or None, domain=domain))
        return self.made[-1].outputs[0]

    def number(self, value: object, dtype: type, label: str) -> ir.Value:
        """A constant that all products of the graph share."""
        return constant(self.graph, f"row_products_{label}", np.array(value, dtype))

    def rounded(self, flat: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Scale and codes of each token, and what is to be added for each unit of a weight's sum."""
        axis, nothing = self.number([1], np.int64, "axis"), self.number(0, np.float32, "nothing")
        low = self.add("Min", self.add("ReduceMin", flat, axis, keepdims=0), nothing)
        high = self.add("Max", self.add("ReduceMax", flat, axis, keepdims=0), nothing)
        scale = self.add("Mul", self.add("Sub", high, low), self.number(1 / _CODES, np.float32, "step"))
        scale = self.add("Max", scale, self.number(_LEAST, np.float32, "least"))
        zero = self.add("Round", self.add("Div", self.add("Neg", low), scale))
        codes = self.add("QuantizeLinear", flat, scale, self.add("Cast", zero, to=ir.DataType.UINT8), axis=0)
        apart = self.add("Sub", self.number(_MIDDLE, np.float32, "middle_float"), zero)
        return scale, codes, self.add("Mul", apart, scale)

    def weight(self, scales: np.ndarray) -> tuple[ir.Value, ir.Value]:
        """(in, out) int8 and (out,) float32 scales, stored as they come: see passes/scales.py."""
        turned = _transposed(self.graph, self.node, self.name, self.rows, self.features)
        stored = initializer(self.graph, f"{PREFIX}{self.name}.scale", ir.tensor(scales))
        return turned, self.add("Cast", stored, to=ir.DataType.FLOAT)

    def rest(
        self, apart: ir.Value, weight: ir.Value, scales: np.ndarray, bias: ir.Value | None
    ) -> list[ir.Value]:
        """Two factors of what is added to a product: (tokens, 1 or 2) and (1 or 2, out)."""
        last = self.number([1], np.int64, "axis")
        column = self.add("Unsqueeze", apart, last)
        if bias is not None:
            ones = self.add("Expand", self.number([[1]], np.float32, "ones"), self.add("Shape", column))
            column = self.add("Concat", column, ones, axis=1)
        height = 1 if bias is None else 2

        def summed() -> ir.TensorProtocol:
            assert weight.const_value is not None
            lines = [weight.const_value.numpy().sum(0, dtype=np.int64) * scales.astype(np.float64)]
            if bias is not None and bias.const_value is not None:
                lines.append(bias.const_value.numpy())
            return ir.tensor(np.stack(lines).astype(np.float32))

        lazy = ir.LazyTensor(summed, ir.DataType.FLOAT, ir.Shape([height, self.rows]), name=self.name)
        return [column, initializer(self.graph, f"{PREFIX}{self.name}.sums", lazy)]


def _replace(graph: ir.Graph, node: ir.Node) -> None:
    x, scales, bias, old = node.inputs[0], node.inputs[SCALES], input_at(node, BIAS), node.outputs[0]
    assert x is not None and x.shape is not None and scales is not None
    rows = _Rows(graph, node)
    of_row = np.ascontiguousarray(_rows_of(scales, rows.rows)[:, 0])
    flat = x
    if len(x.shape) != 2:
        flat = rows.add("Reshape", x, rows.number([-1, rows.features], np.int64, f"flat_{rows.features}"))
    scale, codes, apart = rows.rounded(flat)
    weight, stored = rows.weight(of_row)
    unit, middle = rows.number(1, np.float32, "unit"), rows.number(_MIDDLE, np.uint8, "middle")
    y = rows.add(PRODUCT, codes, weight, unit, stored, middle, domain=_CONTRIB)
    rows.made[-1].metadata_props.update(node.metadata_props)
    last = rows.number([1], np.int64, "axis")
    y = rows.add("Mul", y, rows.add("Unsqueeze", scale, last))
    y = rows.add("Gemm", *rows.rest(apart, weight, of_row, bias), y)
    if flat is not x:
        leading = rows.add("Shape", x, start=0, end=-1)
        width = rows.number([rows.rows], np.int64, f"width_{rows.rows}")
        y = rows.add("Reshape", y, rows.add("Concat", leading, width, axis=0))
    insert_before(node, rows.made)
    y.type, y.shape = old.type, old.shape
    y.name, old.name = old.name, None  # it may be an output of the graph
    old.replace_all_uses_with(y, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _transposed(graph: ir.Graph, node: ir.Node, name: str, rows: int, features: int) -> ir.Value:
    """(in, out) int8, read when the file is written."""
    data = node.inputs[WEIGHT]
    assert data is not None and data.const_value is not None
    packed = data.const_value

    def turned() -> ir.TensorProtocol:
        codes = unpack_codes(packed.numpy().reshape(rows, features), 8, features)
        return ir.tensor(np.ascontiguousarray(codes.T))

    lazy = ir.LazyTensor(turned, ir.DataType.INT8, ir.Shape([features, rows]), name=name)
    return initializer(graph, f"{PREFIX}{name}.weight_transposed", lazy)
