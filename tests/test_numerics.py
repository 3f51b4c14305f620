"""Rounding, scales and packing. Bounds come from rounding theory: a nearest code errs by at most half a step."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from exporter.numerics import (
    QuantizedTensor,
    canonical_granularity,
    pack_int4,
    quantize,
    round_to_bf16,
    unpack_int4,
)
from exporter.schemes import GROUP_SIZES, QuantScheme

GROUPS = (*GROUP_SIZES, "channel", "tensor")
SCHEMES = [
    QuantScheme("s", weights, group, symmetric=symmetric, method=method)
    for weights in ("int4", "int8")
    for group in GROUPS
    for symmetric in (True, False)
    for method in ("rtn", "mse")
]
FINITE = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)


def weights(rows: int = 5, columns: int = 128, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_bf16_rounding_is_nearest_even(x):
    bits = np.float32(x).view(np.uint32)
    below, above = bits & np.uint32(0xFFFF0000), (bits & np.uint32(0xFFFF0000)) + np.uint32(0x10000)
    low, high = (np.uint32(b).view(np.float32).astype(np.float64) for b in (below, above))
    if not np.isfinite(high):
        return
    got = float(round_to_bf16(np.array([x], np.float32))[0])
    if abs(x - low) == abs(high - x):
        assert got == (low if not (below >> 16) & 1 else high)
    else:
        assert got == (low if abs(x - low) < abs(high - x) else high)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: f"{s.describe()}-{s.method}")
def test_scales_are_bf16_and_codes_in_range(scheme):
    tensor = quantize(weights(), scheme)
    low, high = scheme.limits
    assert tensor.values.dtype == np.int8 and tensor.values.min() >= low and tensor.values.max() <= high
    assert np.array_equal(round_to_bf16(tensor.scales), tensor.scales)
    assert (tensor.scales > 0).all()


@pytest.mark.parametrize("scheme", [s for s in SCHEMES if s.method == "rtn"], ids=QuantScheme.describe)
@settings(max_examples=25, deadline=None)
@given(weight=hnp.arrays(np.float32, (3, 128), elements=FINITE))
def test_rtn_errs_by_half_a_step(scheme, weight):
    """A scale just covers its group, so nothing is clipped but by the scale's own rounding to bf16,
    which is at most 2**-9 of the largest code; an asymmetric zero point adds another half step."""
    tensor = quantize(weight, scheme)
    error = np.abs(tensor.dequantized() - weight).reshape(
        tensor.scales.shape[0] if scheme.group != "tensor" else 1, tensor.scales.shape[1], -1
    )
    low, high = scheme.limits
    steps = 0.5 + max(-low, high, high - low) * 2.0**-8 + (0.0 if scheme.symmetric else 0.5)
    assert (error <= tensor.scales[:, :, None] * steps * 1.0001 + 1e-30).all()


def weighted_error(weight, scheme):
    """What the search minimises, per group of 32: squared error times squared weight."""
    exact = weight.astype(np.float64)
    residual = (quantize(weight, scheme).dequantized() - exact) * exact
    return (residual.reshape(len(weight), -1, 32) ** 2).sum(axis=2)


@pytest.mark.parametrize("weights_name", ["int4", "int8"])
@pytest.mark.parametrize("symmetric", [True, False])
@settings(max_examples=25, deadline=None)
@given(weight=hnp.arrays(np.float32, (2, 64), elements=FINITE))
def test_search_never_loses_to_rtn(weights_name, symmetric, weight):
    """The search tries RTN's own scale too, group by group. Slack: float32 sums of 32 products."""
    rtn, mse = (
        weighted_error(weight, QuantScheme("s", weights_name, 32, symmetric=symmetric, method=method))
        for method in ("rtn", "mse")
    )
    assert (mse <= rtn * (1 + 1e-4) + 1e-30).all()


def test_search_gains_on_gaussian_groups():
    """The 16 codes of a symmetric scheme are lopsided (-8 to 7), so covering a group leaves room to gain."""
    sample = weights(64, 4096)
    rtn, mse = (weighted_error(sample, QuantScheme("s", "int4", 32, method=m)).mean() for m in ("rtn", "mse"))
    assert mse < 0.9 * rtn


