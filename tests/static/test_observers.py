"""Ranges from histograms: what each observer promises, on values of any kind."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from exporter.static.observers import (
    BINS,
    OBSERVERS,
    ChannelMeans,
    Extent,
    Histogram,
    minmax,
    mse,
    percentile,
    sample_warning,
    squared_error,
)
from exporter.static.params import (
    ValueParams,
    bias_correction,
    least_weight_scales,
    params_for,
    quantize_bias,
)

INT8 = (-128, 127)
VALUES = arrays.arrays(
    np.float32,
    st.integers(1, 200),
    elements=st.floats(-1000, 1000, width=32, allow_subnormal=False),
)
BOUND = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)


def counted(values: np.ndarray) -> Histogram:
    extent = Extent()
    extent.update(values)
    histogram = Histogram(extent)
    histogram.update(values)
    return histogram


@given(BOUND, BOUND, st.sampled_from([INT8, (0, 255), (-32768, 32767)]))
def test_zero_has_a_code_and_the_range_is_covered(a, b, limits):
    low, high = min(a, b), max(a, b)
    params = params_for(low, high, limits)
    assert params.low <= params.zero_point <= params.high
    assert params.values(params.codes(np.zeros(1, np.float32)))[0] == 0.0
    # The zero point is rounded, which moves the covered range by half a step at most; float32 does the rest.
    slack = params.scale * (0.5 + (limits[1] - limits[0]) * 2.0**-22)
    assert params.smallest - slack <= min(low, 0.0) and max(high, 0.0) <= params.largest + slack


@given(VALUES)
def test_rounding_to_codes_is_off_by_a_step_at_most(values):
    params = params_for(values.min(), values.max(), INT8)
    held = params.values(params.codes(values))
    # Half a step inside the covered range; at its ends the rounded zero point adds half a step.
    assert np.all(np.abs(held - values) <= params.scale * (1 + 1e-4))


@given(VALUES)
@settings(deadline=None)
def test_every_observer_stays_within_what_was_seen(values):
    histogram = counted(values)
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    width = (high - low) / BINS
    for name, observer in OBSERVERS.items():
        found = observer(histogram, INT8)
        assert low - width <= min(found[0], 0) and max(found[1], 0) <= high + width, name


@given(VALUES)
@settings(deadline=None)
def test_mse_never_loses_to_minmax_in_its_own_measure(values):
    histogram = counted(values)
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    covering = squared_error(histogram, params_for(low, high, INT8))
    assert squared_error(histogram, params_for(*mse(histogram, INT8), INT8)) <= covering


def test_a_single_outlier_is_cut_by_all_but_minmax():
    values = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
    values[0] = 100.0
    histogram = counted(values)
    assert minmax(histogram, INT8)[1] == 100.0
    # 99.99 % of a normal distribution lie within 3.9 standard deviations; a bin is 0.05 wide.
    assert 3.5 < percentile(histogram, INT8)[1] < 4.5
    assert 3.0 < mse(histogram, INT8)[1] < 90.0  # its square counts for much
    assert 3.0 < OBSERVERS["entropy"](histogram, INT8)[1] < 25.0


def test_the_order_of_samples_does_not_matter():
    values = np.random.default_rng(1).standard_normal((8, 500)).astype(np.float32)
    extent = Extent()
    for row in values:
        extent.update(row)
    forward, backward = Histogram(extent), Histogram(extent)
    for row in values:
        forward.update(row)
    for row in values[::-1]:
        backward.update(row)
    assert np.array_equal(forward.counts, backward.counts)
    assert forward.counts.sum() == values.size


def test_values_that_are_not_finite_are_refused():
    extent = Extent()
    with pytest.raises(ValueError, match=r"^2 values are not finite$"):
        extent.update(np.array([0.0, np.inf, np.nan], np.float32))


def test_a_value_that_is_always_zero():
    assert params_for(0.0, 0.0, INT8) == ValueParams(1.0, -128, -128, 127)
    for observer in OBSERVERS.values():
        assert observer(counted(np.zeros(10, np.float32)), INT8) == (0.0, 0.0)


def test_channel_means():
    values = np.random.default_rng(2).standard_normal((6, 3, 4, 5)).astype(np.float32)
    found = ChannelMeans(1)
    found.update(values[:2])
    found.update(values[2:])
    np.testing.assert_allclose(found.means, values.mean((0, 2, 3)), rtol=1e-5)


def test_bias_correction_restores_the_mean_of_the_output():
    rng = np.random.default_rng(3)
    weight = rng.standard_normal((6, 2, 3, 3)).astype(np.float32)  # 2 groups of 3 rows, 2 channels each
    held = weight + rng.standard_normal(weight.shape).astype(np.float32) * 0.1
    inputs = np.abs(rng.standard_normal(4)).astype(np.float32)  # a picture of one colour per channel
    shift = bias_correction(weight, held, inputs, 2)
    for row in range(6):
        own = inputs[2 * (row // 3) : 2 * (row // 3) + 2]
        lost = ((weight - held)[row].sum((1, 2)) * own).sum()
        assert shift[row] == pytest.approx(lost, rel=1e-5)


def test_a_bias_too_large_for_its_steps_is_named():
    with pytest.raises(ValueError) as caught:
        values = ValueParams(float(np.float32(1e-4)), 0, *INT8)
        quantize_bias(np.array([0.0, 1.0], np.float32), values, np.array([[1.0], [1e-4]], np.float32))
    assert str(caught.value) == (
        "bias[1] is 1, 100000009 steps of its scale 1e-08; at most 8,388,608 are exact"
    )


@given(
    st.floats(-1e3, 1e3, width=32, allow_subnormal=False),
    st.floats(2.0**-10, 2.0**10, width=32, allow_subnormal=False),
    st.floats(2.0**-10, 2.0**10, width=32, allow_subnormal=False),
)
def test_least_scales_leave_room_for_the_bias(bias, input_scale, output_scale):
    values, output = (
        ValueParams(float(np.float32(scale)), 0, *INT8) for scale in (input_scale, output_scale)
    )
    scales = least_weight_scales(np.array([bias], np.float32), values, output)
    assert scales[0] > 0
    codes, steps = quantize_bias(np.array([bias], np.float32), values, scales.reshape(1, 1))
    assert abs(float(codes[0]) * float(steps[0]) - bias) <= steps[0] / 2 * (1 + 1e-5)


def test_a_sample_too_small_is_said_with_the_number_that_is_needed():
    assert sample_warning("percentile", 20, 10_000) is None
    assert sample_warning("percentile", 20, 9_000) == (
        "calibration: observer percentile needs 200,000 values and has 180,000: 10 of them must lie beyond each end, "
        "which is 0.005 % of them. Set samples: 23, of data that hold as many"
    )
    assert sample_warning("minmax", 199, 1) is None
    assert sample_warning("minmax", 64, 10**9) == (
        "calibration: observer minmax needs 199 samples and has 64: with fewer, more than 1% of new inputs lie outside "
        "the range that was seen. Set samples: 199, of data that hold as many"
    )
    for observer in ("entropy", "mse"):
        assert sample_warning(observer, 2, 2048) == (
            f"calibration: observer {observer} needs 20,480 values and has 4,096: its histogram of 2,048 bins takes 10 "
            "values each. Set samples: 10, of data that hold as many"
        )
