"""Layers that compute with the numbers their integers will stand for, and let a gradient through. PyTorch.

Rounding has no gradient, so that of what goes in is taken from what comes out wherever nothing was clipped (straight
through; Bengio et al., arXiv:1308.3432), and a scale's is what its group loses or gains by it (Esser et al., Learned
Step Size Quantization, ICLR 2020, equation 3). Scales are rounded to bf16 before they divide, weights by half to even
and activations as exporter.models.activations has it: what is trained is what the files compute.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from exporter.models.activations import fake_quantize_activations
from exporter.models.rotating import rotate
from exporter.models.skeleton import PlannedLayer
from exporter.numerics import QuantizedTensor, usable_scales
from exporter.schemes import CALIBRATED_METHODS

# How far from its integer a weight may begin, in steps; half a step is the border. Nearest integers begin where their
# float numbers are: near the border either side loses alike. Integers that calibration chose together do not: a weight
# that was moved to make up for others would turn back in the first steps, and what they had made up for is lost.
_NEAREST, _CALIBRATED = 0.49, 0.25


class _Rounded(torch.autograd.Function):
    """(rows, groups, size) weights, (rows, groups, 1) or (1, 1, 1) scales -> the numbers their codes stand for."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, scale: torch.Tensor, low: int, high: int) -> torch.Tensor:
        codes = (weight / scale).round_()
        inside = (codes >= low) & (codes <= high)
        codes.clamp_(low, high)
        found = codes * scale
        ctx.save_for_backward(weight, scale, found, inside)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        weight, scale, found, inside = ctx.saved_tensors
        upstream = gradients[0]
        to_weight = to_scale = None
        if ctx.needs_input_grad[1]:
            per_step = (
                found - weight * inside
            ) / scale  # code - w / s where it moves with w, the code where clipped
            to_scale = (upstream * per_step).sum(dim=2, keepdim=True)
            if scale.shape[0] < to_scale.shape[0]:  # one for the whole tensor
                to_scale = to_scale.sum(dim=0, keepdim=True)
        if ctx.needs_input_grad[0]:
            to_weight = upstream * inside
        return to_weight, to_scale, None, None


class _RoundedActivations(torch.autograd.Function):
    """Dynamic int8 forward, the identity backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return fake_quantize_activations(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0]


class TrainedWeight(torch.nn.Module):
    """A layer's weight while it is trained: float numbers, and the scales that round them."""

    first_scale: torch.Tensor

    def __init__(self, weight: torch.Tensor, tensor: QuantizedTensor, trains_weights: bool) -> None:
        """`weight` (out, in) float32, `tensor` where training begins, symmetric."""
        super().__init__()
        self.scheme = tensor.scheme
        rows, columns = weight.shape
        scale = torch.from_numpy(np.array(tensor.scales))[:, :, None]
        codes = torch.from_numpy(np.array(tensor.values)).float().view(rows, scale.shape[1], -1)
        grouped = weight.view(codes.shape)
        inside = _CALIBRATED if tensor.scheme.method in CALIBRATED_METHODS else _NEAREST
        begun = (grouped / scale).clamp_(min=codes - inside, max=codes + inside)
        # in units of the first scale, so that one learning rate fits weights of any size
        self.weight = torch.nn.Parameter(begun)
        # trained as a factor on where it began, for the same reason
        self.register_buffer("first_scale", scale)
        self.factor = torch.nn.Parameter(torch.ones_like(scale))
        self.trains_weights = trains_weights
        self.shape = (rows, columns)
        self._step: tuple[torch.Tensor, torch.Tensor] | None = None  # rounded, and the leaf that is used
        # LSQ's gradient scale: a step size sees the gradients of all its weights (Esser et al., section 2.2)
        self._damped = 1.0 / math.sqrt(codes.numel() / scale.numel() * tensor.scheme.limits[1])

    def scales(self) -> torch.Tensor:
        """(rows, groups, 1) or (1, 1, 1), as bf16 holds them; the gradient is that of the exact factor."""
        factor = self.factor * self._damped + (self.factor * (1 - self._damped)).detach()
        exact = self.first_scale * factor.clamp(0.25, 4.0)
        return exact + (exact.to(torch.bfloat16).float() - exact).detach()

    def forward(self) -> torch.Tensor:
        """(out, in) float32, the numbers that the integers stand for."""
        return self._rounded() if self._step is None else self._step[1]

    def begin(self) -> None:
        """Round once for all uses until end()."""
        rounded = self._rounded()
        self._step = rounded, rounded.detach().requires_grad_(True)

    def end(self) -> None:
        """Give what the uses' gradients add up to to the weights and scales."""
        assert self._step is not None
        rounded, used = self._step
        self._step = None
        if used.grad is not None:
            rounded.backward(used.grad)  # type: ignore[no-untyped-call]

    def _rounded(self) -> torch.Tensor:
        found: torch.Tensor = _Rounded.apply(
            self.weight * self.first_scale, self.scales(), *self.scheme.limits
        )  # type: ignore[no-untyped-call]
        return found.view(self.shape)

    def tensor(self) -> QuantizedTensor:
        """Integers and scales as they are now."""
        with torch.no_grad():
            scale = self.scales()
            codes = (self.weight * self.first_scale / scale).round_().clamp_(*self.scheme.limits)
        scales = usable_scales(scale[:, :, 0].numpy())
        return QuantizedTensor(codes.to(torch.int8).view(self.shape).numpy(), scales, None, self.scheme)


