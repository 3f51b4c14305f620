"""Scales in a written ONNX Runtime folder: bfloat16 in the file, constants of float32 to the kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from ort_skeleton import MemorySkeleton
from tiny_models import llama

from exporter.backends.base import Target
from exporter.backends.ort import OrtBackend
from exporter.backends.ort.passes.packing import pack_siblings
from exporter.backends.ort.passes.scales import widen_scales
from exporter.backends.ort.reading import read_back
from exporter.backends.ort.storage import DATA, MODEL
from exporter.schemes import QuantScheme

BACKEND = OrtBackend()
TOKENS = [int(x) for x in np.random.default_rng(3).integers(0, 128, 24)]
KERNELS = {"MatMulNBits", "GatherBlockQuantized"}
SCHEMES = {
    "int4": QuantScheme("w4", "int4", 32, activations="dynamic-int8"),
    "int8": QuantScheme("w8", "int8", "channel", activations="dynamic-int8"),
}


def scheme_of(name: str) -> QuantScheme:
    """int4 groups and int8 channels side by side, as in recipes/mixed_int4.yaml."""
    return SCHEMES["int4" if "mlp" in name else "int8"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("scales")
    # 576 inputs: nine blocks of 64 for one scale
    model = llama(hidden_size=576, intermediate_size=64, num_hidden_layers=1)
    target = Target("onnxruntime", ort_format=True)
    BACKEND.lower(MemorySkeleton(model, scheme_of), target, place, lambda what, share: None)
    return place


def session_of(model: Any, level: str = "ORT_ENABLE_ALL", saved: Path | None = None) -> Any:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    if saved is not None:
        options.optimized_model_filepath = str(saved)
        options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def logits_of(session: Any) -> NDArray[np.float32]:
    feeds: dict[str, Any] = {
        "input_ids": np.asarray([TOKENS], np.int64),
        "attention_mask": np.ones((1, len(TOKENS)), np.int64),
        "logits_range": np.asarray([0, -1], np.int64),
    }
    for entry in session.get_inputs():
        if entry.name.startswith("past"):
            feeds[entry.name] = np.zeros((1, entry.shape[1], 0, entry.shape[3]), np.float32)
    logits: NDArray[np.float32] = session.run(["logits"], feeds)[0]
    return logits


def with_float_scales(folder: Path, target: Path) -> None:
    """The same model as one file whose kernels read float32 initializers, with no Cast and no Expand for them."""
    model = onnx.load(folder / MODEL)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type not in KERNELS or node.input[2] in constants:
            continue
        maker = makers[node.input[2]]
        expand, cast = (maker, makers[maker.input[0]]) if maker.op_type == "Expand" else (None, maker)
        scales = numpy_helper.to_array(constants[cast.input[0]]).astype(np.float32)
        if expand is not None:
            scales = np.broadcast_to(scales, numpy_helper.to_array(constants[expand.input[1]]))
        name = f"{node.name}.float32"
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(scales), name))
        node.input[2] = name
    onnx.save(model, target)


def test_the_file_holds_two_bytes_a_scale(folder: Path) -> None:
    graph = onnx.load(folder / MODEL, load_external_data=False).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    shapes = {}
    for node in graph.node:
        if node.op_type in KERNELS:
            cast = maker = makers[node.input[2]]
            if maker.op_type == "Expand":
                cast = makers[maker.input[0]]
            stored = constants[cast.input[0]]
            assert stored.data_type == TensorProto.BFLOAT16
            length = next(int(entry.value) for entry in stored.external_data if entry.key == "length")
            assert length == 2 * np.prod(stored.dims)
            shapes[node.name] = (tuple(stored.dims), stored.name)
    assert shapes["model.layers.0.mlp.gate_proj|model.layers.0.mlp.up_proj"][0] == (128, 18)  # 576 / 32
    assert shapes["model.embed_tokens"][0] == (128, 1)
    assert shapes["lm_head"] == shapes["model.embed_tokens"]  # tied: one tensor and its nodes for both
    model = llama(hidden_size=576, intermediate_size=64, num_hidden_layers=1)
    planned = MemorySkeleton(model, scheme_of).layers.items()
    found = read_back(folder)
    for name, layer in planned:
        assert found[name].bytes == BACKEND.layer_bytes(layer.info, layer.scheme, Target("onnxruntime")), name


@pytest.mark.parametrize("level", ["ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"])
def test_onnx_runtime_folds_them_while_loading(folder: Path, tmp_path: Path, level: str) -> None:
    session_of(folder / MODEL, level, tmp_path / "folded.onnx")
    graph = onnx.load(tmp_path / "folded.onnx", load_external_data=False).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    kernels = [node for node in graph.node if node.op_type in KERNELS]
    assert len(kernels) == 6
    assert {types.get(node.input[2]) for node in kernels} == {TensorProto.FLOAT}
    assert "Expand" not in {node.op_type for node in graph.node}


def test_it_computes_what_float_scales_give(folder: Path, tmp_path: Path) -> None:
    with_float_scales(folder, tmp_path / MODEL)
    expected = logits_of(session_of(tmp_path / MODEL))
    np.testing.assert_array_equal(logits_of(session_of(folder / MODEL)), expected)


def test_only_int8_activations_depend_on_folding(folder: Path, tmp_path: Path) -> None:
    """ONNX Runtime's kernels for them (accuracy_level 4) take no scales that are computed in the call, and do not say
    so; docs/design.md tells apps not to switch optimisation off. If this fails, they have learnt it."""
    narrow = onnx.load(folder / MODEL)
    with_float_scales(folder, tmp_path / MODEL)
    wide = onnx.load(tmp_path / MODEL)

    def unoptimised(model: onnx.ModelProto) -> NDArray[np.float32]:
        return logits_of(session_of(model.SerializeToString(), "ORT_DISABLE_ALL"))

    assert not np.array_equal(unoptimised(narrow), unoptimised(wide))
    for model in (narrow, wide):
        for node in model.graph.node:
            for attribute in node.attribute:
                if attribute.name == "accuracy_level":
                    attribute.i = 0
    np.testing.assert_array_equal(unoptimised(narrow), unoptimised(wide))


def test_the_ort_file_holds_them_folded(folder: Path) -> None:
    from exporter.backends.ort.ort_format import _graph

    graph = _graph((folder / "model.ort").read_bytes())
    types = {}
    for number in range(graph.InitializersLength()):
        tensor = graph.Initializers(number)
        types[tensor.Name().decode()] = tensor.DataType()
    nodes = [graph.Nodes(number) for number in range(graph.NodesLength())]
    kernels = [node for node in nodes if node.OpType().decode() in KERNELS]
    assert len(kernels) == 6
    # an .ort file is not optimised while it loads: anything but an initializer would be computed in every call
    assert {types.get(node.Inputs(2).decode()) for node in kernels} == {TensorProto.FLOAT}
    assert TensorProto.BFLOAT16 not in types.values()


def model_of(scales: dict[str, NDArray[Any]], rows: int = 8) -> ir.Model:
    """x (1, 64) -> MatMulNBits of that many rows and block 32 for each of these scales."""
    rng = np.random.default_rng(0)
    nodes, constants = [], []
    for name, array in scales.items():
        data = rng.integers(0, 256, (rows, 2, 16), dtype=np.uint8)
        constants += [
            numpy_helper.from_array(data, f"{name}.data"),
            numpy_helper.from_array(array, f"{name}.s"),
        ]
        nodes.append(
            helper.make_node(
                "MatMulNBits",
                ["x", f"{name}.data", f"{name}.s"],
                [name],
                domain="com.microsoft",
                K=64,
                N=rows,
                bits=4,
                block_size=32,
                accuracy_level=0,
            )
        )
    nodes += [helper.make_node("Neg", [name], [f"-{name}"]) for name in scales]
    outputs = [helper.make_tensor_value_info(f"-{name}", TensorProto.FLOAT, [1, rows]) for name in scales]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])], outputs, constants
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=10))
    for node in model.graph:
        if node.op_type == "MatMulNBits":
            node.metadata_props["qexport.layer"] = node.outputs[0].name or ""
    return model


def outputs_of(model: ir.Model) -> list[NDArray[np.float32]]:
    x = np.random.default_rng(1).standard_normal((1, 64)).astype(np.float32)
    found: list[NDArray[np.float32]] = session_of(ir.to_proto(model).SerializeToString()).run(None, {"x": x})
    return found


def test_layers_with_and_without_repeats_are_joined() -> None:
    """One with a scale for each block beside one with a scale for each row of the same weight."""
    rng = np.random.default_rng(2)
    scales = {
        "blocks": rng.uniform(0.5, 1, (8, 2)).astype(ml_dtypes.bfloat16),
        "channel": rng.uniform(0.5, 1, (8, 1)).astype(ml_dtypes.bfloat16),
    }
    whole = {name: np.broadcast_to(x, (8, 2)).astype(np.float32) for name, x in scales.items()}
    expected = outputs_of(model_of(whole))
    for joins in (False, True):
        model = model_of(scales)
        if joins:
            assert pack_siblings(model).facts() == {"applied": 1, "left": 0, "why": []}
        assert widen_scales(model).facts() == {"applied": 1 if joins else 2, "left": 0, "why": []}
        for y, wanted in zip(outputs_of(model), expected, strict=True):
            np.testing.assert_array_equal(y, wanted)


def test_scales_that_are_float_already_are_left() -> None:
    model = model_of({"a": np.ones((8, 2), np.float32)})
    assert widen_scales(model).facts() == {
        "applied": 0,
        "left": 1,
        "why": ["1 x scales that are not stored as bfloat16"],
    }


def test_a_folder_of_files_with_float_scales_is_read_too(folder: Path, tmp_path: Path) -> None:
    """As they were written before scales were narrowed."""
    with_float_scales(folder, tmp_path / MODEL)
    model = onnx.load(tmp_path / MODEL)
    onnx.save(model, tmp_path / MODEL, save_as_external_data=True, location=DATA, size_threshold=0)
    old, new = read_back(tmp_path), read_back(folder)
    assert old.keys() == new.keys()
    for name, layer in new.items():
        np.testing.assert_array_equal(old[name].values, layer.values)
        np.testing.assert_array_equal(old[name].scales, layer.scales)
        assert old[name].group == layer.group
