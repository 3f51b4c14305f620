"""Any torch.nn.Module that a function of the user's own code builds (source python:module:function)."""

from __future__ import annotations

import copy
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from exporter.errors import PlanError, SourceError, first_line
from exporter.layers import LayerInfo, ModelLayers
from exporter.models import layer_list
from exporter.models.skeleton import LayerFactory, PlannedLayer
from exporter.models.sources import PythonFunction
from exporter.numerics import FloatArray, QuantizedTensor
from exporter.schemes import QuantScheme

if TYPE_CHECKING:
    import torch


class PythonModule:
    """The function is called once; every skeleton shares that module's weights."""

    task: Literal["module"] = "module"

    def __init__(self, origin: PythonFunction) -> None:
        self.origin = origin

    @cached_property
    def built(self) -> tuple[torch.nn.Module, tuple[Any, ...], Any]:
        """(module in eval mode, example inputs, dynamic shapes or None)."""
        import torch

        function = self._function()
        try:
            result = function()
        except Exception as problem:  # the user's own code may raise anything
            raise SourceError(
                f"{self.origin.source}: the function failed, {type(problem).__name__}: {first_line(problem)}; "
                "it is called without arguments. --debug shows where"
            ) from problem
        if not (
            isinstance(result, tuple) and len(result) in (2, 3) and isinstance(result[0], torch.nn.Module)
        ):
            raise SourceError(
                f"{self.origin.source}: returned {type(result).__name__}; it must return "
                "(torch.nn.Module, example_inputs) or (torch.nn.Module, example_inputs, dynamic_shapes)"
            )
        inputs = result[1] if isinstance(result[1], tuple) else (result[1],)
        return result[0].float().eval().requires_grad_(False), inputs, result[2] if len(result) == 3 else None

    def layers(self) -> ModelLayers:
        """Layers of the built module."""
        return layer_list.layers_of(self.built[0], f"{type(self.built[0]).__name__} of {self.origin.module}")

    def identity(self) -> dict[str, object]:
        """Source for the manifest, with a hash of the weights in use."""
        import hashlib

        digest = hashlib.sha256()
        for name, tensor in sorted(self.built[0].state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.contiguous().numpy().tobytes())
        return {
            "source": self.origin.source,
            "revision": None,
            "weights_sha256": {"state_dict": digest.hexdigest()},
        }

    def weight(self, layer: LayerInfo) -> FloatArray:
        """(out, in) float32 weight of one layer."""
        array: FloatArray = self.built[0].get_parameter(f"{layer.name}.weight").detach().numpy()
        return array

    def float_model(self) -> torch.nn.Module:
        """The reference."""
        return self.built[0]

    def skeleton(
        self, schemes: Mapping[str, QuantScheme], load: Callable[[str], QuantizedTensor]
    ) -> ModuleSkeleton:
        """What a backend lowers."""
        return ModuleSkeleton(self, schemes, load)

    def _function(self) -> Callable[[], Any]:
        if os.getcwd() not in sys.path:  # as `python -m` does, so that the user's own file is found
            sys.path.insert(0, os.getcwd())
        try:
            module = importlib.import_module(self.origin.module)
        except ModuleNotFoundError as problem:
            raise SourceError(
                f"{self.origin.source}: no module {problem.name!r} in {os.getcwd()} or the environment; "
                "run qexport in the folder that holds it, or install it"
            ) from problem
        except Exception as problem:
            raise SourceError(
                f"{self.origin.source}: importing {self.origin.module} failed, {type(problem).__name__}: "
                f"{first_line(problem)}; --debug shows where"
            ) from problem
        function = getattr(module, self.origin.function, None)
        if not inspect.isroutine(function):
            names = sorted(name for name, item in vars(module).items() if inspect.isfunction(item))
            raise SourceError(
                f"{self.origin.source}: module {self.origin.module} has no function {self.origin.function!r}; "
                f"it has: {', '.join(names) or 'none'}"
            )
        return function


class ModuleSkeleton:
    """See exporter.models.skeleton.Skeleton."""

    task: Literal["module"] = "module"
    tokenizer_folder: Path | None = None
    config: Any = None
    calibration: tuple[tuple[int, ...], ...] = ()

    def __init__(
        self, model: PythonModule, schemes: Mapping[str, QuantScheme], load: Callable[[str], QuantizedTensor]
    ) -> None:
        self._module, self.example_inputs, self.dynamic_shapes = model.built
        self.layers: dict[str, PlannedLayer] = {}
        for layer in model.layers().layers:
            if not schemes[layer.name].is_float:
                owner = layer.tied_to or layer.name
                bias = getattr(self._module.get_submodule(layer.name), "bias", None)
                self.layers[layer.name] = PlannedLayer(layer, schemes[layer.name], partial(load, owner), bias)

    def build(self, make_layer: LayerFactory, attention: str | None = None) -> torch.nn.Module:
        """See Skeleton.build. The copy is of the structure; tensors are shared, not copied."""
        from exporter.models.derived import combined

        shared = {id(tensor): tensor for tensor in [*self._module.parameters(), *self._module.buffers()]}
        module = copy.deepcopy(self._module, memo=dict(shared))
        for name, planned in self.layers.items():
            original = module.get_submodule(name)
            if planned.info.fixed:
                raise PlanError(f"layer {name}: {planned.info.fixed}")
            replacement = combined(original, make_layer(planned), name)
            if not name:
                return replacement
            module.set_submodule(name, replacement)
        return module
