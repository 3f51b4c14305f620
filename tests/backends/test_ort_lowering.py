"""A written ONNX Runtime folder: its numbers, its bytes, and what it computes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from ort_skeleton import MemorySkeleton
from tiny_models import gemma, llama, qwen
from transformers import MistralConfig, MistralForCausalLM

from exporter.backends.base import Target
from exporter.backends.ort import OrtBackend
from exporter.errors import ArtifactError, TraceError
from exporter.numerics import canonical_granularity
from exporter.schemes import FLOAT, QuantScheme

BACKEND = OrtBackend()
TARGET = Target("onnxruntime")
W4 = QuantScheme("w4", "int4", 32, activations="dynamic-int8")
# Longest chain of roundings: 2 layers x 4 products in sequence and the head, sums of up to 128 terms,
# each term half a unit in the last place (2^-24) of the sum of magnitudes, which norms and residuals
# keep within a small factor of the result.
NOISE = 9 * 128 * 2.0**-24


def silent(what: str, share: float) -> None:
    assert 0.0 <= share <= 1.0


@dataclass
class Written:
    skeleton: MemorySkeleton
    folder: Path
    facts: dict[str, Any]


def write(skeleton: MemorySkeleton, folder: Path, target: Target = TARGET) -> Written:
    folder.mkdir()
    return Written(skeleton, folder, dict(BACKEND.lower(skeleton, target, folder, silent)))


def reference(skeleton: MemorySkeleton, tokens: list[int]) -> NDArray[np.float32]:
    with torch.no_grad():
        logits: NDArray[np.float32] = skeleton.dequantized()(torch.tensor([tokens])).logits[0].numpy()
    return logits


def close(actual: NDArray[np.float32], expected: NDArray[np.float32], noise: float = NOISE) -> None:
    assert np.abs(actual - expected).max() <= noise * np.abs(expected).max()


TOKENS = [int(x) for x in np.random.default_rng(3).integers(0, 128, 24)]


@pytest.fixture(scope="module")
def w4(tmp_path_factory: pytest.TempPathFactory) -> Written:
    target = Target("onnxruntime", ort_format=True)
    return write(MemorySkeleton(llama(), lambda name: W4), tmp_path_factory.mktemp("w4") / "ort", target)


def test_prefill_and_decode_equal_pytorch(w4: Written) -> None:
    runner = BACKEND.open_text(w4.folder, "float")
    rows = [runner.forward(TOKENS[:10]), runner.forward(TOKENS[10:13])]
    rows += [runner.forward([token]) for token in TOKENS[13:]]
    close(np.concatenate(rows), reference(w4.skeleton, TOKENS))
    runner.reset()
    close(runner.forward(TOKENS), reference(w4.skeleton, TOKENS))


def test_as_shipped_quantises_activations(w4: Written) -> None:
    runner = BACKEND.open_text(w4.folder)
    expected = reference(w4.skeleton, TOKENS)
    error = np.abs(runner.forward(TOKENS) - expected).max() / np.abs(expected).max()
    # int8 activations: half a step of max / 127 a product, 9 products in sequence at most add up
    assert NOISE < error < 9 * 0.5 / 127 * 4


def test_opening_with_float_activations_leaves_the_folder_alone(w4: Written) -> None:
    before = {path.name: path.read_bytes() for path in w4.folder.iterdir()}
    BACKEND.open_text(w4.folder, "float").forward(TOKENS)
    assert {path.name: path.read_bytes() for path in w4.folder.iterdir()} == before


def feeds_for(session: onnxruntime.InferenceSession, ids: Any, mask: Any, length: int = 0) -> dict[str, Any]:
    feeds = {
        "input_ids": np.asarray(ids, np.int64),
        "attention_mask": np.asarray(mask, np.int64),
        "logits_range": np.asarray([0, -1], np.int64),  # of every token
    }
    for entry in session.get_inputs():
        if entry.name.startswith("past"):
            shape = (len(ids), entry.shape[1], length, entry.shape[3])
            feeds[entry.name] = np.zeros(shape, np.float32)
    return feeds


@pytest.mark.parametrize("file", ["model.onnx", "model.ort"])
@pytest.mark.parametrize("left", [True, False])
def test_padding_does_not_change_a_row(tmp_path: Path, file: str, left: bool) -> None:
    scheme = QuantScheme("w4", "int4", 32)  # float activations: the rows can be compared closely
    target = Target("onnxruntime", ort_format=True)
    written = write(MemorySkeleton(llama(), lambda name: scheme), tmp_path / "ort", target)
    session = onnxruntime.InferenceSession(str(written.folder / file))
    long, short = TOKENS[:9], TOKENS[9:14]
    blank, ones = [0] * 4, [1] * 5
    ids = [long, blank + short] if left else [long, short + blank]
    mask = [[1] * 9, blank + ones] if left else [[1] * 9, ones + blank]
    feeds = feeds_for(session, ids, mask)
    logits, *present = session.run(None, feeds)
    last = session.run(["logits"], {k: v for k, v in feeds.items() if k != "logits_range"})[0]
    assert last.shape == (2, 1, 128)  # nobody asked for more than each row's last token
    close(last[:, 0], np.stack([logits[0, 8], logits[1, 8 if left else 4]]))
    close(logits[0], reference(written.skeleton, long))
    close(logits[1, 4:] if left else logits[1, :5], reference(written.skeleton, short))
    names = [x.name.replace("present", "past_key_values") for x in session.get_outputs()[1:]]
    step = {
        "input_ids": np.asarray([[7], [8]], np.int64),
        "attention_mask": np.concatenate([np.asarray(mask), np.ones((2, 1), int)], axis=1),
        **dict(zip(names, present, strict=True)),
    }
    logits = session.run(None, step)[0]
    close(logits[0], reference(written.skeleton, [*long, 7])[-1:])
    close(logits[1], reference(written.skeleton, [*short, 8])[-1:])


def test_cache_buffers_of_full_length_are_shared(w4: Written) -> None:
    """As onnxruntime-genai does with past_present_share_buffer: past and present are one buffer."""
    from exporter.backends.ort.running import open_session

    session = open_session(w4.folder, "float")
    feeds = feeds_for(session, [TOKENS[:6]], [[1] * 6], length=32)
    rows = []
    for start, stop in ((0, 6), (6, 7), (7, 8)):
        binding = session.io_binding()
        for name, value in feeds.items():
            if name.startswith("past"):
                shared = onnxruntime.OrtValue.ortvalue_from_numpy(value) if start == 0 else value
                feeds[name] = shared
                binding.bind_ortvalue_input(name, shared)
                binding.bind_ortvalue_output(name.replace("past_key_values", "present"), shared)
        binding.bind_cpu_input("input_ids", np.asarray([TOKENS[start:stop]], np.int64))
        binding.bind_cpu_input("attention_mask", np.ones((1, stop), np.int64))
        binding.bind_output("logits")
        session.run_with_iobinding(binding)
        rows.append(binding.get_outputs()[-1].numpy()[0].copy())
    close(np.concatenate(rows), reference(w4.skeleton, TOKENS[:8])[5:])


SCHEMES = [
    W4,
    QuantScheme("a4", "int4", 16, symmetric=False),
    QuantScheme("c4", "int4", "channel"),
    QuantScheme("w8", "int8", "channel", activations="dynamic-int8"),
    QuantScheme("a8", "int8", 32, symmetric=False),
    QuantScheme("t8", "int8", "tensor", symmetric=False),
]


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
@pytest.mark.parametrize("tied", [True, False])
def test_the_file_holds_the_integers_and_the_planned_bytes(
    tmp_path: Path, scheme: QuantScheme, tied: bool
) -> None:
    model = llama(tie_word_embeddings=tied, num_hidden_layers=1)
    written = write(MemorySkeleton(model, lambda name: scheme), tmp_path / "ort")
    found = BACKEND.read_back(written.folder)
    integers = written.skeleton.integers()
    assert sorted(found) == sorted(integers)
    for name, tensor in integers.items():
        layer = found[name]
        scales, zeros, group = canonical_granularity(
            tensor.scales, tensor.zero_points, tensor.values.shape[1]
        )
        np.testing.assert_array_equal(layer.values, tensor.values, err_msg=name)
        np.testing.assert_array_equal(layer.scales, scales, err_msg=name)
        assert (layer.zero_points is None) == (zeros is None)
        if zeros is not None:
            np.testing.assert_array_equal(layer.zero_points, zeros, err_msg=name)
        if scheme.group in ("channel", "tensor"):
            assert layer.group == group
        assert layer.bits == scheme.bits
        assert layer.bytes == BACKEND.layer_bytes(written.skeleton.layers[name].info, scheme, TARGET), name
    close(
        BACKEND.open_text(written.folder, "float").forward(TOKENS),
        reference(written.skeleton, TOKENS),
    )


def test_a_tied_table_lies_once_in_the_file(w4: Written) -> None:
    model = onnx.load(w4.folder / "model.onnx", load_external_data=False)
    tensors = {t.name: {e.key: e.value for e in t.external_data} for t in model.graph.initializer}
    table, head = tensors["model.embed_tokens.data"], tensors["lm_head.data"]
    assert (table["offset"], table["length"]) == (head["offset"], head["length"])
    assert BACKEND.read_back(w4.folder)["lm_head"].bytes == 0


def test_quantised_nodes_carry_their_module_path(w4: Written) -> None:
    model = onnx.load(w4.folder / "model.onnx", load_external_data=False)
    nodes = [n.name for n in model.graph.node if n.op_type in ("MatMulNBits", "GatherBlockQuantized")]
    names = [name for node in nodes for name in node.split("|")]
    assert sorted(names) == sorted(w4.skeleton.layers)
    assert "model.layers.0.mlp.gate_proj|model.layers.0.mlp.up_proj" in nodes
    assert [x.name for x in model.graph.input][:3] == ["input_ids", "attention_mask", "past_key_values.0.key"]
    assert [x.name for x in model.graph.output][:3] == ["logits", "present.0.key", "present.0.value"]


def test_the_graph_is_fused(w4: Written) -> None:
    model = onnx.load(w4.folder / "model.onnx", load_external_data=False)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("GroupQueryAttention") == 2
    assert kinds.count("Cos") == kinds.count("Sin") == 1
    assert kinds.count("SimplifiedLayerNormalization") + kinds.count("SkipSimplifiedLayerNormalization") == 5
    assert not {"Positions", "Pow", "Neg"} & set(kinds)


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_the_same_input_gives_the_same_bytes(w4: Written, tmp_path: Path) -> None:
    target = Target("onnxruntime", ort_format=True)
    again = write(MemorySkeleton(llama(), lambda name: W4), tmp_path / "o", target)
    first, second = hashes(w4.folder), hashes(again.folder)
    # ONNX Runtime's own writer of model.ort walks hash tables in an order that changes with each run:
    # the content is the same (test_padding_does_not_change_a_row runs it), the bytes are not.
    first.pop("model.ort"), second.pop("model.ort")
    assert second == first
    assert again.facts == w4.facts


def test_no_path_of_this_machine_in_the_files(w4: Written) -> None:
    import exporter

    for path in w4.folder.iterdir():
        data = path.read_bytes()
        for text in (str(Path(exporter.__file__).parent), "site-packages", str(w4.folder), "stack_trace"):
            assert text.encode() not in data, (path.name, text)


def test_layer_outputs_equal_pytorch(w4: Written) -> None:
    names = ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj", "lm_head"]
    model = w4.skeleton.dequantized()
    expected: dict[str, NDArray[np.float32]] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, args, output: expected.update({name: output[0].detach().numpy()})

    for name in names:
        model.get_submodule(name).register_forward_hook(keep(name))
    with torch.no_grad():
        model(torch.tensor([TOKENS]))
    found = BACKEND.layer_outputs(w4.folder, names, TOKENS)
    for name in names:
        close(found[name], expected[name])
    with pytest.raises(ArtifactError) as caught:
        BACKEND.layer_outputs(w4.folder, ["model.layers.9.mlp"], TOKENS)
    message = f"{w4.folder / 'model.onnx'}: no quantised layer is called model.layers.9.mlp"
    assert str(caught.value) == message


def test_sliding_window_is_as_wide_as_in_pytorch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = MistralConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=128,
        sliding_window=5,
        initializer_range=0.2,
        attn_implementation="eager",
    )
    skeleton = MemorySkeleton(MistralForCausalLM(config), lambda name: QuantScheme("w8", "int8", "channel"))
    written = write(skeleton, tmp_path / "ort")
    assert written.facts["min_runtime"] == "1.24"
    runner = BACKEND.open_text(written.folder, "float")
    rows = np.concatenate([runner.forward(TOKENS[:12]), *[runner.forward([t]) for t in TOKENS[12:]]])
    close(rows, reference(skeleton, TOKENS))


def test_float_layers_stay_float(tmp_path: Path) -> None:
    # 160 x 64: as in any real model, too large for the optimiser to store a transposed copy
    model = llama(vocab_size=160)
    skeleton = MemorySkeleton(model, lambda name: FLOAT if "embed" in name or "v_proj" in name else W4)
    written = write(skeleton, tmp_path / "ort")
    found = BACKEND.read_back(written.folder)
    assert "model.embed_tokens" not in found and "model.layers.0.self_attn.v_proj" not in found
    close(BACKEND.open_text(written.folder, "float").forward(TOKENS), reference(skeleton, TOKENS))
    # the float table, used by two operators, is written once
    planned = sum(BACKEND.layer_bytes(p.info, p.scheme, TARGET) for p in skeleton.layers.values())
    floats = 4 * (160 * 64 + 2 * 32 * 64 + 5 * 64)
    assert (written.folder / "model.onnx.data").stat().st_size < planned + floats + 64 * 64


class TwoInputs(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(32, 48)
        self.second = torch.nn.Linear(48, 16, bias=False)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.relu(self.first(left + right))
        return self.second(x), x


def test_any_module(tmp_path: Path) -> None:
    torch.manual_seed(0)
    batch = torch.export.Dim("batch")
    scheme = QuantScheme("w8", "int8", 16)
    inputs = (torch.randn(3, 32), torch.randn(3, 32))
    skeleton = MemorySkeleton(TwoInputs(), lambda name: scheme, "module", inputs, ({0: batch}, {0: batch}))
    written = write(skeleton, tmp_path / "ort")
    assert sorted(path.name for path in written.folder.iterdir()) == ["model.onnx", "model.onnx.data"]
    model = onnx.load(written.folder / "model.onnx", load_external_data=False)
    assert [x.name for x in model.graph.input] == ["left", "right"]
    left, right = torch.randn(7, 32), torch.randn(7, 32)
    runner = BACKEND.open_module(written.folder)
    with torch.no_grad():
        expected = skeleton.dequantized()(left, right)
    for actual, wanted in zip(runner.run([left.numpy(), right.numpy()]), expected, strict=True):
        close(actual, wanted.numpy())
    with pytest.raises(ArtifactError, match=r"^1 inputs given, the model takes 2: left, right$"):
        runner.run([left.numpy()])


class Branching(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.only = torch.nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.only(x) if x.sum() > 0 else x


def test_a_model_that_cannot_be_traced_is_refused(tmp_path: Path) -> None:
    skeleton = MemorySkeleton(
        Branching(), lambda name: QuantScheme("w8", "int8", 16), "module", (torch.ones(2, 16),)
    )
    with pytest.raises(
        TraceError, match=r"^torch\.export refused the model: .* values of its inputs: take out"
    ):
        BACKEND.lower(skeleton, TARGET, tmp_path, silent)


def test_a_truncated_file_is_refused(w4: Written, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes((w4.folder / "model.onnx").read_bytes())
    data = (w4.folder / "model.onnx.data").read_bytes()
    (tmp_path / "model.onnx.data").write_bytes(data[:100])
    with pytest.raises(ArtifactError) as caught:
        BACKEND.read_back(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'model.onnx.data'}: model.embed_tokens.data should lie at bytes 512 to 4608 of"
        " model.onnx.data, the file has 100; it is truncated or another model's"
    )


def test_a_full_context_is_refused(w4: Written) -> None:
    runner = BACKEND.open_text(w4.folder)
    runner.forward(TOKENS[:2])
    with pytest.raises(ArtifactError) as caught:
        runner.forward([1] * runner.max_context)
    assert str(caught.value) == (
        "2048 tokens after 2 do not fit the context of 2048; pass at least one token, and reset the cache"
        " before it is full"
    )


@pytest.mark.parametrize(
    ("model", "applied"),
    [
        (gemma, {"rotary": 3, "rms_norm": 19, "packed_qkv": 0, "packed_siblings": 6}),
        (qwen, {"rotary": 2, "rms_norm": 5, "skip_norm": 4, "packed_qkv": 2, "packed_siblings": 2}),
    ],
    ids=["gemma", "qwen"],
)
def test_other_architectures(
    tmp_path: Path, model: Callable[[], torch.nn.Module], applied: dict[str, int]
) -> None:
    def scheme_of(name: str) -> QuantScheme:
        return FLOAT if "embed" in name or "lm_head" in name else W4

    skeleton = MemorySkeleton(model(), scheme_of)
    written = write(skeleton, tmp_path / "ort")
    counts = {name: facts["applied"] for name, facts in written.facts["passes"].items()}
    assert {name: counts[name] for name in applied} == applied
    runner = BACKEND.open_text(written.folder, "float")
    rows = np.concatenate([runner.forward(TOKENS[:12]), *[runner.forward([t]) for t in TOKENS[12:]]])
    close(rows, reference(skeleton, TOKENS), 2 * NOISE)  # up to twice as many norms in sequence
    found, integers = BACKEND.read_back(written.folder), skeleton.integers()
    assert sorted(found) == sorted(integers)
    for name, tensor in integers.items():
        np.testing.assert_array_equal(found[name].values, tensor.values, err_msg=name)
