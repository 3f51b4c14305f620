"""Scales and integers by what a layer takes: each method in its own measure."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.methods import hqq
from exporter.methods.choosing import Seen, chosen
from exporter.methods.gptq import rounded, spread_of
from exporter.methods.scales import output_error, refitted
from exporter.numerics import QuantizedTensor, quantize, round_to_bf16
from exporter.schemes import QuantScheme

W4 = QuantScheme("w4", "int4", 16)
W8 = QuantScheme("w8", "int8", "channel")
TENSOR = QuantScheme("w8", "int8", "tensor")
ASYMMETRIC = QuantScheme("w4", "int4", 16, symmetric=False)


def layer(seed, rows=12, width=64):
    """A weight, and the second moments of inputs that go together and differ in power."""
    rng = np.random.default_rng(seed)
    inputs = (
        rng.standard_normal((500, width)) @ rng.standard_normal((width, width)) * rng.exponential(1, width)
    )
    return rng.standard_normal((rows, width)).astype(np.float32), inputs.T @ inputs / 500


def lost(weight, tensor, moments):
    """By its definition."""
    error = (weight - tensor.dequantized()).astype(np.float64)
    return np.einsum("ri,ij,rj->r", error, moments, error)


@given(seed=st.integers(0, 10_000), scheme=st.sampled_from([W4, W8, TENSOR, ASYMMETRIC]))
def test_the_error_of_outputs_is_what_its_definition_says(seed, scheme):
    weight, moments = layer(seed)
    tensor = quantize(weight, scheme)
    assert np.allclose(output_error(weight, tensor, moments), lost(weight, tensor, moments), rtol=1e-3)


@given(seed=st.integers(0, 10_000), scheme=st.sampled_from([W4, W8]))
def test_refitted_scales_are_the_least_squares_ones(seed, scheme):
    weight, moments = layer(seed)
    tensor = quantize(weight, scheme)
    moved = QuantizedTensor(tensor.values, round_to_bf16(tensor.scales * np.float32(1.2)), None, scheme)
    found = refitted(weight, moved, moments)
    assert (found.values == tensor.values).all()
    assert (round_to_bf16(found.scales) == found.scales).all()
    root = np.linalg.cholesky(moments).T  # |root (w - Q s)|^2 is the error
    groups = tensor.scales.shape[1]
    for row in range(len(weight)):
        codes = np.zeros((weight.shape[1], groups))
        for group, values in enumerate(tensor.values[row].reshape(groups, -1)):
            codes[group * len(values) : (group + 1) * len(values), group] = values
        best = np.linalg.lstsq(root @ codes, root @ weight[row].astype(np.float64), rcond=None)[0]
        near = (best > moved.scales[row] / 1.4) & (best < moved.scales[row] * 1.4)
        assert np.allclose(found.scales[row][near], best[near], rtol=2**-8 + 1e-3)


@given(seed=st.integers(0, 10_000), scheme=st.sampled_from([W4, W8, ASYMMETRIC]))
def test_weighing_by_power_loses_less_of_the_outputs_where_inputs_do_not_go_together(seed, scheme):
    weight, moments = layer(seed)
    power = np.diag(np.diag(moments))
    seen = Seen(power, spread_of(power))
    plain = chosen(weight, scheme, seen).errors["mse"]
    from dataclasses import replace

    weighed = chosen(weight, replace(scheme, method="wmse"), seen).errors["wmse"]
    assert weighed <= plain * (1 + 1e-6)


@given(seed=st.integers(0, 10_000), scheme=st.sampled_from([W4, W8, TENSOR]))
def test_auto_takes_the_least_of_all(seed, scheme):
    from dataclasses import replace

    weight, moments = layer(seed)
    seen = Seen(moments, spread_of(moments))
    found = chosen(weight, replace(scheme, method="auto"), seen)
    assert set(found.errors) == {"mse", "wmse", "gptq"} | ({"hqq"} if scheme.group != "tensor" else set())
    assert found.errors[found.method] == min(found.errors.values())
    whole = np.einsum("ri,ij,rj->", weight, moments, weight)
    assert lost(weight, found.tensor, moments).sum() / whole == pytest.approx(
        found.errors[found.method], rel=1e-3
    )
    assert found.tensor.scheme.method == "auto"


@given(seed=st.integers(0, 10_000))
def test_refits_never_lose_to_gptq_alone(seed):
    from dataclasses import replace

    weight, moments = layer(seed)
    seen = Seen(moments, spread_of(moments))
    alone = rounded(weight, quantize(weight, replace(W4, method="wmse"), power=seen.power), moments[None])
    found = chosen(weight, replace(W4, method="gptq"), seen)
    assert (lost(weight, found.tensor, moments) <= lost(weight, alone, moments) * (1 + 1e-3)).all()


def test_rounding_in_batches_of_columns_is_rounding_one_by_one():
    """Against the algorithm as the paper has it, column by column over the whole rest."""
    weight, moments = layer(3, rows=5, width=80)
    scheme = QuantScheme("w4", "int4", 16)
    tensor = quantize(weight, scheme)
    spread = spread_of(moments)
    scales = np.repeat(tensor.scales, 16, axis=1)
    left, codes = weight[:, spread.order].astype(np.float64), np.empty(weight.shape)
    for column, source in enumerate(spread.order):
        codes[:, source] = np.clip(np.rint(left[:, column] / scales[:, source]), -8, 7)
        error = (left[:, column] - codes[:, source] * scales[:, source]) / spread.factor[column, column]
        left[:, column:] -= error[:, None] * spread.factor[column, column:]
    same = rounded(weight, tensor, moments[None]).values == codes
    assert same.mean() > 0.99  # a tie may fall the other way in float32, and what follows with it


@given(seed=st.integers(0, 10_000), scheme=st.sampled_from([W4, W8, ASYMMETRIC]))
def test_hqq_never_loses_to_the_search_in_its_own_measure(seed, scheme):
    rng = np.random.default_rng(seed)
    weight = rng.standard_t(3, (8, 64)).astype(np.float32)  # heavy tails
    size = weight.shape[1] // scheme.groups(64)

    def cost(tensor):
        groups = np.abs(weight - tensor.dequantized()).reshape(8, -1, size)
        return np.power(groups / np.abs(weight).reshape(8, -1, size).mean(axis=2, keepdims=True), 0.7).sum(
            axis=2
        )

    found, searched = hqq.quantized(weight, scheme), quantize(weight, scheme)
    assert (cost(found) <= cost(searched) * (1 + 1e-5)).all()
    assert (round_to_bf16(found.scales) == found.scales).all()


def test_hqq_wants_a_scale_for_each_row():
    with pytest.raises(
        ValueError, match=r"^method hqq fits a scale for each group or channel; set group: channel, or"
    ):
        hqq.quantized(np.ones((4, 16), np.float32), TENSOR)


def test_moments_that_cannot_be_used():
    with pytest.raises(ValueError, match=r"^its inputs' second moments are not finite$"):
        spread_of(np.full((4, 4), np.inf))
    assert spread_of(np.zeros((4, 4))) is None
    rank_one = np.ones((8, 1)) @ np.ones((1, 8))  # singular: dampening makes it regular
    assert np.isfinite(spread_of(rank_one).factor).all()
