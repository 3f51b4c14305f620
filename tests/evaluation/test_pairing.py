"""Intervals of paired differences: they cover what they should, and are not shown where they could not."""

import numpy as np
import pytest

from exporter.evaluation.pairing import FEWEST, own_interval, paired_interval
from exporter.parity.intervals import bootstrap_difference


def coverage(n: int, draw, truth: float, interval, trials: int = 400) -> float:
    """Share of repeated experiments whose interval holds the true mean difference."""
    rng = np.random.default_rng(1)
    held = 0
    for trial in range(trials):
        low, high = interval(*draw(rng, n), trial)
        held += low <= truth <= high
    return held / trials


def answers(rng, n):
    """Right with probability 0.5 in the float model; the files lose 30 % of those and win 10 % of the others."""
    right = rng.random(n) < 0.5
    files = np.where(right, rng.random(n) >= 0.3, rng.random(n) < 0.1)
    return right.astype(float), files.astype(float)


def bits(rng, n):
    """Skewed, as losses are, and shared between both."""
    shared = rng.exponential(2.0, n)
    return shared, shared + rng.exponential(0.1, n)


@pytest.mark.parametrize(("n", "least"), [(FEWEST, 0.89), (100, 0.92)])
@pytest.mark.parametrize(("draw", "truth"), [(answers, -0.10), (bits, 0.1)])
def test_intervals_cover_the_truth(n, least, draw, truth):
    covered = coverage(n, draw, truth, lambda a, b, seed: paired_interval(a, b, seed)[0])
    assert least <= covered <= 0.985


def test_fewer_items_would_cover_too_little():
    """Why FEWEST is what it is: of 5 items, whose resamples cannot reach far enough, one interval in six misses."""
    covered = coverage(5, bits, 0.1, lambda a, b, seed: bootstrap_difference(a, b, None, seed))
    assert covered < 0.88


def test_too_few_items_give_a_reason_and_no_interval():
    few = np.arange(FEWEST - 1, dtype=float)
    reason = "19 items are too few for an interval, 20 are the fewest"
    assert paired_interval(few, few + 1, 0) == (None, reason)
    assert own_interval(few, 0) == (None, reason)


def test_no_difference_says_what_may_have_been_missed():
    same = np.ones(59)
    interval, remark = paired_interval(same, same, 0)
    # 1 - 0.05^(1/59): 59 items without a difference exclude 5 %, the textbook case
    assert interval == pytest.approx((-0.0495, 0.0495), abs=5e-4)
    assert remark == "no item differs; the interval is what may have been missed"


def test_a_share_of_nothing_found_is_not_surely_nothing():
    interval, remark = own_interval(np.zeros(59), 0, np.full(59, 64.0), share=True)
    assert interval == pytest.approx((0, 0.0495), abs=5e-4)
    assert remark == "none was found; the interval is what may have been missed"


def test_weights_make_a_rate():
    reference, weights = np.full(30, 2.0), np.arange(1.0, 31.0)
    interval, _ = paired_interval(reference, reference + weights / 2, 0, weights)
    assert interval == pytest.approx((0.5, 0.5))  # each item differs by half of its weight
