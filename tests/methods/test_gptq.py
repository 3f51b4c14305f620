import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import PlanError
from exporter.methods.gptq import rounded
from exporter.numerics import quantize
from exporter.schemes import QuantScheme
from exporter.static.moments import second_moments

CHANNEL = QuantScheme("s8", "int8", activations="static-int8", method="gptq")
ROUGH = QuantScheme("w4", "int4", group=16, symmetric=False, method="mse")


def error(weight, tensor, moments):
    """Mean square of what the outputs lose, over all rows."""
    lost = (weight - tensor.dequantized()).astype(np.float64)
    rows = len(weight) // len(moments)
    return sum(
        np.einsum("ri,ij,rj->", lost[i * rows : (i + 1) * rows], part, lost[i * rows : (i + 1) * rows])
        for i, part in enumerate(moments)
    )


@given(
    seed=st.integers(0, 10_000), parts=st.sampled_from([1, 2, 4]), scheme=st.sampled_from([CHANNEL, ROUGH])
)
def test_same_scales_and_less_error_of_the_output(seed, parts, scheme):
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((8, 32)).astype(np.float32)
    mixing = rng.standard_normal((parts, 32, 32))
    inputs = rng.standard_normal((parts, 400, 32)) @ mixing * rng.exponential(1, 32)
    moments = inputs.transpose(0, 2, 1) @ inputs / 400
    nearest = quantize(weight, scheme)
    found = rounded(weight, nearest, moments)
    assert (found.scales == nearest.scales).all()
    assert found.values.min() >= scheme.limits[0] and found.values.max() <= scheme.limits[1]
    assert error(weight, found, moments) < error(weight, nearest, moments)


def test_with_inputs_that_know_nothing_of_each_other_the_nearest_integers_are_best():
    weight = np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32)
    nearest = quantize(weight, CHANNEL)
    assert (rounded(weight, nearest, np.eye(16)[None] * 3.0).values == nearest.values).all()


def test_inputs_that_were_always_zero_do_no_harm():
    weight = np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32)
    nearest = quantize(weight, CHANNEL)
    assert (rounded(weight, nearest, np.zeros((2, 16, 16))).values == nearest.values).all()


def test_what_does_not_fit_is_refused():
    weight = np.ones((4, 16), np.float32)
    with pytest.raises(ValueError, match=r"^moments \(1, 8, 8\) for a weight of \(4, 16\)$"):
        rounded(weight, quantize(weight, CHANNEL), np.eye(8)[None])
    with pytest.raises(ValueError, match=r"^its inputs' second moments are not finite$"):
        rounded(weight, quantize(weight, CHANNEL), np.full((1, 16, 16), np.nan))


class Net(torch.nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.conv = torch.nn.Conv2d(4, 6, 3, stride=2, groups=2, **options)
        self.head = torch.nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.conv(x).mean((2, 3)))


def exported(net, x):
    return torch.export.export(net.eval(), (x,), strict=False)


def test_moments_give_the_layers_outputs():
    """A filter's mean squared output, without its bias, is w M wT: of each group's channels, padding included."""
    torch.manual_seed(0)
    net, samples = Net(padding=1), [(torch.randn(2, 4, 9, 9),) for _ in range(3)]
    found = second_moments(exported(net, samples[0][0]), ["conv", "head"], samples)
    assert {name: array.shape for name, array in found.items()} == {"conv": (2, 18, 18), "head": (1, 6, 6)}
    with torch.no_grad():
        outputs = torch.cat([net.conv(x) - net.conv.bias[:, None, None] for (x,) in samples])
    weight = net.conv.weight.detach().numpy().reshape(2, 3, 18).astype(np.float64)
    expected = np.einsum("gri,gij,grj->gr", weight, found["conv"], weight).reshape(-1)
    np.testing.assert_allclose(expected, (outputs.double() ** 2).mean((0, 2, 3)), rtol=1e-5)


def test_a_product_that_is_not_built_is_refused():
    net = torch.nn.Sequential(torch.nn.Conv1d(4, 6, 3))
    x = torch.randn(1, 4, 9)
    with pytest.raises(PlanError) as caught:
        second_moments(exported(net, x), ["0"], [(x,)])
    assert str(caught.value) == (
        "layer 0: method gptq is built for linear layers and conv2d with padding in numbers; set `method: mse` for it"
    )
