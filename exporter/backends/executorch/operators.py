"""One operator stands for one quantised linear layer through the whole of ExecuTorch's lowering.

`qexport::planned_linear(x, layer)` carries the layer's module path and no weight, so that the many
passes over the graph see one node per layer and no integers; the delegate's visitor (xnnpack.py)
fetches the integers from the plan at the moment it writes them. Its CPU kernel is the reference of
what XNNPACK computes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from exporter.errors import LoweringError
from exporter.models.activations import fake_quantize_activations
from exporter.models.skeleton import PlannedLayer

NAMESPACE = "qexport"

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
def mean_last(x: torch.Tensor) -> torch.Tensor:
    """(…, n) float32 -> (…, 1): the mean over the last axis, which XNNPACK's own mean cannot take."""
    return x.mean(-1, keepdim=True)


@mean_last.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], 1))


@torch.library.custom_op("qexport::slice_axis", mutates_args=())
def slice_axis(x: torch.Tensor, axis: int, start: int, size: int) -> torch.Tensor:
    """float32 -> the same with a piece of one axis, counted from the front; other axes of any length."""
    return x.narrow(axis, start, size).contiguous()


@slice_axis.register_fake
def _(x: torch.Tensor, axis: int, start: int, size: int) -> torch.Tensor:
    return x.new_empty((*x.shape[:axis], size, *x.shape[axis + 1 :]))
