"""8-bit products of many tokens: each token rounded by its own scale, within half a step, whoever stands beside."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from exporter.backends.ort.names import LAYER_KEY
from exporter.backends.ort.packing import pack
from exporter.backends.ort.passes.row_products import PRODUCT, round_rows
from exporter.numerics import QuantizedTensor, quantize
from exporter.schemes import QuantScheme

IN, OUT = 64, 24


def scheme_of(
    weights: Any, group: Any, symmetric: bool = True, activations: Any = "dynamic-int8"
) -> QuantScheme:
    return QuantScheme("s", weights, group, symmetric, activations, "rtn")


W8 = scheme_of("int8", "channel")


def weight_of(scheme: QuantScheme = W8, seed: int = 0) -> QuantizedTensor:
    return quantize(np.random.default_rng(seed).standard_normal((OUT, IN)).astype(np.float32) + 0.1, scheme)


def graph_of(
    tensor: QuantizedTensor, rank: int, bias: NDArray[np.float32] | None, level: int = 4, table: bool = False
) -> ir.Model:
    """x (…, in) -> MatMulNBits, as torch's translation leaves it; with `table`, its bytes are looked up as well."""
    packed = pack(tensor)
    arrays: dict[str, NDArray[Any]] = {
        "data": packed.data.reshape(OUT, IN // packed.block, -1),
        "scales": packed.scales.view(ml_dtypes.bfloat16),
    }
    if packed.zero_points is not None:
        arrays["zeros"] = packed.zero_points
    if bias is not None:
        arrays["bias"] = bias
    if table:
        arrays["table"] = packed.data

    def value(name: str) -> ir.Value:
        held = ir.tensor(arrays[name], name=name)
        return ir.Value(
            name=name, const_value=held, shape=ir.Shape(arrays[name].shape), type=ir.TensorType(held.dtype)
        )

    values = {name: value(name) for name in arrays}
    x = ir.Value(
        name="x", shape=ir.Shape([*["b", "s"][: rank - 1], IN]), type=ir.TensorType(ir.DataType.FLOAT)
    )
    inputs = [x, values["data"], values["scales"]]
    if "zeros" in values or bias is not None:
        inputs += [values.get("zeros"), None, values.get("bias")]
    attributes = {
        "K": IN,
        "N": OUT,
        "bits": tensor.scheme.bits,
        "block_size": packed.block,
        "accuracy_level": level,
    }
    node = ir.node(
        "MatMulNBits", inputs, attributes, domain="com.microsoft", metadata_props={LAYER_KEY: "layer"}
    )
    node.outputs[0].name = "y"
    node.outputs[0].shape = ir.Shape([*x.shape[:-1], OUT])
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    nodes, outputs = [node], [node.outputs[0]]
    if table:
        ids = ir.Value(name="ids", shape=ir.Shape(["b"]), type=ir.TensorType(ir.DataType.INT64))
        looked_up = ir.node(
            "GatherBlockQuantized", [values["table"], ids, values["scales"]], {"bits": 8, "block_size": packed.block},
            domain="com.microsoft",
        )  # fmt: skip
        nodes.append(looked_up)
    graph = ir.Graph(
        [x], outputs, nodes=nodes, initializers=values.values(), opset_imports={"": 21, "com.microsoft": 1}
    )
    return ir.Model(graph, ir_version=10)


def session_of(model: ir.Model) -> onnxruntime.InferenceSession:
    proto = ir.serde.serialize_model(model)
    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


TENSOR = weight_of()
BIAS = np.random.default_rng(1).standard_normal(OUT).astype(np.float32)
SESSIONS: dict[tuple[int, bool], onnxruntime.InferenceSession] = {}


def session(rank: int, has_bias: bool) -> onnxruntime.InferenceSession:
    if (rank, has_bias) not in SESSIONS:
        model = graph_of(TENSOR, rank, BIAS if has_bias else None)
        assert round_rows(model).facts() == {"applied": 1, "left": 0, "why": []}
        assert PRODUCT in operators(model) and "MatMulNBits" not in operators(model)
        SESSIONS[rank, has_bias] = session_of(model)
    return SESSIONS[rank, has_bias]


def half_steps(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """(…, out) what half a code of each token can change, and float32 sums of such sizes."""
    low, high = np.minimum(x.min(-1), 0), np.maximum(x.max(-1), 0)
    step = (high - low).astype(np.float64) / 255
    weights = np.abs(TENSOR.values * TENSOR.row_scales()).astype(np.float64).sum(1)
    largest = np.maximum(high, -low).astype(np.float64)
    found: NDArray[np.float64] = (step * 0.5 + largest * IN * 2.0**-22)[..., None] * weights + 1e-5
    return found


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**31),
    st.sampled_from([0.0, 1e-6, 1.0, 1e4]),
    st.sampled_from([-3.0, 0.0, 3.0]),
    st.booleans(),
)
def test_within_half_a_step(seed: int, size: float, shift: float, has_bias: bool) -> None:
    """Whatever the sizes of the tokens, and whether their values are of one sign."""
    x = np.random.default_rng(seed).standard_normal((2, 5, IN)).astype(np.float32)
    x = ((x + np.float32(shift)) * np.float32(size)).astype(np.float32)
    x[0, 1] = 0
    exact = x.astype(np.float64) @ (TENSOR.values * TENSOR.row_scales()).astype(np.float64).T
    (y,) = session(3, has_bias).run(None, {"x": x})
    assert y.shape == (2, 5, OUT)
    assert (np.abs(y - exact - (BIAS if has_bias else 0)) <= half_steps(x)).all()


@pytest.mark.parametrize("rank", [2, 3])
def test_a_loud_token_takes_nothing_from_the_others(rank: int) -> None:
    x = np.random.default_rng(2).standard_normal((4, IN)).astype(np.float32)
    loud = np.concatenate([x, 1000 * x[:1]])
    shape = (lambda a: a) if rank == 2 else (lambda a: a[None])
    (alone,), (beside,) = (session(rank, True).run(None, {"x": shape(each)}) for each in (x, loud))
    assert np.array_equal(alone.reshape(4, OUT), beside.reshape(5, OUT)[:4])


@pytest.mark.parametrize(
    ("scheme", "level", "table", "why"),
    [
        (scheme_of("int4", 32), 4, False, "weights that are no symmetric int8"),
        (scheme_of("int8", "channel", symmetric=False), 4, False, "weights that are no symmetric int8"),
        (scheme_of("int8", 32), 4, False, "several scales for a row of the weight"),
        (scheme_of("int8", "channel", activations="float"), 0, False, "activations that stay float"),
        (W8, 4, True, "a table that a lookup reads too"),
    ],
)  # fmt: skip
def test_what_stays(scheme: QuantScheme, level: int, table: bool, why: str) -> None:
    model = graph_of(weight_of(scheme), 3, None, level, table)
    assert round_rows(model).facts() == {"applied": 0, "left": 1, "why": [f"1 x {why}"]}
    assert operators(model)[0] == "MatMulNBits"
