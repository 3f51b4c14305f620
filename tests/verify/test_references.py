"""PyTorch's side: hidden states and the rest of a model against the whole of it, and what it rounds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from exporter.evaluate import Window
from exporter.models.activations import fake_float16_cache, fake_quantize_int8_cache
from exporter.models.reference import (
    TorchRunner,
    dequantized_model,
    dequantized_rows,
    release_weights,
    streamed_float_model,
)
from exporter.numerics import quantize
from exporter.schemes import QuantScheme
from exporter.verify.continuing import greedy, greedy_together
from exporter.verify.references import Reference, Variant

SCHEME = QuantScheme("w", "int4", 32, True, "dynamic-int8", "rtn")
FLOAT32 = 2.0**-24


def windows(count=3, length=24, vocabulary=200):
    ids = np.random.default_rng(0).integers(2, vocabulary, size=(count, length))
    return [Window(tuple(row), (length - 1) // 2) for row in ids.tolist()]


def capped_model():
    """Logits are soft-capped behind the output layer, and every second layer sees a window of 8."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=200,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        sliding_window=8,
        final_logit_softcapping=3.0,
        initializer_range=0.5,
    )
    return Gemma2ForCausalLM(config).eval()


def whole(model, window):
    with torch.no_grad():
        return model(torch.tensor([window.tokens])).logits[0].numpy()[window.rows]


@pytest.mark.parametrize("batch_tokens", [1, 60, 10_000])
def test_rows_from_hidden_states_are_those_of_the_whole_model(batch_tokens):
    model, text = capped_model(), windows()
    reference = Reference(model, batch_tokens)
    assert list(reference.collect(None, text))[-1] == len(text)
    assert reference._replays
    for index, window in enumerate(text):
        expected = whole(model, window)
        assert np.abs(expected).max() <= 3.0  # the cap is part of it
        rows = np.array([0, 3, 4, len(expected) - 1])
        # float32 sums of 64 terms in another order, logits of at most 3: 64 roundings of 3 * 2^-24
        np.testing.assert_allclose(reference.logits(None, index, rows), expected[rows], atol=64 * 3 * FLOAT32)


class Whole(torch.nn.Module):
    """A model that has no body to run by itself."""

    def __init__(self, model):
        super().__init__()
        self.inner = model
        self.base_model_prefix = "nothing"

    @property
    def base_model(self):
        return self

    def get_input_embeddings(self):
        return self.inner.get_input_embeddings()

    def forward(self, input_ids, use_cache=False):
        return self.inner(input_ids, use_cache=use_cache)


def test_a_model_of_another_build_runs_whole():
    model, text = capped_model(), windows(count=1)
    reference = Reference(Whole(model), 1000)
    list(reference.collect(None, text))
    assert not reference._replays
    rows = np.array([0, 5])
    np.testing.assert_allclose(
        reference.logits(None, 0, rows), whole(model, text[0])[rows], atol=64 * 3 * FLOAT32
    )


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint, tmp_path_factory):
    """The tiny checkpoint and a skeleton of it, all layers int4."""
    from exporter.models.loading import open_model
    from exporter.quantizing import QuantizedStore, quantize_layers

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QEXPORT_CACHE", str(tmp_path_factory.mktemp("cache")))
        model = open_model(str(tiny_checkpoint), "text-generation", tiny_checkpoint)
    schemes = {layer.name: SCHEME for layer in model.layers().layers}
    store = QuantizedStore(tmp_path_factory.mktemp("integers"))
    quantize_layers(model, [(layer, SCHEME) for layer in model.layers().layers], store, lambda n, s: None)
    return model, model.skeleton(schemes, store.load)


@pytest.mark.parametrize("keep", [0, 20_000, 10**9])
def test_a_streamed_float_model_is_the_float_model(tiny, keep):
    model, skeleton = tiny
    streamed = streamed_float_model(skeleton, lambda layer: model.weight(layer.info), keep)
    ids = torch.tensor([[0, 5, 9, 77]])
    with torch.no_grad():
        expected = model.float_model()(ids).logits
        # the same products, but a library may sum a mapped weight, which is aligned otherwise, in another order
        near = {"rtol": 0.0, "atol": float(expected.abs().max()) * 2.0**-18}
        assert torch.allclose(streamed(ids).logits, expected, **near)
        release_weights(streamed)
        assert torch.allclose(streamed(ids).logits, expected, **near)


