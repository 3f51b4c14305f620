"""Operators in smaller ones, for an NPU that has only those: each intermediate value gets codes of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.export import ExportedProgram

aten = torch.ops.aten


def _mean(x: torch.Tensor, dim: Sequence[int], keepdim: bool = False) -> torch.Tensor:
    count = 1
    for axis in dim:
        count *= int(x.shape[axis])
    found: torch.Tensor = x.sum(list(dim), keepdim) * (1.0 / count)
    return found


def _pool(x: torch.Tensor, size: Sequence[int]) -> Any:
    if list(size) != [1, 1]:
        return NotImplemented
    return _mean(x, [2, 3], True)


def _layer_norm(
    x: torch.Tensor,
    shape: Sequence[int],
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    _cudnn: bool = True,
) -> torch.Tensor:
    axes = list(range(-len(shape), 0))
    centred = x - _mean(x, axes, True)
    found = centred * torch.rsqrt(_mean(centred * centred, axes, True) + eps)
    found = found if weight is None else found * weight
    return found if bias is None else found + bias


def _rms_norm(
    x: torch.Tensor, shape: Sequence[int], weight: torch.Tensor | None = None, eps: float | None = None
) -> torch.Tensor:
    axes = list(range(-len(shape), 0))
    found = x * torch.rsqrt(_mean(x * x, axes, True) + (eps or 0.0))
    return found if weight is None else found * weight


def _silu(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(x)


def _softmax(x: torch.Tensor, dim: int, dtype: object = None) -> torch.Tensor:
    powers = torch.exp(x - torch.amax(x, [dim], True))
    return powers * torch.reciprocal(powers.sum([dim], True))


def _matmul(x: torch.Tensor, y: torch.Tensor) -> Any:
    """As one batch of matrices; for x and y of one number of axes."""
    if x.ndim != y.ndim or x.ndim < 3 or x.shape[:-2] != y.shape[:-2]:
        return NotImplemented
    left, right = x.reshape(-1, *x.shape[-2:]), y.reshape(-1, *y.shape[-2:])
    return torch.bmm(left, right).reshape(*x.shape[:-1], y.shape[-1])


def _div(x: Any, y: Any) -> torch.Tensor:
    found: torch.Tensor = x * (torch.reciprocal(y) if isinstance(y, torch.Tensor) else 1.0 / y)
    return found


def _sqrt(x: torch.Tensor) -> torch.Tensor:
    return torch.reciprocal(torch.rsqrt(x))


def _rsqrt(x: torch.Tensor) -> torch.Tensor:
    return torch.div(torch.ones(1), torch.sqrt(x))


# TOSA 1.0 has no normalisation, no softmax and no division.
_ARM = {
    aten.matmul.default: _matmul,
    aten.div.Tensor: _div,
    aten.sqrt.default: _sqrt,
    aten.mean.dim: _mean,
    aten.adaptive_avg_pool2d.default: _pool,
    aten.layer_norm.default: _layer_norm,
    aten.rms_norm.default: _rms_norm,
    aten.silu.default: _silu,
    aten.softmax.int: _softmax,
}
# ONNX has no rsqrt, ExecuTorch's way to Qualcomm no reciprocal: both take a division, and round the root before it.
_QUALCOMM = {aten.rsqrt.default: _rsqrt, aten.silu.default: _silu}


def for_arm(program: ExportedProgram) -> ExportedProgram:
    """The program in the operators of TOSA, the rest as Arm's own passes turn it into tables."""
    found: ExportedProgram = program.run_decompositions(dict(_ARM))
    return found


def for_qualcomm(program: ExportedProgram) -> ExportedProgram:
    """The program in operators that both ways to Qualcomm's HTP know as one."""
    found: ExportedProgram = program.run_decompositions(dict(_QUALCOMM))
    return found
