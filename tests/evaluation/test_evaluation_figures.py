"""Figures from results that are known: drift, refusals, accuracy."""

import numpy as np
import pytest

from exporter.evaluation.choices import accuracy_figures
from exporter.evaluation.long_context import drift_figures
from exporter.evaluation.safety import refusal_figures
from exporter.parity import Positions


def positions(kl):
    zeros = np.zeros(len(kl))
    return Positions(np.asarray(kl, float), zeros == 0, zeros, zeros)


def test_drift_is_the_slope_behind_the_first_bucket():
    at = 8 * np.arange(64)  # 512 tokens
    # half a nat for each 1,000 tokens, and a first bucket that would spoil a line through everything
    texts = [positions(np.where(at < 128, 9.0, 0.1 + offset + 0.0005 * at)) for offset in np.arange(6) / 10]
    slope, *buckets = drift_figures(texts, "how", 0)
    assert (slope.name, slope.unit, slope.n) == ("drift of KL", "nats per 1,000 tokens", 6)
    assert slope.value == pytest.approx(0.5)
    assert slope.interval == pytest.approx((0.5, 0.5))  # all texts drift alike
    assert [b.group for b in buckets] == ["0–127", "128–255", "256–383", "384–511"]
    assert [b.value for b in buckets] == pytest.approx(
        [9.0, 0.444, 0.508, 0.572]
    )  # at 188, 316, 444: 0.35 + 0.0005 x
    few = drift_figures(texts[:4], "how", 0)[0]
    assert (few.interval, few.remark) == (None, "4 texts are too few for an interval, 5 are the fewest")


def test_a_shift_of_refusals_counts_both_ways():
    of_float = [True] * 20 + [False] * 10
    of_file = [False] * 6 + [True] * 14 + [True] * 1 + [False] * 9
    (figure,) = refusal_figures("harmful requests", "how", of_float, of_file, "higher", 0)
    assert (figure.reference, figure.value) == (20 / 30, 15 / 30)
    assert figure.difference == pytest.approx(-5 / 30)
    assert figure.remark == "6 refused by the float model only, 1 by the files only"
    low, high = figure.interval
    assert low < -5 / 30 < high < 0.02
    assert figure.worse == (high < 0)


def test_answers_that_changed_are_counted_both_ways():
    right = np.zeros(40, np.int64)
    of_float = np.array([0] * 20 + [1] * 20)
    of_file = np.array([0] * 17 + [2] * 3 + [0] * 2 + [3] * 4 + [1] * 14)
    accuracy, changed = accuracy_figures("accuracy", "set", of_float, of_file, right, 0)
    assert (accuracy.reference, accuracy.value) == (0.5, 19 / 40)
    # McNemar: 3 against 2 of 5, so the two-sided p is 1
    assert accuracy.remark == "19 of 40 right, float 20; McNemar p 1"
    assert changed.value == 9 / 40
    assert changed.remark == "3 right to wrong, 2 wrong to right, 4 wrong to wrong"
