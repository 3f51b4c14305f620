"""The torch modules that stand in for planned layers while a model is traced for ExecuTorch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import executorch.exir.passes._quant_patterns_and_replacements  # noqa: F401  registers embedding_byte, embedding_4bit
import numpy as np
import torch
from numpy.typing import NDArray

from exporter.backends.executorch import capabilities, operators
from exporter.backends.executorch.delegates import packed_rows
from exporter.models.rotating import rotate
from exporter.models.skeleton import LayerFactory, PlannedLayer
from exporter.numerics import bf16_bits


class PlannedLinear(torch.nn.Module):
    """A linear layer whose integers stay in the plan; bias and scales too."""

    def __init__(self, layer: PlannedLayer) -> None:
        super().__init__()
        self.layer_name = layer.info.name
        self.out_features, self.in_features = layer.info.shape
        self.rotate = layer.scheme.rotate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, in) -> (…, out)."""
        result: torch.Tensor = operators.planned_linear(
            rotate(x, self.rotate), self.layer_name, self.out_features
        )
        return result


class PlannedEmbedding(torch.nn.Module):
    """An embedding table of 4 or 8 bits, dequantised row by row by ExecuTorch's quantised kernel.

    The int4 kernel reads the even element of a pair from the high nibble (weight_value in
    kernels/quantized/cpu/embeddingxb.cpp), XNNPACK from the low one. A table that a tied lm_head shares
    is packed XNNPACK's way, so that the file can hold it once, and the looked-up rows are put in order.
    """

    def __init__(self, layer: PlannedLayer, shared: bool) -> None:
        super().__init__()
        quantized = layer.load()
        self.layer_name = layer.info.name
        self.limits, self.rotate = quantized.scheme.limits, quantized.scheme.rotate
        self.four_bits = quantized.scheme.bits == 4
        table: NDArray[Any] = quantized.values
        if self.four_bits:
            table = packed_rows(table, None if shared else swap_pairs)
        self.table: torch.Tensor
        self.register_buffer("table", _share(table))
        scales = quantized.row_scales()  # (rows, groups)
        self.has_narrow_scales = capabilities.has_narrow_scales(quantized.scheme)
        if self.has_narrow_scales:
            self.register_buffer("scales", _share(bf16_bits(scales)).view(torch.bfloat16))
        else:
            self.register_buffer("scales", _share(scales))
        order = torch.arange(layer.info.shape[1]).reshape(-1, 2).flip(-1).reshape(-1)
        self.order: torch.Tensor | None
        self.register_buffer("order", order if shared and self.four_bits else None)
        zero_points = quantized.row_zero_points()
        self.register_buffer(
            "zero_points", None if zero_points is None else _share(zero_points.astype(np.float32))
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(batch, sequence) int64 -> (batch, sequence, features) float32."""
        ops = torch.ops.quantized_decomposed
        lookup = ops.embedding_4bit if self.four_bits else ops.embedding_byte
        arguments = (self.table, self.scales, self.zero_points, *self.limits, tokens)
        # Without a dtype the kernel gives rows of the scales' type.
        wide = {"dtype": torch.float32}
        rows: torch.Tensor = (
            lookup.dtype(*arguments, **wide) if self.has_narrow_scales else lookup(*arguments)
        )
        rows = rows if self.order is None else rows.index_select(-1, self.order)
        return rotate(rows, self.rotate)


def layer_factory(layers: Mapping[str, PlannedLayer]) -> LayerFactory:
    """Makes the module for a planned layer; capabilities.unsupported has let only these kinds through."""
    shared = {layer.info.tied_to for layer in layers.values()}

    def make(layer: PlannedLayer) -> torch.nn.Module:
        if layer.info.kind == "embedding":
            return PlannedEmbedding(layer, layer.info.name in shared)
        return PlannedLinear(layer)

    return make


def swap_pairs(values: NDArray[np.int8]) -> NDArray[np.int8]:
    """(rows, n) -> the same with elements 2j and 2j + 1 exchanged."""
    rows, columns = values.shape
    return values.reshape(rows, columns // 2, 2)[:, :, ::-1].reshape(rows, columns)


def _share(array: NDArray[np.generic]) -> torch.Tensor:
    """A tensor over the array's memory, which may be a read-only map of the integers on disk."""
    with warnings.catch_warnings():
        # torch warns that writing to a read-only array is undefined; nothing writes to a table.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        # Flattened and reshaped: NumPy leaves stride 0 on an axis of size 1, ExecuTorch refuses that.
        return torch.from_numpy(np.ascontiguousarray(array).reshape(-1)).reshape(array.shape)
