"""Each graph pass: it applies on a real small graph, it keeps the numbers, it leaves what it does not know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from exporter.backends.ort.passes.norms import (
    fuse_rms_norms,
    fuse_skip_norms,
    move_norms_before_transposes,
)
from exporter.backends.ort.passes.outcome import Outcome
from exporter.backends.ort.passes.packing import pack_attention_inputs, pack_siblings
from exporter.backends.ort.passes.rotary import fuse_rotary
from exporter.backends.ort.passes.round_trips import drop_round_trips
from exporter.backends.ort.passes.simplification import merge_equal, simplify

RNG = np.random.default_rng(0)
# Sums of at most 64 products in another order: each rounds half a unit in the last place of the sum of
# magnitudes, which is within a small factor of the largest result.
NOISE = 64 * 2.0**-24


def graph(text: str, outputs: str = "float[b,s,64] y", **constants: NDArray[Any]) -> ir.Model:
    """A model of x (b, s, 64) from ONNX's text form."""
    head = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>'
    proto = onnx.parser.parse_model(f"{head} g (float[b,s,64] x) => ({outputs}) {{ {text} }}")
    for name, value in constants.items():
        proto.graph.initializer.append(numpy_helper.from_array(value, name))
    model = ir.from_proto(proto)
    for node in model.graph:
        if node.op_type == "MatMulNBits":
            node.metadata_props["qexport.layer"] = node.outputs[0].name or ""
            rows = node.attributes["N"].as_int()
            node.outputs[0].shape, node.outputs[0].type = (
                ir.Shape(["b", "s", rows]),
                model.graph.inputs[0].type,
            )
    return model


def run(model: ir.Model, **more: NDArray[Any]) -> list[NDArray[Any]]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    x = np.random.default_rng(1).normal(size=(2, 3, 64)).astype(np.float32)
    outputs: list[NDArray[Any]] = session.run(None, {"x": x, **more})
    return outputs


def applied(model: ir.Model, one: Callable[[ir.Model], Outcome], **more: NDArray[Any]) -> Outcome:
    """Run a pass and prove that the graph computes the same."""
    before = run(model, **more)
    outcome = one(model)
    for old, new in zip(before, run(model, **more), strict=True):
        assert np.abs(old - new).max() <= NOISE * np.abs(old).max()
    return outcome


def kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


NORM = """
    squared = Pow (x, two)
    mean = ReduceMean <keepdims = 1, noop_with_empty_axes = 0> (squared, last)
    shifted = Add (mean, eps)
    root = Sqrt (shifted)
    inverse = Reciprocal (root)
    normal = Mul (x, inverse)
"""
NORM_CONSTANTS: dict[str, NDArray[Any]] = {
    "two": np.float32(2.0),
    "last": np.asarray([-1]),
    "eps": np.float32(1e-5),
    "w": RNG.normal(size=64).astype(np.float32),
}


def norm(text: str, **more: NDArray[Any]) -> ir.Model:
    constants = {name: np.asarray(value) for name, value in {**NORM_CONSTANTS, **more}.items()}
    model = graph(text, **constants)
    for node in model.graph:  # as torch.onnx annotates it
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        if node.op_type in ("Pow", "Mul", "Neg", "SimplifiedLayerNormalization"):
            node.outputs[0].shape = ir.Shape(["b", "s", 64])
    return model


def test_rms_norm() -> None:
    model = norm(NORM + "y = Mul (w, normal)")
    assert applied(model, fuse_rms_norms).facts() == {"applied": 1, "left": 0, "why": []}
    assert "SimplifiedLayerNormalization" in kinds(model)


def test_rms_norm_with_a_weight_of_one_plus_w() -> None:
    model = norm("one_w = Add (w, one)" + NORM + "y = Mul (normal, one_w)", one=np.asarray(1.0, np.float32))

    def both(model: ir.Model) -> Outcome:
        simplify(model)
        return fuse_rms_norms(model)

    assert applied(model, both).applied == 1
    assert "Add" not in kinds(model)


