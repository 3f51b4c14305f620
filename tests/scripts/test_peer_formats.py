"""What peers are asked for, and how what they wrote is read back."""

import genai_builder
import llama_gguf
import numpy as np
import onnx
import pytest
from genai_builder import Quantised, options, quantised_nodes, why_wrong
from peers.llama_cpp import SPEED, Format
from peers.scoring import GENAI_FORMATS, LLAMA_FORMATS, PLAIN, genai_subjects, llama_subjects
from quality import Reference
from tiny_gguf import KINDS, sizes_of, write_gguf
from tiny_models import llama_with_tokenizer, qwen

from exporter.models.gguf import convert_weights, metadata_folder
from exporter.models.sources import file_sha256


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("Q8_0", Format("Q8_0")),
        ("Q5_K_M, token_embd q5_0", Format("Q5_K_M", "Q5_0")),
        ("Q4_0, token_embd q4_0", Format("Q4_0", "Q4_0")),
    ],
)
def test_format_as_it_is_written(written, expected):
    assert Format.of(written) == expected
    assert not expected.pure and SPEED.pure


@pytest.mark.parametrize("written", ["", "Q4_0, q4_0", "Q4_0, token_embd", "Q4_0, output q4_0"])
def test_format_that_is_none(written):
    with pytest.raises(ValueError, match="write FILE_TYPE or 'FILE_TYPE, token_embd TYPE'"):
        Format.of(written)


def test_every_format_is_one_that_ggml_knows():
    from gguf import GGMLQuantizationType, LlamaFileType

    for written in {*PLAIN, *(entry for formats in LLAMA_FORMATS.values() for entry in formats)}:
        wanted = Format.of(written)
        assert f"MOSTLY_{wanted.file_type}" in LlamaFileType.__members__
        assert wanted.table is None or wanted.table in GGMLQuantizationType.__members__


@pytest.mark.parametrize("architecture", KINDS)
def test_a_checkpoint_becomes_the_gguf_file_that_it_came_from(tmp_path, architecture):
    from gguf import GGUFReader, dequantize

    source = write_gguf(tmp_path / "model.gguf", architecture, sizes_of(architecture))
    folder = metadata_folder(source, file_sha256(source), tmp_path / "cache")
    convert_weights(source, folder)
    written = tmp_path / "float.gguf"
    llama_gguf.convert(folder, source, written)
    before, after = GGUFReader(source), GGUFReader(written)
    tensors = {tensor.name: tensor for tensor in after.tensors}
    assert tensors.keys() == {tensor.name for tensor in before.tensors}
    for tensor in before.tensors:
        assert tensors[tensor.name].tensor_type.name == "F32"
        expected, found = dequantize(tensor.data, tensor.tensor_type), tensors[tensor.name].data
        # Gemma's norms lose the one and get it back: two roundings of numbers below 8
        tolerance = 8 * 2.0**-23 if architecture == "gemma3" and "norm" in tensor.name else 0
        assert np.abs(found - expected).max() <= tolerance, tensor.name
    for key, field in before.fields.items():
        if not key.startswith("GGUF.") and key not in ("general.file_type", "general.quantization_version"):
            assert after.fields[key].contents() == field.contents(), key
            assert after.fields[key].types == field.types, key


def test_a_tensor_that_gguf_has_no_name_for(tmp_path):
    from safetensors.numpy import load_file, save_file

    source = write_gguf(tmp_path / "model.gguf", "llama", sizes_of("llama"))
    folder = metadata_folder(source, file_sha256(source), tmp_path / "cache")
    convert_weights(source, folder)
    path = folder / "model.safetensors"
    save_file({**load_file(path), "model.layers.0.self_attn.extra.weight": np.zeros(4, np.float32)}, path)
    with pytest.raises(SystemExit, match=r"gguf has no name for model\.layers\.0\.self_attn\.extra\.weight"):
        llama_gguf.convert(folder, source, tmp_path / "float.gguf")


