"""A checkpoint of the Hugging Face layout: layers, weights, damage, and the models built from it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from exporter.errors import SourceError
from exporter.models.causal_lm import CausalLM
from exporter.models.reference import TorchRunner, dequantized_model
from exporter.models.sources import ModelFiles
from exporter.numerics import quantize
from exporter.quantizing import QuantizedStore, quantize_layers
from exporter.schemes import FLOAT, QuantScheme

INT8 = QuantScheme("w8", "int8", activations="dynamic-int8")


def opened(folder: Path, cache: Path) -> CausalLM:
    return CausalLM(ModelFiles(str(folder), folder, None), cache)


@pytest.fixture
def model(tiny_checkpoint, tmp_path):
    return opened(tiny_checkpoint, tmp_path)


@pytest.fixture
def damaged(tiny_checkpoint, tmp_path):
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))


def test_layers(model):
    found = model.layers()
    assert [layer.name for layer in found.layers[:3]] == [
        "model.embed_tokens",
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.self_attn.k_proj",
    ]
    assert found.layers[-1].name == "lm_head" and found.layers[-1].tied_to == "model.embed_tokens"
    assert len(found.layers) == 2 + 2 * 7
    assert found.other_parameters == 64 * 5  # two norms a block and the last one
    assert model.layers() == found  # from the cache


def test_layer_list_needs_no_weights(damaged, tmp_path):
    (damaged / "model.safetensors").unlink()
    assert len(opened(damaged, tmp_path / "c").layers().layers) == 16


def test_float_model_equals_transformers(model, tiny_checkpoint):
    import torch
    from transformers import AutoModelForCausalLM

    tokens = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32)(tokens).logits
        assert torch.equal(model.float_model()(tokens).logits, expected)


def test_weights_one_by_one(model):
    from safetensors.numpy import load_file

    stored = load_file(model.folder / "model.safetensors")
    for layer in model.layers().layers:
        assert np.array_equal(model.weight(layer), stored[f"{layer.tied_to or layer.name}.weight"])


def test_dequantized_model_holds_the_integers(model, tmp_path):
    schemes = {layer.name: INT8 for layer in model.layers().layers}
    schemes["model.layers.1.mlp.down_proj"] = FLOAT
    store = QuantizedStore(tmp_path)
    quantize_layers(
        model, [(layer, schemes[layer.name]) for layer in model.layers().layers], store, lambda n, s: None
    )
    built = dequantized_model(model.skeleton(schemes, store.load), quantize_activations=False)
    for layer in model.layers().layers:
        module = built.get_submodule(layer.name)
        if layer.kind == "embedding":
            weight = module(torch.arange(layer.shape[0])).numpy()
        else:  # each row of the identity picks one column, without a rounding
            weight = module(torch.eye(layer.shape[1])).T.numpy()
        scheme = schemes[layer.name]
        original = model.weight(layer)
        expected = original if scheme.is_float else quantize(original, scheme).dequantized()
        assert np.array_equal(weight, expected), layer.name


def test_runner_with_cache_equals_one_pass(model):
    """Same sums in another order: a few float32 roundings of logits of size ~10."""
    runner = TorchRunner(model.float_model(), 64)
    tokens = [3, 9, 27, 81, 243, 12]
    whole = runner.forward(tokens)
    runner.reset()
    pieces = np.concatenate(
        [runner.forward(tokens[:2]), runner.forward(tokens[2:3]), runner.forward(tokens[3:])]
    )
    np.testing.assert_allclose(pieces, whole, atol=1e-4)


def test_truncated_weights(damaged, tmp_path):
    path = damaged / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(SourceError) as error:
        opened(damaged, tmp_path / "c").checkpoint.read("model.norm.weight")
    assert str(error.value).startswith(f"{path}: damaged or truncated safetensors file of 5,000 bytes (")
    assert str(error.value).endswith("; fetch it again")


def test_missing_weights(damaged, tmp_path):
    (damaged / "model.safetensors").unlink()
    with pytest.raises(SourceError) as error:
        opened(damaged, tmp_path / "c").float_model()
    assert str(error.value) == (
        f"{damaged}: there are no weights; expected model.safetensors, model.safetensors.index.json or "
        "pytorch_model.bin beside config.json"
    )


def test_pickle_with_code_is_refused(damaged, tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "owned",))

    (damaged / "model.safetensors").unlink()
    (damaged / "pytorch_model.bin").write_bytes(pickle.dumps({"model.norm.weight": Evil()}))
    with pytest.raises(SourceError, match="cannot be read with weights_only=True"):
        opened(damaged, tmp_path / "c").checkpoint.read("model.norm.weight")
    assert not (tmp_path / "owned").exists()


def test_torch_checkpoint(damaged, tmp_path):
    import torch
    from safetensors.torch import load_file

    state = load_file(damaged / "model.safetensors")
    torch.save(state, damaged / "pytorch_model.bin")
    (damaged / "model.safetensors").unlink()
    assert torch.equal(
        opened(damaged, tmp_path / "c").checkpoint.read("model.norm.weight"), state["model.norm.weight"]
    )


def test_weights_of_another_size(damaged, tmp_path):
    config = json.loads((damaged / "config.json").read_text())
    (damaged / "config.json").write_text(json.dumps({**config, "intermediate_size": 96}))
    model = opened(damaged, tmp_path / "c")
    layer = model.layers().by_name()["model.layers.0.mlp.up_proj"]
    with pytest.raises(SourceError) as error:
        model.weight(layer)
    assert str(error.value) == (
        f"{damaged}: model.layers.0.mlp.up_proj.weight has shape (128, 64), config.json asks for (96, 64)"
    )


def test_not_finite(damaged, tmp_path):
    from safetensors.numpy import load_file, save_file

    state = load_file(damaged / "model.safetensors")
    state["model.layers.0.mlp.up_proj.weight"][3, 4] = np.inf
    save_file(state, damaged / "model.safetensors", metadata={"format": "pt"})
    model = opened(damaged, tmp_path / "c")
    with pytest.raises(SourceError) as error:
        quantize_layers(
            model,
            [(layer, INT8) for layer in model.layers().layers],
            QuantizedStore(tmp_path),
            lambda n, s: None,
        )
    assert str(error.value) == (
        "layer model.layers.0.mlp.up_proj: weight[3, 4] is inf; the checkpoint cannot be quantised"
    )


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not gguf at all" * 100])
def test_bad_gguf(tmp_path, content):
    from exporter.models.gguf import metadata_folder

    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(SourceError) as error:
        metadata_folder(path, "0" * 64, tmp_path / "cache")
    assert str(error.value).startswith(f"{path}: ")
    assert not list((tmp_path / "cache" / "gguf").glob("*"))


def test_calibration_windows_cover_the_packages_text(model):
    from importlib import resources

    schemes = {layer.name: FLOAT for layer in model.layers().layers}
    data = resources.files("exporter") / "data"
    text = (data / "calibration_text.txt").read_text("utf-8")
    assert text != (data / "parity_text.txt").read_text("utf-8")
    windows = model.skeleton(schemes, lambda name: None).calibration
    # every other one begins as the model's texts do, with <s> (0), which is no part of the text
    assert {window[0] == 0 for window in windows[::2]} == {True}
    assert all(0 not in window and len(window) <= 256 for window in windows[1::2])
    tokens = [token for window in windows for token in window if token]
    assert model.tokenizer().decode(tokens) == text
    first, second = (model.tokenizer().encode(x, add_special_tokens=False) for x in ("ab", "c"))
    own = model.skeleton(schemes, lambda name: None, ["ab", "c"]).calibration
    assert own == ((0, *first), tuple(second))
