"""Integers of a tiny model block by block: less loss than without text, and the same after a kill."""

import json
import shutil

import numpy as np
import pytest
import tiny_models
import torch

from exporter.blockwise import calibration_windows, quantize_by_blocks
from exporter.errors import SourceError
from exporter.layers import LayerInfo
from exporter.models.loading import open_model
from exporter.models.reference import dequantized_model
from exporter.quantizing import QuantizedStore, quantize_layers
from exporter.schemes import QuantScheme

W4 = QuantScheme("w4", "int4", 32, method="gptq")
PLAIN = QuantScheme("w4", "int4", 32, method="mse")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tiny_models.llama_with_tokenizer(tmp_path_factory.mktemp("model"))
    return open_model(str(folder), "text-generation", folder)


@pytest.fixture(scope="module")
def windows(model):
    generator = np.random.default_rng(0)
    words = [bytes(generator.integers(97, 122, 5)).decode() for _ in range(50)]
    texts = [" ".join(generator.choice(words, 400)) for _ in range(12)]
    return calibration_windows(model.tokenizer(), texts, 128)


def decided(model, scheme):
    return [(layer, scheme) for layer in model.layers().layers]


def store_in(folder, model, scheme):
    folder.mkdir()
    store = QuantizedStore(folder)
    for layer in model.layers().layers:
        store.expect(layer.name, scheme)
    return store


def logits(model, scheme, store, tokens):
    owners = {layer.name: layer.tied_to or layer.name for layer in model.layers().layers}
    skeleton = model.skeleton(dict.fromkeys(owners, scheme), lambda name: store.load(owners[name]))
    with torch.no_grad():
        return dequantized_model(skeleton, False)(torch.from_numpy(tokens)).logits


def divergence(expected, found):
    p, q = torch.log_softmax(expected, -1), torch.log_softmax(found, -1)
    return float((p.exp() * (p - q)).sum(-1).mean())


def test_calibrated_integers_lose_less_on_text_that_they_were_not_fitted_to(model, windows, tmp_path):
    plain, fitted = store_in(tmp_path / "plain", model, PLAIN), store_in(tmp_path / "fitted", model, W4)
    quantize_layers(model, decided(model, PLAIN), plain, lambda *_: None)
    seen = []
    methods = quantize_by_blocks(
        model,
        decided(model, W4),
        windows[:-2],
        fitted,
        tmp_path / "work",
        lambda doing, share: seen.append(doing),
    )
    with torch.no_grad():
        expected = model.float_model()(torch.from_numpy(windows[-2:])).logits
    of_plain = divergence(expected, logits(model, PLAIN, plain, windows[-2:]))
    of_fitted = divergence(expected, logits(model, W4, fitted, windows[-2:]))
    assert of_fitted < 0.8 * of_plain
    owners = {layer.name for layer in model.layers().layers if layer.tied_to is None}
    assert set(methods) == owners and all(each["method"] == "gptq" for each in methods.values())
    assert "block 2 of 2" in seen
    assert not list((tmp_path / "work").glob("states.[01]*"))  # hidden states go as they are used up


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", [1, 3, 4, 5])
def test_a_killed_run_goes_on_and_writes_the_same(model, windows, tmp_path, moment):
    whole = store_in(tmp_path / "whole", model, W4)
    quantize_by_blocks(model, decided(model, W4), windows, whole, tmp_path / "a", lambda *_: None)
    cut = store_in(tmp_path / "cut", model, W4)
    calls = 0

    def stopping(doing, share):
        nonlocal calls
        calls += 1
        if calls == moment:
            raise Killed

    try:
        quantize_by_blocks(model, decided(model, W4), windows, cut, tmp_path / "b", stopping)
    except Killed:
        quantize_by_blocks(model, decided(model, W4), windows, cut, tmp_path / "b", lambda *_: None)
    for layer in model.layers().layers:
        if layer.tied_to is None:
            assert cut.load(layer.name).integers_sha256 == whole.load(layer.name).integers_sha256, layer.name
            assert cut.load(layer.name).scales_sha256 == whole.load(layer.name).scales_sha256, layer.name


def test_a_weight_that_is_not_finite_names_its_layer(model, windows, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(model.folder, folder)
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][2, 5] = float("nan")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    broken = open_model(str(folder), "text-generation", folder)
    scheme = QuantScheme("w4", "int4", 32, method="wmse")
    store = store_in(tmp_path / "store", broken, scheme)
    layers: list[tuple[LayerInfo, QuantScheme]] = [
        (layer, scheme if layer.name.endswith("layers.1.mlp.down_proj") else PLAIN_FLOAT)
        for layer in broken.layers().layers
    ]
    message = (
        r"^layer model\.layers\.1\.mlp\.down_proj: weight\[2, 5\] is nan; the checkpoint cannot be quantised$"
    )
    with pytest.raises(SourceError, match=message):
        quantize_by_blocks(broken, layers, windows, store, tmp_path / "work", lambda *_: None)


PLAIN_FLOAT = QuantScheme("float", "float")


def test_progress_is_whole_json(model, windows, tmp_path):
    store = store_in(tmp_path / "store", model, W4)
    quantize_by_blocks(model, decided(model, W4), windows, store, tmp_path / "work", lambda *_: None)
    held = json.loads((tmp_path / "work" / "progress.json").read_text())
    assert held["blocks"] == 2 and held["outside"] == ["model.embed_tokens"]
