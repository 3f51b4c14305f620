"""Quantising to disk: blocks of rows give what the whole gives, and an error names the element of the whole."""

import numpy as np
import pytest

from exporter import quantizing
from exporter.errors import SourceError
from exporter.layers import LayerInfo
from exporter.numerics import quantize
from exporter.quantizing import QuantizedStore, quantize_layers
from exporter.schemes import QuantScheme

SCHEMES = [
    QuantScheme("a", "int4", 32, True, "dynamic-int8", "mse"),
    QuantScheme("b", "int4", 32, False, "float", "rtn"),
    QuantScheme("c", "int8", "channel", True, "dynamic-int8", "mse"),
    QuantScheme("d", "int8", "tensor", True, "float", "rtn"),
]


class Weights:
    def __init__(self, **weights):
        self.weights = weights

    def weight(self, layer):
        return self.weights[layer.name]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """100 rows of 64 become blocks of 31, 31, 31 and 7."""
    monkeypatch.setattr(quantizing, "_BLOCK_ELEMENTS", 2000)


@pytest.fixture
def table():
    return np.random.default_rng(0).normal(size=(100, 64)).astype(np.float32)


def stored(store, weights, scheme, workers=None):
    layers = [(LayerInfo(name, "linear", weight.shape), scheme) for name, weight in weights.items()]
    shares = []
    quantize_layers(Weights(**weights), layers, store, lambda name, share: shares.append(share), workers)
    return shares


@pytest.mark.parametrize("scheme", SCHEMES, ids=QuantScheme.describe)
def test_blocks_give_what_the_whole_gives(scheme, table, tmp_path):
    store = QuantizedStore(tmp_path)
    stored(store, {"table": table}, scheme)
    found, whole = store.load("table"), quantize(table, scheme)
    np.testing.assert_array_equal(found.values, whole.values)
    np.testing.assert_array_equal(found.scales, whole.scales)
    assert (found.zero_points is None) == (whole.zero_points is None)
    if whole.zero_points is not None:
        np.testing.assert_array_equal(found.zero_points, whole.zero_points)


@pytest.mark.parametrize("workers", [1, 3, None])
def test_the_number_of_workers_changes_nothing(workers, table, tmp_path):
    store = QuantizedStore(tmp_path)
    weights = {f"layer{index}": table + index for index in range(5)}
    shares = stored(store, weights, SCHEMES[0], workers)
    assert shares == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    for name, weight in weights.items():
        np.testing.assert_array_equal(store.load(name).values, quantize(weight, SCHEMES[0]).values)


def test_an_element_that_is_not_finite_is_named_in_the_whole(table, tmp_path):
    table[70, 5] = np.inf
    with pytest.raises(SourceError) as error:
        stored(QuantizedStore(tmp_path), {"table": table}, SCHEMES[0])
    assert str(error.value) == "layer table: weight[70, 5] is inf; the checkpoint cannot be quantised"