def test_a_weight_in_blocks_is_the_weight(tiny, monkeypatch):
    from exporter.models import reference

    _, skeleton = tiny
    ids = torch.tensor([[0, 5, 9, 77]])
    with torch.no_grad():
        whole = dequantized_model(skeleton, quantize_activations=True)(ids).logits
        monkeypatch.setattr(reference._Integers, "block", 64 * 30)
        blocks = dequantized_model(skeleton, quantize_activations=True)(ids).logits
    # the same dot products; a matrix product of another height may sum in another order
    np.testing.assert_allclose(blocks, whole, atol=128 * FLOAT32 * float(whole.abs().max()))


@pytest.mark.parametrize("group", [32, "channel", "tensor"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_rows_are_dequantised_as_the_whole(group, symmetric):
    scheme = replace(SCHEME, weights="int8", group=group, symmetric=symmetric)
    tensor = quantize(np.random.default_rng(0).normal(size=(40, 64)).astype(np.float32), scheme)
    index = np.array([7, 7, 0, 39])
    np.testing.assert_array_equal(dequantized_rows(tensor, slice(3, 20)), tensor.dequantized()[3:20])
    np.testing.assert_array_equal(dequantized_rows(tensor, index), tensor.dequantized()[index])


def test_an_int8_cache_is_rounded_as_executorch_rounds_it():
    """Against the operators that ExecuTorch's QuantizedKVCache is made of."""
    import torch.ao.quantization.fx._decomposed

    ops = torch.ops.quantized_decomposed
    states = 3 * torch.randn((2, 3, 5, 16), generator=torch.Generator().manual_seed(0))
    states[0, 0, 0], states[0, 0, 1] = 0.0, states[0, 0, 1].abs() + 1  # all zero; without a zero
    scales, zeros = ops.choose_qparams_per_token_asymmetric(states, torch.int8)
    codes = ops.quantize_per_token(states, scales, zeros, -128, 127, torch.int8)
    expected = ops.dequantize_per_token(codes, scales, zeros, -128, 127, torch.int8, torch.float32)
    found = fake_quantize_int8_cache(states)
    # their scale is float64: a code can differ where x / scale lies within a rounding of a half
    apart = (found - expected).abs() > 1e-5 * expected.abs().max()
    assert apart.float().mean() < 0.001
    assert ((found - states).abs() <= 0.5001 * scales).all()
    assert torch.equal(fake_float16_cache(states), states.half().float())


def test_each_rounding_moves_the_logits_and_only_where_it_is_asked_for(tiny):
    _, skeleton = tiny
    reference = Reference(dequantized_model(skeleton, quantize_activations=False), 1000)
    text = windows(count=1)
    variants = [
        Variant(),
        Variant(disturbed=True),
        Variant(cache="float16"),
        Variant(cache="int8"),
        Variant(rounds=True),
    ]
    rows = np.arange(len(text[0].targets))
    found = {}
    for variant in [*variants, variants[0]]:
        list(reference.collect(variant, text))
        logits = reference.logits(variant, 0, rows)
        if variant in found:
            assert np.array_equal(logits, found[variant])  # nothing was left switched on
        found[variant] = logits
    error = [float(np.square(found[v] - found[Variant()]).mean()) for v in variants]
    assert error[0] == 0 < error[1] < error[2] < error[3] and error[2] < error[4]


def test_prompts_together_are_continued_as_one_by_one(tiny):
    _, skeleton = tiny
    model = dequantized_model(skeleton, quantize_activations=False)
    prompts = [[0, 5, 9], [0, 40, 41, 42, 43, 44, 45], [0]]
    ends = frozenset([1])
    runner = TorchRunner(model, 512)
    for (tokens, first), prompt in zip(greedy_together(model, prompts, 12, ends), prompts, strict=True):
        alone, row = greedy(runner, prompt, 12, ends)
        assert tokens == alone
        # sums over at most 128 products in another order, through two blocks
        np.testing.assert_allclose(first, row, atol=1e-4 * np.abs(row).max())


def test_a_draft_saves_steps_and_changes_nothing(tiny):
    _, skeleton = tiny
    runner = TorchRunner(dequantized_model(skeleton, quantize_activations=False), 512)
    prompt, ends = [0, 5, 9], frozenset([1])
    own, first = greedy(runner, prompt, 12, ends)
    other = tuple(token if index < 4 else 7 for index, token in enumerate(own))
    for draft in (own, other, other[:1], own[:5], (7, 7, 7)):
        tokens, row = greedy(runner, prompt, 12, ends, draft)
        assert tokens == own
        np.testing.assert_allclose(row, first, atol=1e-4 * np.abs(first).max())
    # an end token stops it, in the draft and behind it
    stop = frozenset([own[6]])
    expected = own[: own.index(own[6]) + 1]
    assert greedy(runner, prompt, 12, stop, own)[0] == greedy(runner, prompt, 12, stop)[0] == expected
