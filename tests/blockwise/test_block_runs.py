"""Block by block, a model computes what it computes whole."""

import numpy as np
import pytest
import tiny_models
import torch

from exporter.blockwise.blocks import Blocks
from exporter.blockwise.moments import InputMoments, shared_inputs
from exporter.blockwise.windows import calibration_windows
from exporter.errors import QexportError, TraceError

IDS = torch.tensor([[5, 9, 17, 3, 40, 2, 77, 11, 30, 8], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]])


def linears(model):
    return {
        name: m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear | torch.nn.Embedding)
    }


@pytest.mark.parametrize("kind", ["llama", "gemma", "qwen"])
def test_blocks_in_turn_are_the_model(kind):
    model = getattr(tiny_models, kind)().eval().requires_grad_(False)
    expected = model(IDS).logits
    blocks = Blocks(model, list(linears(model)))
    blocks.record(IDS[:1])
    states = blocks.first_states(IDS)
    for block in range(len(blocks.blocks)):
        states = blocks.run(block, states)
    head = blocks.given_to(model.lm_head, states)
    with blocks.passed(states):
        found = model(torch.zeros_like(IDS)).logits
    assert torch.equal(found, expected)
    assert torch.allclose(model.lm_head(head), expected, atol=1e-6)
    assert torch.equal(model(IDS).logits, expected)  # nothing of it stays behind


def test_layers_by_place():
    model = tiny_models.llama()
    blocks = Blocks(model, list(linears(model)))
    assert blocks.outside(list(linears(model))) == ["model.embed_tokens", "lm_head"]
    assert blocks.layers_of(1, list(linears(model)))[0] == "model.layers.1.self_attn.q_proj"
    assert len(blocks.layers_of(1, list(linears(model)))) == 7


def test_a_model_without_blocks():
    with pytest.raises(
        TraceError, match=r"^its layers stand in no list of blocks, which methods that need calibration"
    ):
        Blocks(torch.nn.Sequential(torch.nn.Linear(2, 2)), ["0"])


def test_moments_are_those_of_what_layers_take():
    model = tiny_models.qwen().eval().requires_grad_(False)
    layers = {name: m for name, m in linears(model).items() if name.startswith("model.layers.0.")}
    taken = {}

    def keep(name):
        def before(module, given):
            taken[name] = given[0].reshape(-1, given[0].shape[-1])

        return before

    for name, module in layers.items():
        module.register_forward_pre_hook(keep(name))
    seen = InputMoments()
    with seen.watching(layers):
        model(IDS)
    for name in layers:
        x = taken[name].double().numpy()
        assert np.allclose(seen.of(name), x.T @ x / len(x), rtol=1e-4, atol=1e-6)
    first = "model.layers.0.mlp.down_proj"
    weighed, weights = InputMoments(), torch.linspace(0, 2, len(taken[first]))
    weighed.add(first, taken[first], weights)
    x = taken[first].double().numpy()
    assert np.allclose(weighed.of(first), (x * weights[:, None].numpy()).T @ x / len(x), rtol=1e-4, atol=1e-6)
    with shared_inputs(layers) as found:
        model(IDS)
    attention, mlp = "model.layers.0.self_attn.", "model.layers.0.mlp."
    assert {name: found[name] for name in layers} == {
        **{attention + each: attention + "q_proj" for each in ("q_proj", "k_proj", "v_proj")},
        attention + "o_proj": attention + "o_proj",
        **{mlp + each: mlp + "gate_proj" for each in ("gate_proj", "up_proj")},
        mlp + "down_proj": mlp + "down_proj",
    }


def test_inputs_that_are_not_finite_name_their_layer():
    model = tiny_models.llama().eval().requires_grad_(False)
    model.model.layers[1].post_attention_layernorm.weight[3] = float("nan")
    layers = {name: m for name, m in linears(model).items() if name != "lm_head"}
    with (
        pytest.raises(
            QexportError, match=r"^layer model\.layers\.1\.mlp\.gate_proj: what it takes on the calibration"
        ),
        InputMoments().watching(layers),
    ):
        model(IDS)


def test_windows(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_models.llama_with_tokenizer(tmp_path))
    long, short = "word " * 400, "Nobody said a word. "
    found = calibration_windows(tokenizer, [long] + [short] * 60, None)
    assert found.shape[1] == 512 and found.dtype == np.int64
    plain = tokenizer.encode(long, add_special_tokens=False)
    first = 1 if tokenizer("").input_ids else 0
    assert found[0, first:].tolist() == plain[: 512 - first]  # no text has more than a window
    assert calibration_windows(tokenizer, [long], 64).shape[1] == 64
    message = r"^calibration\.text: \d+ tokens in all, and inputs are measured over windows of 51[12]; give"
    with pytest.raises(QexportError, match=message):
        calibration_windows(tokenizer, ["a few bytes"], None)
