"""Static layers out of a written graph: convolutions and products between dequantize and quantize nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx
from numpy.typing import NDArray

from exporter.backends.base import PackedLayer, PackedStatic
from exporter.blocks import coarsest
from exporter.errors import ArtifactError
from exporter.numerics import canonical_granularity

_PRODUCTS = ("Conv", "Gemm", "MatMul")
Load = Callable[[str], NDArray[np.generic]]  # an initializer by its name


def static_layers(model: onnx.ModelProto, load: Load, where: str) -> Iterator[PackedLayer]:
    """Every static layer of one graph. Raises ArtifactError where a layer's integers reach it by another way."""
    initializers = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    makers = {output: node for node in model.graph.node for output in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in model.graph.node:
        weight = makers.get(node.input[1]) if node.op_type in _PRODUCTS and len(node.input) > 1 else None
        if weight is None or weight.op_type != "DequantizeLinear" or weight.input[0] not in initializers:
            continue
        source = makers.get(node.input[0])
        ends = readers.get(node.output[0], [])
        if (
            source is None
            or source.op_type != "DequantizeLinear"
            or [n.op_type for n in ends] != ["QuantizeLinear"]
        ):
            raise ArtifactError(
                f"{where}: layer {node.name} does not stand between integers; the file was changed after it was written"
            )
        bias = makers.get(node.input[2]) if len(node.input) > 2 else None
        codes = None if bias is None else load(bias.input[0]).astype(np.int32)
        static = PackedStatic(_pair(source, load), _pair(ends[0], load), codes)
        bits = 4 if initializers[weight.input[0]] == onnx.TensorProto.INT4 else 8
        yield _layer(node, weight, makers.get(weight.input[1]), load, static, bias, bits)


def _pair(node: onnx.NodeProto, load: Load) -> tuple[float, int]:
    """Scale of a quantize or dequantize node, and its zero point among codes that begin at -128."""
    zero = load(node.input[2]).reshape(-1)
    return float(load(node.input[1]).reshape(-1)[0]), int(zero[0]) - (128 if zero.dtype.kind == "u" else 0)


def _layer(
    node: onnx.NodeProto,
    weight: onnx.NodeProto,
    stepped: onnx.NodeProto | None,
    load: Load,
    static: PackedStatic,
    bias: onnx.NodeProto | None,
    bits: int,
) -> PackedLayer:
    """`stepped`: what makes the scales of blocks, whose weight is (in, out), out of steps and scales of rows."""
    stored = load(weight.input[0])
    parts = [*weight.input, *(bias.input[1:] if bias is not None else ())]
    if stepped is None:
        values = np.ascontiguousarray(stored.reshape(len(stored), -1), np.int8)
        scales = np.ascontiguousarray(load(weight.input[1]), np.float32).reshape(-1, 1)
    else:
        values = np.ascontiguousarray(stored.T, np.int8)
        steps, rows = load(stepped.input[0]), load(stepped.input[1])  # (groups, out), (out,)
        scales = coarsest((steps.astype(np.float32) * rows.astype(np.float32)).T)
        parts = [weight.input[0], *stepped.input]
    size = sum(load(name).nbytes for name in parts if name)
    scales, _, group = canonical_granularity(scales, None, values.shape[1])
    return PackedLayer(node.name, bits, group, values, scales, None, size, static)