class TrainedLinear(torch.nn.Module):
    """A linear layer in training."""

    def __init__(self, planned: PlannedLayer, held: TrainedWeight) -> None:
        super().__init__()
        self.planned, self.held = planned, held
        self.rounds = planned.scheme.activations == "dynamic-int8"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        taken = rotate(x, self.planned.scheme.rotate)
        taken = _RoundedActivations.apply(taken) if self.rounds else taken  # type: ignore[no-untyped-call]
        return torch.nn.functional.linear(taken, self.held(), self.planned.bias)


class TrainedEmbedding(torch.nn.Module):
    """A table in training."""

    def __init__(self, planned: PlannedLayer, held: TrainedWeight) -> None:
        super().__init__()
        self.planned, self.held = planned, held

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(...) -> (..., features)."""
        return rotate(torch.nn.functional.embedding(ids, self.held()), self.planned.scheme.rotate)


class FixedLinear(torch.nn.Module):
    """A layer whose integers stay, in the way of a gradient to those before it."""

    numbers: torch.Tensor  # "weight" is what a model may ask for, and find absent

    def __init__(self, planned: PlannedLayer, weight: torch.Tensor) -> None:
        super().__init__()
        self.planned = planned
        self.register_buffer("numbers", weight, persistent=False)
        self.rounds = planned.scheme.activations == "dynamic-int8"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        taken = rotate(x, self.planned.scheme.rotate)
        taken = _RoundedActivations.apply(taken) if self.rounds else taken  # type: ignore[no-untyped-call]
        return torch.nn.functional.linear(taken, self.numbers, self.planned.bias)


class FixedEmbedding(torch.nn.Module):
    """A table whose integers stay."""

    numbers: torch.Tensor

    def __init__(self, planned: PlannedLayer, weight: torch.Tensor) -> None:
        super().__init__()
        self.planned = planned
        self.register_buffer("numbers", weight, persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(...) -> (..., features)."""
        return rotate(torch.nn.functional.embedding(ids, self.numbers), self.planned.scheme.rotate)


def parameters(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """What is trained, each once: `weight` and `factor` of the trained weights."""
    seen: set[int] = set()
    for module in model.modules():
        if isinstance(module, TrainedWeight) and id(module) not in seen:
            seen.add(id(module))
            names = ("weight", "factor") if module.trains_weights else ("factor",)
            for name in names:
                parameter = getattr(module, name)
                parameter.requires_grad_(True)  # a skeleton's model has no gradients
                yield name, parameter
