"""What each layer loses: in its weights, and in its output inside the whole model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from exporter.models.causal_lm import CausalLM
from exporter.models.reference import BLOCK_ELEMENTS, own_rows
from exporter.models.skeleton import PlannedLayer
from exporter.numerics import QuantizedTensor
from exporter.parity import LayerError

Arrays = Mapping[str, NDArray[np.float32]]


def layer_errors(
    model: CausalLM, layers: Mapping[str, PlannedLayer], exact: Arrays, found: Arrays
) -> tuple[LayerError, ...]:
    """One for each planned layer, in network order; `exact` and `found` are outputs by layer name."""
    weights: dict[str, float] = {}  # a tied layer has its owner's
    for name, layer in layers.items():
        owner = layer.info.tied_to or name
        if owner not in weights:
            weights[owner] = weight_sqnr_db(partial(model.weight, layer.info), layer.load())
    return tuple(
        LayerError(
            name, layer.scheme.bits, weights[layer.info.tied_to or name], sqnr_db(exact[name], found[name])
        )
        for name, layer in layers.items()
    )


def sqnr_db(exact: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Signal to quantisation noise, 10 log10(sum exact^2 / sum (exact - found)^2), in dB."""
    return _decibel(*_powers(torch.from_numpy(exact), torch.from_numpy(found)))


def weight_sqnr_db(weight: Callable[[], NDArray[np.float32]], tensor: QuantizedTensor) -> float:
    """sqnr_db of what the integers stand for, a block of rows at a time; `weight` maps the (out, in) float32
    anew for each, since what was read of a mapping counts as memory."""
    signal = noise = 0.0
    rows, columns = tensor.values.shape
    step = max(1, BLOCK_ELEMENTS // columns)
    for start in range(0, rows, step):
        part = slice(start, start + step)
        powers = _powers(torch.from_numpy(weight()[part]), own_rows(tensor, part))
        signal, noise = signal + powers[0], noise + powers[1]
    return _decibel(signal, noise)


def _powers(exact: torch.Tensor, found: torch.Tensor) -> tuple[float, float]:
    """Sums of squares in float64. The difference is rounded once, to a relative 2^-24."""
    return _power(exact), _power(exact - found)


def _power(x: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(x, dtype=torch.float64)) ** 2


def _decibel(signal: float, noise: float) -> float:
    if noise == 0.0:
        return float("inf")
    return float(10 * np.log10(signal / noise)) if signal > 0 else float("-inf")