def test_options_of_the_model_builder():
    assert options(128, "default") == [
        *("block_size=128", "accuracy_level=4", "is_symmetric=true", "op_types_to_quantize=MatMul/Gather")
    ]
    assert options(32, "k_quant_mixed")[-1] == "algo_config=k_quant_mixed"


def node(bits: int, name: str = "/model/layers.0/mlp/MatMul_Q4", kind: str = "MatMulNBits") -> Quantised:
    return Quantised(kind, name, bits, 32, 4)


HEAD = "/lm_head/MatMul_Q8"
TABLE = node(8, "/model/embed_tokens/Gather", "GatherBlockQuantized")


@pytest.mark.parametrize(
    ("nodes", "algorithm", "problem"),
    [
        ([node(4), node(4, HEAD)], "default", None),
        ([node(4), node(8, HEAD)], "default", "/lm_head/MatMul_Q8 has 8 bits, not 4"),
        ([node(4), TABLE], "default", "/model/embed_tokens/Gather has 8 bits, not 4"),
        ([node(4), node(8, HEAD), TABLE], "k_quant_last", None),
        ([node(4), node(4, HEAD)], "k_quant_last", "k_quant_last: the output layer has not 8 bits (4)"),
        (
            [node(4), node(8), node(8, HEAD)],
            "k_quant_last",
            "k_quant_last: 1 products beside the output layer have 8 bits",
        ),
        ([node(4), node(8), node(8, HEAD)], "k_quant_mixed", None),
        (
            [node(4), node(8, HEAD)],
            "k_quant_mixed",
            "k_quant_mixed: 0 products beside the output layer have 8 bits",
        ),
        ([node(8), node(8, HEAD)], "k_quant_mixed", "k_quant_mixed: no product has 4 bits"),
        ([], "default", "holds no quantised node"),
        (
            [Quantised("MatMulNBits", "a", 4, 64, 4)],
            "default",
            "a has block, accuracy level (64, 4), not (32, 4)",
        ),
        (
            [Quantised("MatMulNBits", "a", 4, 32, 0)],
            "default",
            "a has block, accuracy level (32, 0), not (32, 4)",
        ),
    ],
)
def test_what_the_model_builder_wrote(tmp_path, nodes, algorithm, problem):
    written = [
        onnx.helper.make_node(
            n.kind,
            ["x"],
            [f"y{index}"],
            name=n.name,
            block_size=n.block,
            bits=n.bits,
            **({"accuracy_level": n.accuracy} if n.kind == "MatMulNBits" else {}),
        )
        for index, n in enumerate(nodes)
    ]
    graph = onnx.helper.make_graph(written, "graph", [], [])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "model.onnx")
    found = quantised_nodes(tmp_path / "model.onnx")
    assert found == nodes
    assert why_wrong(found, 4, 32, algorithm) == problem


def test_a_float_graph_has_no_quantised_node():
    assert why_wrong([], genai_builder.FLOAT, 32, "default") is None
    assert (
        why_wrong([node(4)], genai_builder.FLOAT, 32, "default")
        == "1 nodes are quantised, float was asked for"
    )


def test_subjects_begin_with_the_float_form(tmp_path):
    qwen().save_pretrained(tmp_path)
    own, builder = (
        llama_subjects(tmp_path, "none", tmp_path, 1, 64),
        genai_subjects(tmp_path, tmp_path, 1, 64),
    )
    assert [subject.format for subject in own] == ["F32", *PLAIN]  # qwen2 has no list of its own
    assert [subject.format for subject in builder] == ["fp32", *GENAI_FORMATS]


def test_the_model_builders_float_file_gives_the_references_logits(tmp_path):
    folder = llama_with_tokenizer(tmp_path / "model")
    (whole, *_) = genai_subjects(folder, tmp_path / "work", 1, 64)
    whole.make()
    tokens = [*range(3, 40)]
    expected = Reference(folder).logits(tokens, 30)
    scorer = whole.open()
    found = scorer.logits(tokens, 30)
    scorer.close()
    assert found.shape == expected.shape == (7, 264)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()  # sums in another order
    assert whole.bytes() > 4 * 2 * (64 * 128 * 3)  # float32 weights of two blocks, to say the least
