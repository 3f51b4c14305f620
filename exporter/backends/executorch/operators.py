"""One operator stands for one quantised linear layer through the whole of ExecuTorch's lowering.

`qexport::planned_linear(x, layer)` carries the layer's module path and no weight, so that the many
passes over the graph see one node per layer and no integers; the delegate's visitor (xnnpack.py)
fetches the integers from the plan at the moment it writes them. Its CPU kernel is the reference of
what XNNPACK computes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from exporter.errors import LoweringError
from exporter.layers import LayerInfo
from exporter.models.activations import fake_quantize_activations
from exporter.models.skeleton import PlannedLayer
from exporter.numerics import QuantizedTensor

NAMESPACE = "qexport"
_SEPARATOR, _ROWS = "|", "="  # "a.q_proj=576|a.k_proj=192": the name of a layer that joins others

_layers: dict[str, PlannedLayer] = {}


@contextmanager
def planned_layers(layers: Mapping[str, PlannedLayer]) -> Iterator[None]:
    """Make the layers known to `qexport::planned_linear` while a model is lowered or run in PyTorch."""
    if _layers:
        raise LoweringError("another model is being lowered in this process; lower one after the other")
    _layers.update(layers)
    try:
        yield
    finally:
        _layers.clear()


def planned_layer(name: str) -> PlannedLayer:
    """The layer of that module path, within planned_layers()."""
    return _layers[name]


def planned_names() -> tuple[str, ...]:
    """Module paths of all layers known, within planned_layers()."""
    return tuple(_layers)


def join_layers(names: Sequence[str]) -> tuple[str, list[int]]:
    """Make known, within planned_layers(), a layer with the rows of all; its name and the rows of each.

    The layers have the same bits, group (or a scale for each row) and activations.
    """
    members = [planned_layer(name) for name in names]
    rows = [member.info.shape[0] for member in members]
    name = _SEPARATOR.join(f"{name}{_ROWS}{count}" for name, count in zip(names, rows, strict=True))
    scheme = members[0].scheme
    if scheme.group == "tensor":
        scheme = replace(scheme, group="channel")

    def load() -> QuantizedTensor:
        parts = [member.load() for member in members]
        values = np.concatenate([part.values for part in parts])
        return QuantizedTensor(values, np.concatenate([part.row_scales() for part in parts]), None, scheme)

    bias = None
    if any(member.bias is not None for member in members):
        zeros = [torch.zeros(count) for count in rows]
        biases = [z if member.bias is None else member.bias for z, member in zip(zeros, members, strict=True)]
        bias = torch.cat([part.detach() for part in biases])
    info = LayerInfo(name, "linear", (sum(rows), members[0].info.shape[1]))
    _layers[name] = PlannedLayer(info, scheme, load, bias)
    return name, rows


def spoken(name: str) -> str:
    """The layers of a weight of that name, for a message."""
    if _SEPARATOR not in name:
        return name
    return " and ".join(part.rpartition(_ROWS)[0] for part in name.split(_SEPARATOR))


def members(name: str, rows: int) -> Iterator[tuple[str, slice]]:
    """Each layer in a weight of that name and number of rows, with its rows: one, or those it joins.

    Raises ValueError where the name does not divide the rows.
    """
    parts = [part.rpartition(_ROWS) for part in name.split(_SEPARATOR)]
    if len(parts) == 1:
        yield name, slice(0, rows)
        return
    if not all(count.isdigit() for _, _, count in parts) or sum(int(part[2]) for part in parts) != rows:
        raise ValueError(f"{name} does not divide the {rows} rows of its weight")
    start = 0
    for member, _, count in parts:
        yield member, slice(start, start + int(count))
        start += int(count)


@torch.library.custom_op("qexport::planned_linear", mutates_args=())
def planned_linear(x: torch.Tensor, layer: str, out_features: int) -> torch.Tensor:
    """(…, in) float32 -> (…, out) float32, with the integers of the plan's layer."""
    planned = planned_layer(layer)
    if planned.scheme.activations == "dynamic-int8":
        x = fake_quantize_activations(x)
    weight = torch.from_numpy(planned.load().dequantized())
    return torch.nn.functional.linear(x, weight, planned.bias)


@planned_linear.register_fake
def _(x: torch.Tensor, layer: str, out_features: int) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], out_features))


@torch.library.custom_op("qexport::mean_last", mutates_args=())
def mean_last(x: torch.Tensor, offset: float = 0.0) -> torch.Tensor:
    """(…, n) float32 -> (…, 1): offset plus the mean over the last axis, which XNNPACK's own mean cannot take."""
    return x.mean(-1, keepdim=True) + offset


@mean_last.register_fake
def _(x: torch.Tensor, offset: float = 0.0) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], 1))


@torch.library.custom_op("qexport::slice_axis", mutates_args=())
def slice_axis(x: torch.Tensor, axis: int, start: int, size: int) -> torch.Tensor:
    """float32 -> the same with a piece of one axis, counted from the front; other axes of any length."""
    return x.narrow(axis, start, size).contiguous()


@slice_axis.register_fake
def _(x: torch.Tensor, axis: int, start: int, size: int) -> torch.Tensor:
    return x.new_empty((*x.shape[:axis], size, *x.shape[axis + 1 :]))
