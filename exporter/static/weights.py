"""Layers of a module whose weight and bias are integers that a trace shows as dequantize nodes.

The module keeps its class and its forward, whatever that does besides; its `weight` and `bias` become what the
integers stand for.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.ao.quantization.fx._decomposed
from numpy.typing import NDArray

from exporter.blocks import BLOCK, in_thirty_twos, split
from exporter.errors import PlanError
from exporter.numerics import QuantizedTensor
from exporter.static.params import StaticPlan, bias_correction, quantize_bias

WEIGHT, BIAS = "static_weight", "static_bias"  # names of the submodules that hold the integers
_INT32 = (-(2**31), 2**31 - 1)


class StaticWeight(torch.nn.Module):
    """int8 weight in the layer's own shape, one scale for each output channel."""

    def __init__(self, tensor: QuantizedTensor, shape: tuple[int, ...]) -> None:
        super().__init__()
        rows = tensor.values.shape[0]
        self.low, self.high = tensor.scheme.limits
        self.values: torch.Tensor
        self.scales: torch.Tensor
        self.zero_points: torch.Tensor
        self.register_buffer("values", _share(tensor.values).reshape(shape))
        # (out,): a scale of the whole tensor is repeated, as no kernel takes less for a bias with it
        self.register_buffer("scales", torch.from_numpy(tensor.row_scales().reshape(rows).copy()))
        self.register_buffer("zero_points", torch.zeros(rows, dtype=torch.int64))

    def forward(self) -> torch.Tensor:
        """float32, in the layer's own shape."""
        found: torch.Tensor = torch.ops.quantized_decomposed.dequantize_per_channel(
            self.values, self.scales, self.zero_points, 0, self.low, self.high, torch.int8
        )
        return found


class StaticBlocks(torch.nn.Module):
    """int4 weight of a linear layer, one scale for each block of 32 in a row."""

    def __init__(self, tensor: QuantizedTensor) -> None:
        """Raises ValueError for scales that no format of blocks holds."""
        super().__init__()
        split(tensor.scales)
        self.low, self.high = tensor.scheme.limits
        self.values: torch.Tensor
        self.scales: torch.Tensor
        self.register_buffer("values", _share(tensor.values))
        self.register_buffer(
            "scales", torch.from_numpy(in_thirty_twos(tensor.scales, tensor.values.shape[1]))
        )

    def forward(self) -> torch.Tensor:
        """(out, in) float32."""
        found: torch.Tensor = torch.ops.quantized_decomposed.dequantize_per_channel_group(
            self.values, self.scales, None, self.low, self.high, torch.int8, BLOCK, torch.float32
        )
        return found


class StaticTable(torch.nn.Module):
    """int8 table of a lookup, one scale for all of it."""

    def __init__(self, tensor: QuantizedTensor) -> None:
        super().__init__()
        self.low, self.high = tensor.scheme.limits
        self.scale = float(tensor.scales.reshape(-1)[0])
        self.values: torch.Tensor
        self.register_buffer("values", _share(tensor.values))

    def forward(self) -> torch.Tensor:
        """(rows, features) float32."""
        found: torch.Tensor = torch.ops.quantized_decomposed.dequantize_per_tensor(
            self.values, self.scale, 0, self.low, self.high, torch.int8
        )
        return found


class StaticBias(torch.nn.Module):
    """int32 bias in units of input scale times weight scale."""

    def __init__(self, codes: NDArray[Any], scales: NDArray[Any]) -> None:
        super().__init__()
        self.values: torch.Tensor
        self.scales: torch.Tensor
        self.zero_points: torch.Tensor
        self.register_buffer("values", torch.from_numpy(codes))
        self.register_buffer("scales", torch.from_numpy(scales))
        self.register_buffer("zero_points", torch.zeros(len(codes), dtype=torch.int64))

    def forward(self) -> torch.Tensor:
        """(out,) float32."""
        found: torch.Tensor = torch.ops.quantized_decomposed.dequantize_per_channel(
            self.values, self.scales, self.zero_points, 0, *_INT32, torch.int32
        )
        return found


def make_static(module: torch.nn.Module, name: str, tensor: QuantizedTensor, plan: StaticPlan) -> None:
    """Replace weight and bias of layer `name`, in place; the bias makes up for what rounding the weight loses.

    A layer without a bias gets one. A bias beside blocks stays as it is: it is added on its own (tidying.split_biases),
    in codes whose range was measured without such a correction. Raises PlanError where the bias does not fit into the
    kernels' integers, or scales of blocks into their format.
    """
    if tensor.scheme.steps_scales:
        try:
            _hold(module, {WEIGHT: StaticBlocks(tensor)})
        except ValueError as problem:
            raise PlanError(f"layer {name}: {problem}; set `group: channel` for this layer") from problem
        return
    if isinstance(module, torch.nn.Embedding):
        _hold(module, {WEIGHT: StaticTable(tensor)})
        return
    weight, bias = module.get_parameter("weight"), module._parameters.get("bias")
    exact = weight.detach().numpy()
    own = np.zeros(len(exact), np.float32) if bias is None else bias.detach().numpy()
    correction = bias_correction(
        exact,
        tensor.dequantized().reshape(exact.shape),
        np.array(plan.means[name], np.float32),
        int(getattr(module, "groups", 1)),
    )
    try:
        codes, scales = quantize_bias(own + correction, plan.input_of(name), tensor.row_scales())
    except ValueError as problem:
        raise PlanError(f"layer {name}: {problem}; set `scheme: float` for this layer") from problem
    _hold(module, {WEIGHT: StaticWeight(tensor, tuple(weight.shape)), BIAS: StaticBias(codes, scales)})


def _given(part: str, module: torch.nn.Module) -> Any:
    """What a part of a module gives."""
    held = module._modules[part]
    assert held is not None
    return held()


def _hold(module: torch.nn.Module, parts: dict[str, torch.nn.Module]) -> None:
    """In place of its parameters: `weight` and `bias` are what the parts give."""
    original = type(module)
    names = {WEIGHT: "weight", BIAS: "bias"}
    body: dict[str, Any] = {names[part]: property(partial(_given, part)) for part in parts}
    for part in parts:
        del module._parameters[names[part]]
    module.__class__ = type(original.__name__, (original,), body)
    for key, made in parts.items():
        module.add_module(key, made)


def _share(array: NDArray[Any]) -> torch.Tensor:
    """A tensor over the array's memory, which may be a read-only map of the integers on disk."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