def test_weights_on_a_grid_come_back_exactly():
    """Codes times a bf16 scale are representable, so quantising them again must lose nothing."""
    rng = np.random.default_rng(1)
    codes = rng.integers(-8, 8, (4, 64)).astype(np.float32)
    codes[:, ::32] = -8  # the whole range is used in every group
    scales = round_to_bf16(rng.uniform(0.01, 1, (4, 2)).astype(np.float32))
    weight = (codes.reshape(4, 2, 32) * scales[:, :, None]).reshape(4, 64)
    tensor = quantize(weight, QuantScheme("s", "int4", 32))
    assert np.array_equal(tensor.dequantized(), weight)
    assert np.array_equal(tensor.values, codes.astype(np.int8))
    assert np.array_equal(tensor.scales, scales)


def test_rows_do_not_depend_on_each_other():
    """Chunks are an implementation detail: a row alone gives the row's integers."""
    sample = weights(700, 512)
    scheme = QuantScheme("s", "int4", 64, symmetric=False)
    whole = quantize(sample, scheme)
    alone = quantize(sample[333:334], scheme)
    assert np.array_equal(whole.values[333], alone.values[0])
    assert np.array_equal(whole.scales[333], alone.scales[0])


def test_zero_rows_stay_zero():
    for symmetric in (True, False):
        tensor = quantize(np.zeros((2, 32), np.float32), QuantScheme("s", "int4", 32, symmetric=symmetric))
        assert not tensor.dequantized().any() and (tensor.scales > 0).all()


@pytest.mark.parametrize(
    ("weight", "scheme", "message"),
    [
        (np.array([[1, np.nan]], np.float32), QuantScheme("s", "int8"), r"weight[0, 1] is nan"),
        (
            np.zeros((2, 48), np.float32),
            QuantScheme("s", "int4", 32),
            "group 32 does not divide the 48 input features",
        ),
        (
            np.zeros((2, 2, 2), np.float32),
            QuantScheme("s", "int8"),
            "a weight of shape (2, 2, 2) is not (out, in)",
        ),
    ],
)
def test_refuses(weight, scheme, message):
    with pytest.raises(ValueError) as error:
        quantize(weight, scheme)
    assert str(error.value) == message


@given(hnp.arrays(np.int8, (3, 8), elements=st.integers(-8, 7)))
def test_nibbles_round_trip(values):
    assert np.array_equal(unpack_int4(pack_int4(values)), values)


def test_nibbles_exact_bytes():
    assert pack_int4(np.array([-8, 7, 0, 1], np.int8)).tolist() == [0xF0, 0x98]


def test_hashes_are_over_plain_arrays():
    tensor = quantize(weights(), QuantScheme("s", "int8"))
    assert tensor.integers_sha256 == hashlib.sha256(tensor.values.tobytes()).hexdigest()
    assert tensor.scales_sha256 == hashlib.sha256(tensor.scales.astype("<f4").tobytes()).hexdigest()


@pytest.mark.parametrize("group", GROUPS)
def test_canonical_granularity_undoes_repetition(group):
    tensor = quantize(weights(6, 256), QuantScheme("s", "int4", group))
    blocks = (
        np.repeat(tensor.row_scales(), 256 // 16 // tensor.scales.shape[1], axis=1)
        if isinstance(group, str)
        else tensor.row_scales()
    )
    scales, zero_points, found = canonical_granularity(blocks, None, 256)
    assert found == group and zero_points is None
    assert np.array_equal(scales, tensor.scales)


def test_shapes_are_checked():
    scheme = QuantScheme("s", "int8")
    with pytest.raises(ValueError, match=r"scales \(2, 2\) for values \(2, 4\), expected \(2, 1\)"):
        QuantizedTensor(np.zeros((2, 4), np.int8), np.ones((2, 2), np.float32), None, scheme)
    with pytest.raises(ValueError, match="zero points belong to asymmetric schemes"):
        QuantizedTensor(
            np.zeros((2, 4), np.int8), np.ones((2, 1), np.float32), np.zeros((2, 1), np.int8), scheme
        )
