"""The estimate of energy, by hand."""

import pytest

from exporter.evaluation.energy import energy_per_token


def test_bytes_and_products_are_added_up():
    # 1e9 bytes: 162.5 to 325 mJ; 1e9 products of int8: 0.3 mJ; 1e8 of float32: 0.46 mJ
    energy = energy_per_token(1e9, 1e9, 1e8)
    assert energy.least == pytest.approx(162.5 + 0.3 + 0.46)
    assert energy.most == pytest.approx(325 + 0.3 + 0.46)
    assert energy.middle == pytest.approx(243.75 + 0.76)
