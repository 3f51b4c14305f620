"""What is trained is what the files compute."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exporter.layers import LayerInfo
from exporter.models.skeleton import PlannedLayer
from exporter.numerics import QuantizedTensor, quantize, round_to_bf16
from exporter.qat.fake_quant import TrainedLinear, TrainedWeight, parameters
from exporter.schemes import QuantScheme

W4 = QuantScheme("w4", "int4", 16)
W8 = QuantScheme("w8", "int8", "channel", activations="dynamic-int8")
ONE = QuantScheme("one", "int8", "tensor", activations="dynamic-int8")


def begun(seed, scheme, trains_weights=True):
    weight = np.random.default_rng(seed).standard_normal((6, 32)).astype(np.float32)
    tensor = quantize(weight, scheme)
    return weight, tensor, TrainedWeight(torch.from_numpy(weight), tensor, trains_weights)


@given(seed=st.integers(0, 10_000), scheme=st.sampled_from([W4, W8, ONE]))
def test_it_begins_at_the_integers_it_was_given(seed, scheme):
    _, tensor, held = begun(seed, scheme)
    found = held.tensor()
    assert (found.values == tensor.values).all() and (found.scales == tensor.scales).all()
    assert torch.equal(held(), torch.from_numpy(tensor.dequantized()))


def test_integers_that_calibration_chose_do_not_begin_at_the_border():
    """A GPTQ integer that is not the nearest would be the first to turn back."""
    weight = np.array([[0.0, 0.9, 7.0, -8.0] * 8], np.float32)
    for method, farthest in (("mse", 0.49), ("gptq", 0.25)):
        scheme = QuantScheme("w", "int4", "channel", method=method)
        moved = QuantizedTensor(
            np.array([[0, 0, 7, -8] * 8], np.int8), np.ones((1, 1), np.float32), None, scheme
        )
        held = TrainedWeight(torch.from_numpy(weight), moved, True)
        assert held.weight[0, 0, 1].item() == pytest.approx(farthest)
        assert (held.tensor().values == moved.values).all()


@given(seed=st.integers(0, 10_000), scheme=st.sampled_from([W4, W8, ONE]))
def test_wherever_it_is_it_computes_what_its_integers_stand_for(seed, scheme):
    _, _, held = begun(seed, scheme)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        held.weight.add_(torch.randn(held.weight.shape, generator=generator))
        held.factor.mul_(1 + 0.2 * torch.rand(held.factor.shape, generator=generator))
    found = held.tensor()
    assert (round_to_bf16(found.scales) == found.scales).all()
    assert torch.equal(held(), torch.from_numpy(found.dequantized()))


def test_gradients_are_those_of_the_papers():
    _, tensor, held = begun(1, W4)
    list(parameters(held))
    with torch.no_grad():
        held.weight[0, 0, 0] = 100.0  # clipped at 7
    upstream = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    held().backward(upstream)
    scale = torch.from_numpy(tensor.scales)[:, :, None]
    inside = torch.ones(6, 2, 16)
    inside[0, 0, 0] = 0
    grouped = upstream.view(6, 2, 16)
    assert torch.allclose(held.weight.grad, grouped * inside * scale)
    code = (held.weight.detach()).round().clamp(-8, 7)
    per_scale = (grouped * (code - held.weight.detach() * inside)).sum(dim=2, keepdim=True)
    assert torch.allclose(held.factor.grad, per_scale * scale / np.sqrt(16 * 7), rtol=1e-4, atol=1e-6)


def test_the_one_scale_of_a_tensor_has_the_gradient_of_all_its_weights():
    _, tensor, held = begun(1, ONE)
    list(parameters(held))
    upstream = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    held().backward(upstream)
    off = (held.weight.detach().round() - held.weight.detach()).view(6, 32)
    expected = (upstream * off).sum() * float(tensor.scales[0, 0]) / np.sqrt(6 * 32 * 127)
    assert held.factor.grad.shape == (1, 1, 1) and held.factor.grad.item() == pytest.approx(
        expected.item(), rel=1e-4
    )


def test_one_rounding_serves_every_use_of_a_step():
    _, _, held = begun(2, W4)
    list(parameters(held))
    upstream = torch.randn(6, 32)
    (held() * upstream + held() * upstream).sum().backward()
    alone = held.weight.grad.clone()
    held.weight.grad = None
    held.begin()
    (held() * upstream).sum().backward()
    (held() * upstream).sum().backward()
    held.end()
    assert torch.allclose(held.weight.grad, alone)


def test_activations_are_rounded_and_let_gradients_through():
    _, tensor, held = begun(3, W8)
    layer = TrainedLinear(
        PlannedLayer(LayerInfo("x", "linear", (6, 32)), W8, lambda: tensor, torch.ones(6)), held
    )
    from exporter.models.activations import fake_quantize_activations

    x = torch.randn(4, 32, requires_grad=True)
    found = layer(x)
    dequantized = torch.from_numpy(tensor.dequantized())
    assert torch.equal(
        found, torch.nn.functional.linear(fake_quantize_activations(x.detach()), dequantized, torch.ones(6))
    )
    found.sum().backward()
    assert torch.allclose(x.grad, dequantized.sum(dim=0).expand(4, 32), atol=1e-5)


def test_only_scales():
    _, _, held = begun(4, W4, trains_weights=False)
    assert [name for name, _ in parameters(held)] == ["factor"]


@pytest.mark.parametrize(
    ("scheme", "reason"),
    [
        (QuantScheme("w", "int4", 32, symmetric=False), "zero points are not trained; set symmetric: true"),
        (QuantScheme("w", "float"), "float weights have nothing to train"),
        (W4, None),
    ],
)
def test_what_cannot_be_trained(scheme, reason):
    from exporter.schemes import untrainable

    assert untrainable(scheme, "text-generation") == reason


def test_what_of_a_module_cannot_be_trained():
    from exporter.schemes import untrainable

    assert untrainable(QuantScheme("w", "int8", activations="static-int8"), "module") is None
    assert untrainable(W4, "module") == (
        "of a module static layers are trained; name them in qat.layers, or set activations: static-int8"
    )
