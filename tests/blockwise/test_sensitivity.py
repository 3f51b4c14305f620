"""Gradients of a streamed tiny model are those that PyTorch gives for the whole float model."""

import numpy as np
import pytest
import tiny_models
import torch

from exporter.blockwise import calibration_windows
from exporter.blockwise.sensitivity import Sensitivity, measured
from exporter.models.loading import open_model
from exporter.models.reference import streamed_float_model
from exporter.schemes import QuantScheme


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tiny_models.llama_with_tokenizer(tmp_path_factory.mktemp("model"))
    return open_model(str(folder), "text-generation", folder)


@pytest.fixture(scope="module")
def tokens(model):
    words = [bytes(np.random.default_rng(n).integers(97, 122, 5)).decode() for n in range(40)]
    return torch.from_numpy(calibration_windows(model.tokenizer(), [" ".join(words)] * 8, 32)[:3])


def streamed(model):
    scheme = QuantScheme("w4", "int4", 32, method="gptq")
    layers = [layer.name for layer in model.layers().layers]
    skeleton = model.skeleton(dict.fromkeys(layers, scheme), lambda name: None)
    return streamed_float_model(skeleton, lambda planned: model.weight(planned.info), 0), layers


@pytest.fixture(scope="module")
def found(model, tokens):
    return measured(*streamed(model), tokens, lambda *_: None)


def expected(model, tokens, name):
    """Gradients at a layer's output, (windows, length, features), by autograd; and what the layer took."""
    whole = model.float_model()
    kept = []
    whole.get_submodule(name).register_forward_hook(
        lambda module, given, out: (out.retain_grad(), kept.append((given[0].detach(), out)))[0]
    )
    for parameter in whole.parameters():
        parameter.requires_grad_(True)
    generator = torch.Generator().manual_seed(0)
    found, taken = [], []
    for window in tokens:
        logits = whole(window[None]).logits[0]
        with torch.no_grad():
            drawn = torch.multinomial(torch.softmax(logits, -1), 1, generator=generator)
        torch.log_softmax(logits, -1).gather(1, drawn).sum().backward()
        given, out = kept.pop()
        taken.append(given[0])
        found.append(out.grad.reshape(len(window), -1))
    return torch.stack(found), torch.stack(taken)


@pytest.mark.parametrize(
    "name", ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj", "lm_head"]
)
def test_squares_of_gradients(model, tokens, found, name):
    exact = expected(model, tokens, name)[0].square().sum(-1)
    np.testing.assert_allclose(found.tokens[name], exact, rtol=2e-3, atol=1e-6)


def test_moments_of_a_table(model, tokens, found):
    """Of both of its uses: rows that are looked up, and the output layer that multiplies with it."""
    looked_up = expected(model, tokens, "model.embed_tokens")[0].flatten(0, 1).double()
    gradients, taken = (each.flatten(0, 1).double() for each in expected(model, tokens, "lm_head"))
    weighed = taken * gradients.square().sum(dim=1, keepdim=True)
    moments = ((looked_up.T @ looked_up + weighed.T @ taken) / len(taken)).numpy()
    np.testing.assert_allclose(
        found.tables["model.embed_tokens"], moments, rtol=1e-2, atol=1e-3 * moments.max()
    )


def test_what_is_saved_comes_back(found, tmp_path):
    found.save(tmp_path / "g.npz")
    again = Sensitivity.load(tmp_path / "g.npz")
    assert again.tokens.keys() == found.tokens.keys() and again.tables.keys() == found.tables.keys()
    weights = again.weights("lm_head")
    np.testing.assert_array_equal(weights, found.weights("lm_head"))
    assert weights.mean() == pytest.approx(1.0, rel=1e-5) and weights.min() > 0
    assert [path.name for path in tmp_path.iterdir()] == ["g.npz"]


def test_layers_whose_gradients_are_nothing_count_alike():
    held = Sensitivity({"a": np.zeros((2, 3), np.float32)})
    np.testing.assert_array_equal(held.weights("a"), np.ones((2, 3), np.float32))
