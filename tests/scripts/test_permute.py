"""scripts/permute.py: the same function, other neighbours, and nothing moved that no rule covers."""

import numpy as np
import permute
import pytest
import tiny_models
import torch

IDS = torch.tensor([[5, 9, 17, 3, 40, 2, 77, 11, 30, 8]])


@pytest.mark.parametrize("kind", ["llama", "gemma", "qwen"])
def test_the_function_stays_and_neighbours_change(kind):
    model = getattr(tiny_models, kind)().eval()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with torch.no_grad():
        expected = model(IDS).logits
        permute.permute(model, 0)
        found = model(IDS).logits
    assert float((found - expected).abs().max()) <= permute.TOLERANCE * float(expected.abs().max())
    for name, weight in model.state_dict().items():
        if name.endswith(("_proj.weight", "embed_tokens.weight")):
            assert not torch.equal(weight, before[name])
            old, new = (np.sort(np.abs(x.numpy()).sum(axis=1)) for x in (before[name], weight))
            assert np.allclose(old, new, rtol=1e-5)  # each row has the same numbers


def test_the_same_seed_moves_alike():
    first, second, third = (tiny_models.llama() for _ in range(3))
    permute.permute(first, 1)
    permute.permute(second, 1)
    permute.permute(third, 2)
    assert torch.equal(first.lm_head.weight, second.lm_head.weight)
    assert not torch.equal(first.lm_head.weight, third.lm_head.weight)


def test_what_no_rule_covers():
    model = tiny_models.llama()
    model.model.layers[1].self_attn.sinks = torch.nn.Parameter(torch.zeros(4))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(
        permute.Unknown, match=r"^model\.layers\.1\.self_attn\.sinks \(4,\): it is not known which"
    ):
        permute.permute(model, 0)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