def test_a_norm_without_a_weight_is_left() -> None:
    model = norm(NORM + "y = Neg (normal)")
    assert applied(model, fuse_rms_norms).facts() == {
        "applied": 0,
        "left": 1,
        "why": ["1 x a mean of squares that is not the start of an RMS norm with a float weight"],
    }


def transposed_norm(perm: str) -> ir.Model:
    text = f"""
        r = Reshape (x, heads) t = Transpose <perm = {perm}> (r)
        n = SimplifiedLayerNormalization <axis = -1, epsilon = 1e-5, stash_type = 1> (t, w16) y = Neg (n)"""
    size = 16 if perm.endswith("3]") else 4
    constants = {"heads": np.asarray([0, 0, 4, 16]), "w16": RNG.normal(size=size).astype(np.float32)}
    return graph(text, "float[b,c,d,e] y", **constants)


def test_norm_before_transpose() -> None:
    model = transposed_norm("[0, 2, 1, 3]")
    assert applied(model, move_norms_before_transposes).facts() == {"applied": 1, "left": 0, "why": []}
    merge_equal(model)
    assert kinds(model) == ["Reshape", "SimplifiedLayerNormalization", "Transpose", "Neg"]


def test_a_norm_over_a_moved_axis_is_left() -> None:
    assert applied(transposed_norm("[0, 1, 3, 2]"), move_norms_before_transposes).facts() == {
        "applied": 0,
        "left": 1,
        "why": ["1 x a norm of a transposed tensor whose last axis moves or that others read"],
    }


SKIP = "t = {} (x, x2) y = SimplifiedLayerNormalization <axis = -1, epsilon = 1e-5, stash_type = 1> (t, w)"


def test_skip_norm() -> None:
    model = norm("x2 = Neg (x) x3 = Mul (x2, w)" + SKIP.format("Add").replace("x2)", "x3)"))
    assert applied(model, fuse_skip_norms).facts() == {"applied": 1, "left": 0, "why": []}
    assert "SkipSimplifiedLayerNormalization" in kinds(model)


def test_a_sum_with_a_vector_is_no_skip() -> None:
    text = SKIP.format("Add").replace("x2)", "w)")
    model = norm(text)
    assert applied(model, fuse_skip_norms).facts()["applied"] == 0


def test_round_trips() -> None:
    shapes = {"wide": np.asarray([0, 0, 4, 16]), "flat": np.asarray([0, 0, 64])}
    text = """
        a = Reshape (x, wide) b = Transpose <perm = [0, 2, 1, 3]> (a)
        c = Transpose <perm = [0, 2, 1, 3]> (b) d = Reshape (c, flat) y = Neg (d)"""
    model = graph(text, **shapes)
    known = {"a": ["b", "s", 4, 16], "d": ["b", "s", 64]}
    for node in model.graph:
        if node.outputs[0].name in known:
            node.outputs[0].shape = ir.Shape(known[node.outputs[0].name])
    assert applied(model, drop_round_trips).applied == 2
    simplify(model)
    assert kinds(model) == ["Neg"]


def test_other_transposes_and_reshapes_are_left() -> None:
    shapes = {"wide": np.asarray([0, 0, 4, 16]), "flat": np.asarray([0, 0, 64])}
    text = """
        a = Reshape (x, wide) b = Transpose <perm = [0, 1, 3, 2]> (a)
        c = Transpose <perm = [0, 1, 2, 3]> (b) d = Reshape (c, wide) e = Reshape (d, flat) y = Neg (e)"""
    model = graph(text, **shapes)
    before = kinds(model)
    assert applied(model, drop_round_trips).facts() == {
        "applied": 0,
        "left": 1,
        "why": ["1 x two reshapes in a row with an unknown shape"],
    }
    assert kinds(model) == before


