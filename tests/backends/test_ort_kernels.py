"""Every allowed scheme, run in ONNX Runtime against the product with the dequantised weight."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from exporter.backends.ort.packing import PackedWeight, pack, unpack_codes
from exporter.numerics import QuantizedTensor, quantize
from exporter.schemes import QuantScheme

OUT = 24
UNIT = 2.0**-24  # half a unit in the last place of float32, relative
GROUPS = [16, 32, 64, 128, "channel", "tensor"]


def tensor_for(weights: Any, group: Any, symmetric: bool, in_features: int) -> QuantizedTensor:
    weight = np.random.default_rng(7).standard_normal((OUT, in_features)).astype(np.float32)
    return quantize(weight + np.float32(0.3), QuantScheme("s", weights, group, symmetric, method="rtn"))


def run(
    node: onnx.NodeProto, arrays: dict[str, NDArray[Any]], x: NDArray[Any], kind: int
) -> NDArray[np.float32]:
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", kind, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    y: NDArray[np.float32] = session.run(None, {"x": x})[0]
    return y


def arrays_of(weight: PackedWeight, blocks: int | None) -> dict[str, NDArray[Any]]:
    data = weight.data if blocks is None else weight.data.reshape(OUT, blocks, -1)
    arrays: dict[str, NDArray[Any]] = {"data": data, "scales": weight.scales}
    if weight.zero_points is not None:
        arrays["zeros"] = weight.zero_points
    return arrays


@pytest.mark.parametrize("weights", ["int4", "int8"])
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("level", [0, 4])
@pytest.mark.parametrize("rows", [1, 5])
def test_matmul_nbits(weights: Any, group: Any, symmetric: bool, level: int, rows: int) -> None:
    in_features = 384 if group != "channel" else 576  # 3 blocks of 128; 9 blocks of 64
    tensor = tensor_for(weights, group, symmetric, in_features)
    packed = pack(tensor)
    blocks = in_features // packed.block
    arrays = arrays_of(packed, blocks)
    node = helper.make_node(
        "MatMulNBits",
        ["x", *arrays],
        ["y"],
        domain="com.microsoft",
        K=in_features,
        N=OUT,
        bits=packed.bits,
        block_size=packed.block,
        accuracy_level=level,
    )
    x = np.random.default_rng(1).standard_normal((rows, in_features)).astype(np.float32)
    y = run(node, arrays, x, TensorProto.FLOAT)
    weight = tensor.dequantized().astype(np.float64)
    size = np.abs(x.astype(np.float64)) @ np.abs(weight).T
    # A dot product of n terms in any order of summation errs by at most n * UNIT * sum |x| |w|
    # (Higham, Accuracy and Stability, 3.1); dequantising adds two roundings. With zero points the
    # kernels sum codes and zero points apart, so the terms are as large as |x| (|code| + |zero|) s.
    if tensor.zero_points is not None:
        zeros = np.abs(tensor.row_zero_points().astype(np.float64)) * tensor.row_scales()  # type: ignore[union-attr]
        spread = np.repeat(zeros, in_features // zeros.shape[1], axis=1)
        size = np.abs(x.astype(np.float64)) @ (np.abs(weight) + 2 * spread).T
    # The kernels' codes are unsigned (value + 2^(bits - 1)), and the shift is summed apart as well.
    shift = 2.0 ** (packed.bits - 1)
    shifted = np.abs(x.astype(np.float64)) @ np.repeat(packed.scales * shift, packed.block, axis=1).T
    bound = (in_features + 4) * UNIT * (size + shifted)
    if level == 4:
        # Activations are rounded to int8 per block with a scale of max |x| / 127: each moves by half
        # a step at most, which the weights of its block carry into the sum.
        step = np.abs(x).reshape(rows, blocks, packed.block).max(axis=2) / 127.0
        mass = np.abs(weight).reshape(OUT, blocks, packed.block).sum(axis=2)
        bound = bound + 0.5 * (step @ mass.T)
    assert (np.abs(y - x.astype(np.float64) @ weight.T) <= bound).all()


@pytest.mark.parametrize("weights", ["int4", "int8"])
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_gather_block_quantized_is_exact(weights: Any, group: Any, symmetric: bool) -> None:
    tensor = tensor_for(weights, group, symmetric, 384)
    packed = pack(tensor)
    arrays = arrays_of(packed, None)
    extra = {} if packed.bits == 4 else {"bits": packed.bits}
    node = helper.make_node(
        "GatherBlockQuantized",
        ["data", "x", *list(arrays)[1:]],
        ["y"],
        domain="com.microsoft",
        gather_axis=0,
        quantize_axis=1,
        block_size=packed.block,
        **extra,
    )
    ids = np.asarray([[0, 5, OUT - 1], [3, 3, 1]], np.int64)
    # one integer times one float32: a single rounding, the same one as NumPy's
    np.testing.assert_array_equal(run(node, arrays, ids, TensorProto.INT64), tensor.dequantized()[ids])


@pytest.mark.parametrize("bits", [4, 8])
def test_packing_is_reversible_over_every_code(bits: int) -> None:
    half = 2 ** (bits - 1)
    codes = np.tile(np.arange(-half, half, dtype=np.int8), (3, 1))  # every code, in 1 or 16 groups
    scheme = QuantScheme("s", "int4" if bits == 4 else "int8", 16, symmetric=False)
    groups = codes.shape[1] // 16
    zeros = (np.arange(3 * groups).reshape(3, groups) % half).astype(np.int8)
    tensor = QuantizedTensor(codes, np.ones((3, groups), np.float32), zeros, scheme)
    packed = pack(tensor)
    assert packed.zero_points is not None
    np.testing.assert_array_equal(unpack_codes(packed.data, bits, codes.shape[1]), codes)
    np.testing.assert_array_equal(unpack_codes(packed.zero_points, bits, groups), zeros)
