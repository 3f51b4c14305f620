"""Every allowed scheme, run in ONNX Runtime against the product with the dequantised weight."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from exporter.backends.ort.cache import largest_key, scales_for
from exporter.backends.ort.packing import PackedWeight, pack, unpack_codes
from exporter.numerics import QuantizedTensor, from_bf16_bits, quantize
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


def scales_of(weight: PackedWeight) -> NDArray[np.float32]:
    """(out, blocks) as the kernels take them; passes/scales.py widens them in a whole graph."""
    blocks = weight.data.shape[1] * 8 // weight.bits // weight.block
    return np.ascontiguousarray(np.broadcast_to(from_bf16_bits(weight.scales), (OUT, blocks)))


def arrays_of(weight: PackedWeight, blocks: int | None) -> dict[str, NDArray[Any]]:
    data = weight.data if blocks is None else weight.data.reshape(OUT, blocks, -1)
    arrays: dict[str, NDArray[Any]] = {"data": data, "scales": scales_of(weight)}
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
    shifted = np.abs(x.astype(np.float64)) @ np.repeat(scales_of(packed) * shift, packed.block, axis=1).T
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


HEADS, KV_HEADS, SIZE = 4, 2, 16


def attention_node(scales: dict[str, NDArray[np.float32]], window: int | None, softcap: float) -> Any:
    """One GroupQueryAttention, its cache in int8 by these scales, or in float32 without any."""
    kind = TensorProto.INT8 if scales else TensorProto.FLOAT
    shapes = {"q": HEADS * SIZE, "k": KV_HEADS * SIZE, "v": KV_HEADS * SIZE}
    inputs = [helper.make_tensor_value_info(x, TensorProto.FLOAT, [1, "s", n]) for x, n in shapes.items()]
    cache = [1, KV_HEADS, "p", SIZE]
    inputs += [helper.make_tensor_value_info(x, kind, cache) for x in ("past_k", "past_v")]
    inputs += [
        helper.make_tensor_value_info(x, TensorProto.INT32, n) for x, n in (("last", [1]), ("total", []))
    ]
    names = [x.name for x in inputs]
    attributes: dict[str, Any] = {"num_heads": HEADS, "kv_num_heads": KV_HEADS, "softcap": softcap}
    if window is not None:
        attributes["local_window_size"] = window
    if scales:
        names += [*[""] * 5, *scales]
        attributes |= {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL", "kv_cache_bit_width": 8}
    node = helper.make_node(
        "GroupQueryAttention", names, ["y", "new_k", "new_v"], domain="com.microsoft", **attributes
    )
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    outputs += [helper.make_tensor_value_info(x, kind, None) for x in ("new_k", "new_v")]
    graph = helper.make_graph(
        [node], "one", inputs, outputs, [numpy_helper.from_array(x, name) for name, x in scales.items()]
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def attend(session: Any, kind: Any, data: dict[str, NDArray[np.float32]], prompt: int) -> Any:
    """Outputs (tokens, heads, size) and the cache after a prompt and single steps."""
    past_k = past_v = np.zeros((1, KV_HEADS, 0, SIZE), kind)
    tokens, rows = data["q"].shape[1], []
    for start, stop in [(0, prompt), *[(i, i + 1) for i in range(prompt, tokens)]]:
        step = {name: x[:, start:stop] for name, x in data.items()}
        place = {"last": np.asarray([stop - 1], np.int32), "total": np.asarray(stop, np.int32)}
        y, past_k, past_v = session.run(None, {**step, "past_k": past_k, "past_v": past_v, **place})
        rows.append(y[0].reshape(-1, HEADS, SIZE))
    return np.concatenate(rows).astype(np.float64), past_k[0], past_v[0]


@pytest.mark.parametrize("prompt", [1, 17, 40])
@pytest.mark.parametrize(("window", "softcap"), [(None, 0.0), (6, 0.0), (None, 5.0)])
def test_attention_over_an_int8_cache(prompt: int, window: int | None, softcap: float) -> None:
    rng = np.random.default_rng(11)
    spread = rng.exponential(size=SIZE).astype(np.float32)  # channels of very different size
    data = {"q": rng.standard_normal((1, 40, HEADS * SIZE)).astype(np.float32)}
    for name in ("k", "v"):
        data[name] = rng.standard_normal((1, 40, KV_HEADS * SIZE)).astype(np.float32) * np.tile(
            spread, KV_HEADS
        )
    exact, keys, values = attend(attention_node({}, window, softcap), np.float32, data, prompt)
    largest = np.abs(values).max(axis=1)
    scales = {"k_scale": scales_for(largest_key(keys, True)), "v_scale": scales_for(largest)}
    rounded, key_codes, value_codes = attend(attention_node(scales, window, softcap), np.int8, data, prompt)
    for codes, held, scale in (
        (key_codes, keys, scales["k_scale"]),
        (value_codes, values, scales["v_scale"]),
    ):
        # to the nearest code; x * (1 / scale) carries three roundings of a number up to 127
        assert (np.abs(codes * scale[0] - held) <= scale[0] * (0.5 + 3 * 127 * UNIT)).all()
    # A score is q . k / sqrt(size): each key element moves by half a step, so every score of a query by
    # at most e (a soft cap has slope 1 at most). exp(score) then moves by a factor within exp(+-e), their sum
    # too, a probability within exp(+-2 e), and all of them together by at most exp(2 e) - 1. Behind them
    # each value moves by half a step. float32's own noise is left to the factor.
    step_k, step_v = (np.repeat(scales[x][0, :, 0], HEADS // KV_HEADS, axis=0) for x in scales)
    query = np.abs(data["q"][0].reshape(-1, HEADS, SIZE))
    moved = (query * step_k / 2).sum(axis=2, keepdims=True) / np.sqrt(SIZE)  # (tokens, heads, 1)
    bound = step_v / 2 + np.expm1(2 * moved) * np.repeat(largest, HEADS // KV_HEADS, axis=0)
    assert (np.abs(rounded - exact) <= bound * 1.001).all()
    assert np.abs(rounded - exact).max() > 0  # something was rounded