def projections(
    rows: dict[str, int], bias: tuple[str, ...] = (), bits: dict[str, int] | None = None
) -> tuple[str, dict[str, NDArray[Any]]]:
    """MatMulNBits nodes that read x, block 32, called after their outputs."""
    text, constants = "", {}
    for name, count in rows.items():
        width = (bits or {}).get(name, 4)
        constants[f"{name}_data"] = RNG.integers(0, 256, (count, 2, 4 * width), dtype=np.uint8)
        constants[f"{name}_scales"] = RNG.normal(size=(count, 2)).astype(np.float32)
        more = ""
        if name in bias:
            constants[f"{name}_bias"] = RNG.normal(size=count).astype(np.float32)
            more = f', "", "", {name}_bias'
        numbers = f"K = 64, N = {count}, bits = {width}, block_size = 32, accuracy_level = 0"
        text += f"{name} = com.microsoft.MatMulNBits <{numbers}> (x, {name}_data, {name}_scales{more})\n"
    return text, constants


def attention(rows: dict[str, int], middle: str = "", inputs: str = "q, k, v", **options: Any) -> ir.Model:
    text, constants = projections(rows, **options)
    text += (
        middle
        + f"""
        y, nk, nv = com.microsoft.GroupQueryAttention <num_heads = 4, kv_num_heads = 2>
            ({inputs}, past_k, past_v, seqlens, total)"""
    )
    past = np.zeros((2, 2, 0, 16), np.float32)
    return graph(
        text,
        past_k=past,
        past_v=past,
        seqlens=np.asarray([2, 2], np.int32),
        total=np.asarray(3, np.int32),
        **constants,
    )


ROWS = {"q": 64, "k": 32, "v": 32}


@pytest.mark.parametrize("bias", [(), ("q", "k", "v"), ("q",)], ids=["none", "all", "one"])
def test_packed_attention_inputs(bias: tuple[str, ...]) -> None:
    model = attention(ROWS, bias=bias)
    assert applied(model, pack_attention_inputs).facts() == {"applied": 1, "left": 0, "why": []}
    (packed,) = [node for node in model.graph if node.op_type == "MatMulNBits"]
    assert packed.metadata_props == {"qexport.layer": "q|k|v", "qexport.rows": "64|32|32"}


def test_attention_inputs_of_other_forms_are_left() -> None:
    mixed = attention(ROWS, bits={"v": 8})
    assert applied(mixed, pack_attention_inputs).facts() == {
        "applied": 0,
        "left": 1,
        "why": ["1 x projections that differ in bits (4 and 8)"],
    }
    normed = attention(ROWS, middle="q2 = Neg (q)", inputs="q2, k, v")
    assert applied(normed, pack_attention_inputs).facts() == {
        "applied": 0,
        "left": 1,
        "why": ["1 x an attention that does not read three projections"],
    }


def test_packed_siblings() -> None:
    text, constants = projections({"gate": 96, "up": 96})
    model = graph(text + "y = Mul (gate, up)", "float[b,s,96] y", **constants)
    assert applied(model, pack_siblings).facts() == {"applied": 1, "left": 0, "why": []}
    assert kinds(model) == ["MatMulNBits", "Split", "Mul"]


def test_siblings_of_other_forms_are_left() -> None:
    text, constants = projections({"gate": 96, "up": 96}, bits={"up": 8})
    model = graph(text + "y = Mul (gate, up)", "float[b,s,96] y", **constants)
    assert applied(model, pack_siblings).facts() == {
        "applied": 0,
        "left": 2,
        "why": ["2 x a projection of another form than its siblings"],
    }


def test_simplification_merges_equal_nodes_and_computes_constants() -> None:
    model = graph(
        "a = Mul (x, c) b = Mul (x, c) d = Add (c, c) e = Add (a, b) y = Add (e, d)",
        c=np.arange(64, dtype=np.float32),
    )
    assert applied(model, simplify).applied == 2
    assert kinds(model) == ["Mul", "Add", "Add"]


def test_merging_keeps_different_nodes() -> None:
    model = graph("a = Sin (x) b = Cos (x) y = Add (a, b)")
    assert applied(model, merge_equal).applied == 0


