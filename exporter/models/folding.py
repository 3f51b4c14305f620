"""Batch norms into the convolution or linear layer before them: fewer operators, and one range instead of two.

In a model that is not trained, y = (conv(x) - mean) / sqrt(var + eps) * weight + bias is a convolution with other
numbers: each output channel's filter is multiplied by weight / sqrt(var + eps). (Jacob et al., Quantization and
Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR 2018, section 3.2.)

Which norm follows which layer is read from the traced graph, not from names or classes of models.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from exporter.errors import first_line
from exporter.static.naming import module_path, operator_name

_NORMS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)
_LAYERS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Linear)
_PRODUCTS = ("conv1d", "conv2d", "convolution", "linear")


@dataclass
class Folding:
    """What was folded, and what was met and left."""

    folded: dict[str, str] = field(default_factory=dict)  # norm -> layer that holds it now
    left: dict[str, str] = field(default_factory=dict)  # norm -> why it stays

    def describe(self) -> str:
        """For a line about the model; empty where it has no batch norms."""
        parts = [f"{len(self.folded)} batch norms folded"] if self.folded else []
        parts += [f"{len(self.left)} left"] if self.left else []
        return ", ".join(parts)


def fold_batch_norms(model: torch.nn.Module, inputs: tuple[Any, ...], shapes: Any = None) -> Folding:
    """Fold in place, as far as the traced graph shows that nothing else sees a layer's output.

    Results are equal up to float32's rounding. `inputs` and `shapes` as torch.export takes them. A model that
    cannot be traced keeps its norms, each with the reason.
    """
    outcome = Folding()
    norms = {
        name: m for name, m in model.named_modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)
    }
    if not norms:
        return outcome
    try:
        with torch.no_grad():
            program = torch.export.export(model, inputs, dynamic_shapes=shapes, strict=False)
    except Exception as problem:  # torch.export raises many types; lowering will say more
        return Folding({}, dict.fromkeys(norms, f"the model cannot be traced: {first_line(problem)}"))
    found = _pairs(program, norms, outcome)
    for norm, layer in found.items():
        reason = _obstacle(model, norm, layer)
        if reason is None:
            _fold(model.get_submodule(layer), model.get_submodule(norm))
            model.set_submodule(norm, torch.nn.Identity())
            outcome.folded[norm] = layer
        else:
            outcome.left[norm] = reason
    for norm in norms:
        if norm not in outcome.folded and norm not in outcome.left:
            outcome.left[norm] = "does not follow a convolution or linear layer"
    return outcome


def _pairs(program: torch.export.ExportedProgram, norms: dict[str, Any], outcome: Folding) -> dict[str, str]:
    """Norm -> the layer whose output it alone reads."""
    calls: dict[str, int] = {}
    pairs: dict[str, str] = {}
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        path, kind = module_path(node), operator_name(node)
        if kind in _PRODUCTS or "batch_norm" in kind:
            calls[path] = calls.get(path, 0) + 1
        if "batch_norm" not in kind or path not in norms:
            continue
        source = node.args[0]
        assert isinstance(source, torch.fx.Node)
        if source.op != "call_function" or operator_name(source) not in _PRODUCTS:
            continue
        if len(source.users) > 1:
            outcome.left[path] = f"the output of {module_path(source)} is read elsewhere too"
            continue
        pairs[path] = module_path(source)
    for norm, layer in list(pairs.items()):
        if calls[norm] > 1 or calls[layer] > 1:
            outcome.left[norm] = "it or the layer before it is called more than once"
            del pairs[norm]
    return pairs


def _obstacle(model: torch.nn.Module, norm: str, layer: str) -> str | None:
    """Why this pair cannot be folded, or None."""
    first, second = model.get_submodule(layer), model.get_submodule(norm)
    if type(second) not in _NORMS:
        return f"class {type(second).__name__} may do more than a batch norm"
    if not isinstance(first, _LAYERS):
        return f"{layer} is a {type(first).__name__}"
    if second.running_mean is None or second.training:
        return "it normalises by the batch at hand"
    shared = [name for name, p in model.named_parameters(remove_duplicate=False) if p is first.weight]
    if len(shared) > 1:
        return (
            f"the weight of {layer} is shared with {', '.join(n for n in shared if n != f'{layer}.weight')}"
        )
    return None


def _fold(layer: torch.nn.Module, norm: torch.nn.Module) -> None:
    """Put a norm's factors into the layer, computed in float64 and rounded once."""
    mean, variance = norm.get_buffer("running_mean").double(), norm.get_buffer("running_var").double()
    weight, shift = (norm._parameters.get(name) for name in ("weight", "bias"))
    factor = torch.rsqrt(variance + norm.eps)  # type: ignore[operator]
    if weight is not None:
        factor = factor * weight.detach().double()
    filters = layer.get_parameter("weight").detach().double()
    bias = layer._parameters.get("bias")
    moved = (torch.zeros_like(mean) if bias is None else bias.detach().double()) - mean
    moved = moved * factor + (0 if shift is None else shift.detach().double())
    scaled = filters * factor.reshape(-1, *[1] * (filters.dim() - 1))
    layer.weight = torch.nn.Parameter(scaled.float(), requires_grad=False)
    layer.bias = torch.nn.Parameter(moved.float(), requires_grad=False)
