"""Layers whose class derives from nn.Linear or nn.Embedding and does more, such as an embedding that scales.

Their own forward stays and calls, through super(), the module that a backend puts in place of the weight:
a class is made in whose order of resolution that module's class comes after the original and before
nn.Linear or nn.Embedding. It holds as long as the original reaches its weight by super().forward alone;
obstacle() finds out by running the original's forward once with no weight behind it.
"""

from __future__ import annotations

from typing import Any

import torch

from exporter.errors import PlanError, first_line

_BASES: tuple[type[torch.nn.Module], ...] = (torch.nn.Linear, torch.nn.Embedding)
_STATE = ("_parameters", "_buffers", "_modules")
_UNSAVED = "_non_persistent_buffers_set"


def obstacle(module: torch.nn.Module) -> str | None:
    """Why this layer's weight cannot be replaced by integers, or None. Meta tensors will do."""
    base = _base(module)
    if base is None or type(module) is base:
        return None
    probe = _Probe(module)
    try:
        with torch.no_grad():
            combined(module, probe, "the class")(probe.example)
    except Exception as problem:  # the class may raise anything
        reason = f"its forward fails without it: {first_line(problem)}"
    else:
        if probe.calls:
            return None
        reason = "its forward does not call super().forward"
    return (
        f"class {type(module).__name__} does more than the nn.{base.__name__} it derives from, so that its "
        f"weight cannot be replaced ({reason}); set `scheme: float`"
    )


def combined(original: torch.nn.Module, replacement: torch.nn.Module, name: str) -> torch.nn.Module:
    """What takes the place of layer `name`: `replacement`, behind the forward of the original's class.

    What the original holds beyond its base class (attributes, buffers, parameters, modules) comes along.
    Raises PlanError where both hold something of the same name.
    """
    base = _base(original)
    if base is None or type(original) is base:
        return replacement
    plain = vars(base(1, 1, device="meta"))  # what any layer of the base class holds
    own = {key: value for key, value in vars(original).items() if key not in plain}
    state = {
        key: {k: v for k, v in vars(original)[key].items() if k not in ("weight", "bias")} for key in _STATE
    }
    mine = {*own, *(item for part in state.values() for item in part)}
    clash = mine & {*vars(replacement), *(item for key in _STATE for item in vars(replacement)[key])}
    if clash:
        raise PlanError(
            f"layer {name}: {type(original).__name__} has {', '.join(sorted(clash))}, names that its "
            "replacement needs; rename them, or set `scheme: float`"
        )
    result = torch.nn.Module.__new__(_class(type(original), type(replacement), base))
    held = vars(result)
    held.update({key: value for key, value in vars(original).items() if key in plain})
    held.update(vars(replacement))
    held.update(own)
    held.update({key: {**vars(replacement)[key], **state[key]} for key in _STATE})
    held[_UNSAVED] = vars(original)[_UNSAVED] | vars(replacement)[_UNSAVED]
    if not hasattr(replacement, "weight"):
        held["weight"] = AbsentWeight(name, original.get_parameter("weight"))
    return result


def _base(module: torch.nn.Module) -> type[torch.nn.Module] | None:
    return next((base for base in _BASES if isinstance(module, base)), None)


def _class(
    original: type[torch.nn.Module], replacement: type[torch.nn.Module], base: type[torch.nn.Module]
) -> type[torch.nn.Module]:
    """A class that resolves `original` first, then `replacement`, then `base`."""
    if replacement is base:
        return original
    if not issubclass(replacement, base):
        replacement = type(replacement.__name__, (replacement, base), {})
    return type(original.__name__, (original, replacement), {})


class AbsentWeight:
    """Stands where a weight was: its shape and type are known, its numbers are not there."""

    def __init__(self, layer: str, weight: torch.Tensor) -> None:
        self.layer = layer
        self.dtype, self.shape, self.ndim = torch.float32, weight.shape, weight.ndim
        self.device = torch.device("cpu")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copying and the like ask for these and take no for an answer
            raise AttributeError(name)
        raise PlanError(f"{self.layer} uses self.weight.{name} outside super().forward")

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """A torch function was given this weight."""
        layer = next(item.layer for item in (*args, *(kwargs or {}).values()) if isinstance(item, cls))
        raise PlanError(f"{layer} gives self.weight to {function.__name__}() outside super().forward")


class _Probe(torch.nn.Module):
    """Takes the place of a weight while obstacle() runs a class's forward."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        weight = module.get_parameter("weight")
        rows, self.columns = weight.shape
        self.calls: list[str] = []
        self.rows: int | None = rows if isinstance(module, torch.nn.Linear) else None
        shape, dtype = ((1, 2), torch.int64) if self.rows is None else ((1, 2, self.columns), torch.float32)
        self.example = torch.zeros(shape, dtype=dtype, device=weight.device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Zeros of the shape that the layer gives."""
        self.calls.append("forward")
        shape = (*x.shape, self.columns) if self.rows is None else (*x.shape[:-1], self.rows)
        return torch.zeros(shape, device=x.device)
