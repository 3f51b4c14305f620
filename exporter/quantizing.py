"""Layer by layer: read a weight, quantise it, put the integers on disk. Memory stays near one layer's float
weight, mapped from its file, and the integers that are written, a block of rows after the other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np

from exporter.errors import SourceError
from exporter.layers import LayerInfo
from exporter.methods.gptq import Moments, rounded
from exporter.numerics import FloatArray, QuantizedTensor, check_finite, quantize
from exporter.rotation import rotated
from exporter.schemes import QuantScheme

_BLOCK_ELEMENTS = 1 << 22  # of a weight quantised at once; float32 copies of 16 MB


class WeightSource(Protocol):
    """Anything that gives a layer's float32 weight."""

    def weight(self, layer: LayerInfo) -> FloatArray:
        """(out, in) float32."""


class QuantizedStore:
    """Integers of a whole model in a folder, read back memory-mapped."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._schemes: dict[str, QuantScheme] = {}

    def expect(self, name: str, scheme: QuantScheme) -> None:
        """Let a layer be loaded that an earlier run wrote."""
        self._schemes[name] = scheme

    def save(self, name: str, tensor: QuantizedTensor) -> None:
        """Write one layer's arrays."""
        np.save(self._file(name, "values"), tensor.values)
        np.save(self._file(name, "scales"), tensor.scales)
        if tensor.zero_points is not None:
            np.save(self._file(name, "zero_points"), tensor.zero_points)
        self._schemes[name] = tensor.scheme

    def quantize(
        self, name: str, weight: FloatArray, scheme: QuantScheme, least: FloatArray | None = None
    ) -> None:
        """Quantise a (out, in) weight, as the model has it, and write its arrays; `least` and errors as of
        numerics.quantize."""
        step = max(1, _BLOCK_ELEMENTS // max(1, weight.shape[-1]))
        if scheme.group == "tensor" or weight.ndim != 2 or len(weight) <= step:
            self.save(name, quantize(_turned(weight, scheme), scheme, least))
            return
        file = self._file(name, "values")
        values = np.lib.format.open_memmap(file, mode="w+", dtype=np.int8, shape=weight.shape)
        scales, zero_points = [], []
        for start in range(0, len(weight), step):
            rows = None if least is None else least[start : start + step]
            block = quantize(_turned(_finite(weight, start, start + step), scheme), scheme, rows)
            values[start : start + step] = block.values
            scales.append(block.scales)
            if block.zero_points is not None:
                zero_points.append(block.zero_points)
        np.save(self._file(name, "scales"), np.concatenate(scales))
        if zero_points:
            np.save(self._file(name, "zero_points"), np.concatenate(zero_points))
        self._schemes[name] = scheme

    def load(self, name: str) -> QuantizedTensor:
        """One layer's integers, mapped from disk."""
        scheme = self._schemes[name]
        zero_points = None if scheme.symmetric else np.load(self._file(name, "zero_points"))
        values = np.load(self._file(name, "values"), mmap_mode="r")
        return QuantizedTensor(values, np.load(self._file(name, "scales")), zero_points, scheme)

    def _file(self, name: str, part: str) -> Path:
        return self.folder / f"{name}.{part}.npy"


def _finite(weight: FloatArray, start: int, stop: int) -> FloatArray:
    """Rows of a weight. Raises ValueError naming the element of the whole that is not finite."""
    block = np.ascontiguousarray(weight[start:stop], dtype=np.float32)
    check_finite(block, start)
    return block


def _turned(weight: FloatArray, scheme: QuantScheme) -> FloatArray:
    """What a scheme rounds."""
    return weight if scheme.rotate is None else rotated(weight, scheme.rotate)


def quantize_layers(
    source: WeightSource,
    layers: Iterable[tuple[LayerInfo, QuantScheme]],
    store: QuantizedStore,
    progress: Callable[[str, float], None],
    workers: int | None = None,
    least: Mapping[str, FloatArray] | None = None,
    moments: Mapping[str, Moments] | None = None,
) -> None:
    """Quantise every layer whose scheme is not float, `workers` at a time (None: one for each core); a tied
    layer has its owner's integers.

    `least`: layer -> the smallest scale of each row (exporter.static.params.least_weight_scales).
    `moments`: of the inputs of layers that are rounded by error (exporter.methods.gptq). Raises
    SourceError naming the layer whose weight is not finite.
    """
    work = [(layer, scheme) for layer, scheme in layers if not scheme.is_float and layer.tied_to is None]
    total = sum(layer.parameters for layer, _ in work)

    def one(item: tuple[LayerInfo, QuantScheme]) -> LayerInfo:
        layer, scheme = item
        try:
            weight = source.weight(layer)
            store.quantize(layer.name, weight, scheme, (least or {}).get(layer.name))
            if scheme.method == "gptq":
                store.save(layer.name, rounded(weight, store.load(layer.name), (moments or {})[layer.name]))
        except ValueError as problem:
            raise SourceError(
                f"layer {layer.name}: {problem}; the checkpoint cannot be quantised"
            ) from problem
        return layer

    done = 0
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:  # NumPy releases the lock in its loops
        for layer in pool.map(one, work):
            done += layer.parameters
            progress(layer.name, done / total)
