"""Layer by layer: read a weight, quantise it, put the integers on disk. Memory stays near one layer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np

from exporter.errors import SourceError
from exporter.layers import LayerInfo
from exporter.numerics import FloatArray, QuantizedTensor, quantize
from exporter.schemes import QuantScheme


class WeightSource(Protocol):
    """Anything that gives a layer's float32 weight."""

    def weight(self, layer: LayerInfo) -> FloatArray:
        """(out, in) float32."""


class QuantizedStore:
    """Integers of a whole model in a folder, read back memory-mapped."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._schemes: dict[str, QuantScheme] = {}

    def save(self, name: str, tensor: QuantizedTensor) -> None:
        """Write one layer's arrays."""
        np.save(self._file(name, "values"), tensor.values)
        np.save(self._file(name, "scales"), tensor.scales)
        if tensor.zero_points is not None:
            np.save(self._file(name, "zero_points"), tensor.zero_points)
        self._schemes[name] = tensor.scheme

    def load(self, name: str) -> QuantizedTensor:
        """One layer's integers, mapped from disk."""
        scheme = self._schemes[name]
        zero_points = None if scheme.symmetric else np.load(self._file(name, "zero_points"))
        values = np.load(self._file(name, "values"), mmap_mode="r")
        return QuantizedTensor(values, np.load(self._file(name, "scales")), zero_points, scheme)

    def _file(self, name: str, part: str) -> Path:
        return self.folder / f"{name}.{part}.npy"


def quantize_layers(
    source: WeightSource,
    layers: Iterable[tuple[LayerInfo, QuantScheme]],
    store: QuantizedStore,
    progress: Callable[[str, float], None],
) -> None:
    """Quantise every layer whose scheme is not float; a tied layer has its owner's integers.

    Raises SourceError naming the layer whose weight is not finite.
    """
    work = [(layer, scheme) for layer, scheme in layers if not scheme.is_float and layer.tied_to is None]
    total = sum(layer.parameters for layer, _ in work)

    def one(item: tuple[LayerInfo, QuantScheme]) -> LayerInfo:
        layer, scheme = item
        try:
            store.save(layer.name, quantize(source.weight(layer), scheme))
        except ValueError as problem:
            raise SourceError(
                f"layer {layer.name}: {problem}; the checkpoint cannot be quantised"
            ) from problem
        return layer

    done = 0
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:  # NumPy releases the lock in its loops
        for layer in pool.map(one, work):
            done += layer.parameters
            progress(layer.name, done / total)
