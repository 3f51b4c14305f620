"""Any torch.nn.Module that a function of the user's own code builds (source python:module:function)."""

from __future__ import annotations

import copy
import importlib
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from exporter.errors import PlanError, QexportError, SourceError, first_line
from exporter.layers import LayerInfo, ModelLayers
from exporter.models import layer_list
from exporter.models.skeleton import LayerFactory, Program, planned_layers_of
from exporter.models.sources import PythonFunction
from exporter.numerics import FloatArray, QuantizedTensor
from exporter.samples.python import code_sha256, search_here
from exporter.schemes import QuantScheme
from exporter.static.params import StaticPlan
from exporter.targets import Dialect

if TYPE_CHECKING:
    import torch

    from exporter.models.folding import Folding
    from exporter.models.pretrained import Pretrained


class PythonModule:
    """The function is called once; every skeleton shares that module's weights."""

    task: Literal["module"] = "module"
    folding: Folding  # set with `built`
    inner: Pretrained | None = None  # the model with a task that this is a module of
    holder = ""  # what stands before a layer's name in the built module
    prefill: PythonModule | None = None  # a second program of the same layers, that takes a prompt in

    def __init__(self, origin: PythonFunction) -> None:
        self.origin = origin

    @property
    def input_names(self) -> tuple[str, ...] | None:
        """Of the inputs, where they are not called as forward's parameters."""
        return None

    @cached_property
    def built(self) -> tuple[torch.nn.Module, tuple[Any, ...], Any]:
        """(module in eval mode, example inputs, dynamic shapes or None)."""
        import torch

        from exporter.models.folding import fold_batch_norms

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
        module = result[0].float().eval().requires_grad_(False)
        shapes = result[2] if len(result) == 3 else None
        self.folding = fold_batch_norms(module, inputs, shapes)
        return module, inputs, shapes

    def layers(self) -> ModelLayers:
        """Layers of the built module."""
        name = type(self.built[0]).__name__
        parts = [f"{name} of {self.origin.module}", self.folding.describe()]
        return layer_list.layers_of(self.built[0], ", ".join(part for part in parts if part))

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
            "code_sha256": code_sha256(self.origin.module),
            "weights_sha256": {"state_dict": digest.hexdigest()},
            **({"batch_norms": asdict(self.folding)} if self.folding.folded or self.folding.left else {}),
        }

    def weight(self, layer: LayerInfo) -> FloatArray:
        """(out, in) float32 weight of one layer; a row of a convolution is its whole filter."""
        name = f"{layer.name}.weight" if layer.name else "weight"
        array: FloatArray = self.built[0].get_parameter(name).detach().numpy()
        return array.reshape(len(array), -1)

    def tensors(self, inputs: Mapping[str, Any], where: str) -> tuple[torch.Tensor, ...]:
        """A sample's arrays as the module's inputs.

        Raises QexportError, which begins with `where`, for a shape that the module was not built for.
        """
        import torch

        _, example, dynamic = self.built
        found = tuple(torch.from_numpy(array) for array in inputs.values())
        made, wanted = ([tuple(getattr(x, "shape", ())) for x in each] for each in (found, example))
        same = made == wanted if dynamic is None else list(map(len, made)) == list(map(len, wanted))
        if not same:
            raise QexportError(
                f"{where}: a sample becomes {', '.join(map(str, made))}, and the example inputs of "
                f"{self.origin.source} are {', '.join(map(str, wanted))}; set size in model.preprocessing to what "
                "the module takes"
            )
        return found

    def own_samples(self) -> Iterator[tuple[Any, ...]]:
        """What ranges are measured on where the recipe names no samples."""
        yield self.built[1]

    def samples_of_text(self, text: str) -> Iterator[tuple[torch.Tensor, ...]]:
        """What ranges are measured on, of one text."""
        raise QexportError(
            "calibration: a module takes tensors, and nothing says how they are made of text or sound; give "
            "calibration: {python: module:function}"
        )

    def submodule(self, layer: str) -> torch.nn.Module:
        """The module of one layer."""
        return self.built[0].get_submodule(f"{self.holder}{layer}".removesuffix("."))

    def float_model(self) -> torch.nn.Module:
        """The reference."""
        return self.built[0]

    def skeleton(
        self,
        schemes: Mapping[str, QuantScheme],
        load: Callable[[str], QuantizedTensor],
        static: StaticPlan | None = None,
        dialect: Dialect = "cpu",
    ) -> ModuleSkeleton:
        """What a backend lowers; `static` holds the ranges of static activations."""
        return ModuleSkeleton(self, schemes, load, static, dialect)

    def _function(self) -> Callable[[], Any]:
        search_here()
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
    programs: tuple[Program, ...] = ()  # the function's own example inputs say it all

    def __init__(
        self,
        model: PythonModule,
        schemes: Mapping[str, QuantScheme],
        load: Callable[[str], QuantizedTensor],
        static: StaticPlan | None = None,
        dialect: Dialect = "cpu",
    ) -> None:
        self.static, self.dialect = static, dialect
        self._module, self.example_inputs, self.dynamic_shapes = model.built
        self._holder = model.holder
        self.input_names = model.input_names
        prompt = model.prefill
        self.prefill = None if prompt is None else ModuleSkeleton(prompt, schemes, load, static, dialect)
        self.layers = planned_layers_of(
            model.layers().layers,
            schemes,
            load,
            lambda name: getattr(model.submodule(name), "bias", None),
        )

    @property
    def forward(self) -> Callable[..., Any]:
        """Of the module, for the names of its parameters."""
        return self._module.forward

    def build(self, make_layer: LayerFactory, attention: str | None = None) -> torch.nn.Module:
        """See Skeleton.build. The copy is of the structure; tensors are shared, not copied."""
        from exporter.models.derived import combined
        from exporter.models.pointwise import Pointwise, as_linear
        from exporter.static.weights import make_static

        shared = {id(tensor): tensor for tensor in [*self._module.parameters(), *self._module.buffers()]}
        module = copy.deepcopy(self._module, memo=dict(shared))
        for name, planned in self.layers.items():
            original = module.get_submodule(f"{self._holder}{name}".removesuffix("."))
            if planned.info.fixed:
                raise PlanError(f"layer {name}: {planned.info.fixed}")
            if planned.scheme.is_static:
                assert self.static is not None  # the pipeline calibrates first
                make_static(original, name, planned.load(), self.static)
                continue
            if planned.info.kind == "conv":  # over single places, or capabilities.unsupported had refused it
                replacement: torch.nn.Module = Pointwise(make_layer(as_linear(planned)))
            else:
                replacement = combined(original, make_layer(planned), name)
            if not name:
                return replacement
            module.set_submodule(name, replacement)
        return module
