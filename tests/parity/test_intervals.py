"""Paired intervals and McNemar's test, against theory and scipy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.stats import binomtest

from exporter.parity.intervals import FEWEST, bootstrap_difference, mcnemar

RESULTS = arrays.arrays(np.float64, st.integers(FEWEST, 60), elements=st.sampled_from([0.0, 0.5, 1.0, 3.0]))


@given(RESULTS, st.integers(0, 5))
def test_no_difference_has_no_width(values, seed):
    assert bootstrap_difference(values, values, seed=seed) == (0.0, 0.0)


@given(RESULTS, st.floats(-2, 2))
def test_a_constant_difference_has_no_width(values, shift):
    low, high = bootstrap_difference(values, values + shift)
    assert low == pytest.approx(shift, abs=1e-12) and high == pytest.approx(shift, abs=1e-12)


@given(RESULTS, st.randoms(use_true_random=False))
def test_the_interval_lies_between_the_extremes(values, random):
    other = np.array([random.choice([0.0, 1.0, 2.0]) for _ in values])
    low, high = bootstrap_difference(values, other)
    difference = other - values
    assert difference.min() <= low <= high <= difference.max()
    assert bootstrap_difference(values, other) == (low, high)  # the same seed
    swapped = bootstrap_difference(other, values)
    np.testing.assert_allclose(swapped, (-high, -low), atol=1e-12)


def test_it_holds_the_truth_as_often_as_it_says():
    """95 % of 200 intervals: a binomial of standard deviation 3.1, and a percentile interval of 80 values is a
    little short; 90 % is over four deviations away from 95 %."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        a = rng.normal(size=80)
        b = a + rng.normal(0.3, 1.0, size=80)
        low, high = bootstrap_difference(a, b)
        hits += low <= 0.3 <= high
    assert 180 <= hits <= 200


def test_pairing_takes_the_examples_own_spread_out():
    rng = np.random.default_rng(0)
    hard = rng.normal(scale=10, size=200)  # the same for both
    low, high = bootstrap_difference(hard, hard + rng.normal(0.5, 0.1, 200))
    assert 0.45 < low < high < 0.55


def test_rates_weigh_by_length():
    errors, more, words = (
        np.array([0.0] * 9 + [1.0]),
        np.array([0.0] * 9 + [2.0]),
        np.array([10.0] * 9 + [1000.0]),
    )
    low, high = bootstrap_difference(errors, more, words)
    assert (
        0.0 == low < high <= 1 / 1000 * 1.01
    )  # one more error in the long clip, however often that is drawn


def test_too_few_and_unequal():
    assert bootstrap_difference(np.zeros(FEWEST - 1), np.ones(FEWEST - 1)) is None
    with pytest.raises(ValueError, match=r"^5 reference results, 6 of the candidate$"):
        bootstrap_difference(np.zeros(5), np.zeros(6))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=80))
def test_mcnemar_is_the_binomial_test(pairs):
    a, b = (np.array(side, bool) for side in (zip(*pairs, strict=True) if pairs else ((), ())))
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    expected = binomtest(only_a, only_a + only_b, 0.5).pvalue if only_a + only_b else 1.0
    assert mcnemar(a, b) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(b, a) == mcnemar(a, b)
