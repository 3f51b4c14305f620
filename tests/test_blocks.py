"""Scales of blocks as whole steps of their row's."""

from __future__ import annotations

import re

import numpy as np
import pytest

from exporter.backends.base import PackedLayer, unpacked
from exporter.blocks import coarsest, in_thirty_twos, split, stepped
from exporter.numerics import quantize, round_to_bf16
from exporter.schemes import QuantScheme

SCHEME = QuantScheme("b", "int4", 32, activations="static-int16")


def test_every_block_has_a_whole_sixteenth_of_the_largest_scale():
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((64, 256)) * rng.uniform(0.01, 1, (64, 1))).astype(np.float32)
    weight[:, :32] *= 0.01  # less than a sixteenth of the others
    weight[3, 64:96] = 0
    weight[4] = 0
    found = quantize(weight, SCHEME)
    steps, rows = split(found.scales)
    assert steps.min() == 1 and (steps.max(axis=1) == 16).all()
    assert np.array_equal(rows, round_to_bf16(rows))
    assert np.array_equal(steps * rows[:, None], found.scales)
    assert (steps[:, 0] == 1)[np.arange(64) != 4].all() and steps[3, 2] == 1
    error = np.abs(weight - found.dequantized())
    free = np.abs(weight - quantize(weight, QuantScheme("f", "int4", 32)).dequantized())
    assert np.square(error).sum() < 1.15 * np.square(free).sum()


def test_a_row_has_at_least_the_scale_that_its_sums_need():
    weight = np.full((2, 64), 1e-6, np.float32)
    least = np.array([0, 1e-3], np.float32)
    _, rows = split(quantize(weight, SCHEME, least).scales)
    assert rows[0] < 1e-6 and rows[1] >= 1e-3


def test_largest_has_sixteen_steps_where_the_least_is_above_all():
    found = stepped(np.array([[0.5, 0.25]], np.float32), np.array([[1.0]], np.float32))
    assert found.tolist() == [[16.0, 1.0]]


def test_other_scales_are_refused():
    scales = np.array([[1.0, 0.5], [0.3, 1.0]], np.float32)
    message = (
        "block 0 of row 1 has scale 0.3, 4.8 sixteenths of the row's largest; "
        "blocks have whole sixteenths, 1 to 16"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        split(scales)
    with pytest.raises(ValueError, match=r"^block 1 of row 0 has scale 0\.01, 0\.16 sixteenths"):
        split(np.array([[1.0, 0.01]], np.float32))


def test_coarser_groups_are_handed_over_as_thirty_twos_and_found_again():
    scales = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    fine = in_thirty_twos(scales, 3 * 128)
    assert fine.shape == (2, 12)
    assert np.array_equal(fine[:, 3:5], scales[:, :2])
    assert np.array_equal(coarsest(fine), scales)
    packed = PackedLayer(
        "l", 4, 64, np.zeros((2, 128), np.int8), np.ones((2, 2), np.float32), None, 0
    )  # of four blocks, each two alike
    assert unpacked(packed, SCHEME).scales.shape == (2, 4)
    with pytest.raises(ValueError, match=r"^groups of 16 are no multiples of 32$"):
        in_thirty_twos(scales, 3 * 16)
