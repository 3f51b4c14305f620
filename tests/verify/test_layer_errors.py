"""What a layer loses, against closed forms."""

import math

import numpy as np
import pytest

from exporter.models import reference
from exporter.numerics import quantize
from exporter.schemes import QuantScheme
from exporter.verify import layer_errors
from exporter.verify.layer_errors import sqnr_db, weight_sqnr_db


def test_signal_over_noise():
    exact = np.array([[3.0, 4.0]], np.float32)
    assert sqnr_db(exact, exact + np.float32(0.5)) == pytest.approx(10 * math.log10(25 / 0.5))
    assert sqnr_db(exact, exact) == math.inf
    assert sqnr_db(0 * exact, exact) == -math.inf


@pytest.mark.parametrize("bits", ["int4", "int8"])
def test_blocks_of_a_weight_add_up(bits, monkeypatch):
    weight = np.random.default_rng(0).normal(size=(50, 64)).astype(np.float32)
    tensor = quantize(weight, QuantScheme("w", bits, 32, True, "dynamic-int8", "rtn"))
    error = weight.astype(np.float64) - tensor.dequantized()
    expected = 10 * np.log10(np.square(weight, dtype=np.float64).sum() / np.square(error).sum())
    for block in (reference.BLOCK_ELEMENTS, 7 * 64):
        monkeypatch.setattr(layer_errors, "BLOCK_ELEMENTS", block)
        # each difference is rounded once, to 2^-24 of itself: less than 2^-23 of the noise's power
        assert weight_sqnr_db(lambda: weight, tensor) == pytest.approx(
            expected, abs=20 * math.log10(1 + 2**-23)
        )