def rotary_model(turned: str) -> tuple[ir.Model, dict[str, NDArray[Any]]]:
    """Queries and keys of two heads of 16, rotated by halves at `positions` (2, 3), before attention."""
    half = """
        {0}r = Reshape (x{0}, heads) {0}t = Transpose <perm = [0, 2, 1, 3]> ({0}r)
        {0}l = Slice ({0}t, zero, eight, three, one) {0}u = Slice ({0}t, eight, end, three, one)
        {0}n = Neg ({0}u) {0}c = Concat <axis = -1> ({1})
        {0}m = Mul ({0}t, cos4) {0}s = Mul ({0}c, sin4) {0}a = Add ({0}m, {0}s)
        {0}b = Transpose <perm = [0, 2, 1, 3]> ({0}a) {0}z = Reshape ({0}b, flat)"""
    text = """
        marked = Identity (positions) p3 = Unsqueeze (marked, two1) pf = Cast <to = 1> (p3)
        angle = Mul (pf, inv) both = Concat <axis = -1> (angle, angle)
        cos = Cos (both) sin = Sin (both) cos4 = Unsqueeze (cos, one) sin4 = Unsqueeze (sin, one)
        xq = Slice (x, zero, k32, two1, one) xk = Slice (x, k32, k64, two1, one)"""
    text += half.format("q", turned.format("q")) + half.format("k", turned.format("k"))
    text += """
        y, nk, nv = com.microsoft.GroupQueryAttention <num_heads = 2, kv_num_heads = 2>
            (qz, kz, xk, past_k, past_v, seqlens, total)"""
    names = {"zero": 0, "one": 1, "two1": 2, "three": 3, "eight": 8, "k32": 32, "k64": 64, "end": 2**62}
    past = np.zeros((2, 2, 0, 16), np.float32)
    model = graph(
        text,
        "float[b,s,32] y",
        **{name: np.asarray([value]) for name, value in names.items()},
        heads=np.asarray([0, 0, 2, 16]),
        flat=np.asarray([0, 0, 32]),
        inv=(10000.0 ** (-np.arange(8) / 8)).astype(np.float32),
        past_k=past,
        past_v=past,
        seqlens=np.asarray([2, 2], np.int32),
        total=np.asarray(3, np.int32),
    )
    positions = ir.Input("positions", ir.Shape(["b", "s"]), ir.TensorType(ir.DataType.INT64))
    shapes = {"r": ["b", "s", 2, 16], "t": ["b", 2, "s", 16], "z": ["b", "s", 32]}
    for node in model.graph:
        value = node.outputs[0]
        if value.name in ("xq", "xk"):
            value.shape = ir.Shape(["b", "s", 32])
        if value.name and value.name[0] in "qk" and value.name[1:] in shapes:
            value.shape = ir.Shape(shapes[value.name[1:]])
        if node.op_type == "Identity":
            node.replace_input_with(0, positions)
    model.graph.inputs.append(positions)
    return model, {"positions": np.tile(np.arange(3), (2, 1))}


def _marked(model: ir.Model) -> None:
    """The marker stands where the trace puts it; ONNX Runtime runs the graph with Identity instead."""
    for node in model.graph:
        if node.op_type == "Identity":
            node.op_type, node.domain = "Positions", "qexport"
            model.opset_imports["qexport"] = 1


def test_rotary() -> None:
    model, feeds = rotary_model("{0}n, {0}l")

    def fuse(model: ir.Model) -> Outcome:
        _marked(model)
        outcome = fuse_rotary(model, 8)
        merge_equal(model)
        return outcome

    assert applied(model, fuse, **feeds).facts() == {"applied": 1, "left": 0, "why": []}
    (node,) = [node for node in model.graph if node.op_type == "GroupQueryAttention"]
    assert node.attributes["do_rotary"].as_int() == 1 and "Neg" not in kinds(model)


def test_another_way_to_turn_is_left() -> None:
    model, feeds = rotary_model("{0}l, {0}n")

    def fuse(model: ir.Model) -> Outcome:
        _marked(model)
        return fuse_rotary(model, 8)

    assert applied(model, fuse, **feeds).facts() == {
        "applied": 0,
        "left": 1,
        "why": ["1 x an attention whose queries or keys are not turned by halves"],
    }
