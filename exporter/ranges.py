"""Ranges of static activations for a recipe: which samples, which values, and where integers begin and end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from exporter.errors import ArtifactError, PlanError, QexportError
from exporter.folders import cache_folder
from exporter.models.loading import Model
from exporter.models.python_module import PythonModule
from exporter.numerics import FloatArray
from exporter.recipe import Recipe
from exporter.schemes import QuantScheme
from exporter.static.params import StaticPlan, least_weight_scales
from exporter.targets import Dialect

if TYPE_CHECKING:
    import torch

    from exporter.static.calibrating import Sample
    from exporter.static.placing import Placement

RANGES_FILE = "ranges.json"  # beside the artifact's plan: what the static layers were made with


@dataclass(frozen=True)
class Ranges:
    """What calibration gave."""

    plan: StaticPlan
    least: Mapping[str, FloatArray]  # layer -> (out,) the smallest weight scales that its kernels bear
    notes: tuple[str, ...]
    moments: Mapping[str, NDArray[np.float64]]  # of layers that are rounded by error (exporter.methods.gptq)


def static_layers(schemes: Mapping[str, QuantScheme]) -> dict[str, QuantScheme]:
    """Those of the schemes that are static."""
    return {name: scheme for name, scheme in schemes.items() if scheme.is_static}


def measure_ranges(
    model: Model, schemes: Mapping[str, QuantScheme], recipe: Recipe, progress: Callable[[str, float], None]
) -> Ranges:
    """Run the float model over the recipe's calibration samples. Raises PlanError, TraceError, QexportError."""
    from exporter.static.calibrating import Pass, calibrate
    from exporter.static.moments import second_moments

    source = _module(model)
    passes = []
    for each in filter(None, (source, source.prefill)):
        placed = _placed(each, schemes, recipe.targets[0].dialect)
        passes.append(Pass(*placed, partial(calibration_samples, each, recipe)))
    hashes = json.dumps(source.identity()["weights_sha256"], sort_keys=True)
    plan, notes = calibrate(passes, hashes, cache_folder(), progress)
    least = {}
    for name in plan.layers:
        layer = source.submodule(name)
        bias = layer._parameters.get("bias")
        rows = layer.get_parameter("weight").shape[0]
        held = np.zeros(rows, np.float32) if bias is None else bias.detach().numpy()
        least[name] = least_weight_scales(held, plan.input_of(name), plan.output_of(name))
    chosen = [name for name in plan.layers if schemes[name].method == "gptq"]
    moments = second_moments(passes[-1].program, chosen, passes[-1].samples()) if chosen else {}
    return Ranges(plan, least, notes, moments)


def read_ranges(folder: Path) -> StaticPlan:
    """What an artifact's static layers were made with. Raises ArtifactError where the file is missing or no such."""
    path = folder / RANGES_FILE
    try:
        return StaticPlan.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise ArtifactError(f"{path}: cannot be read ({problem}); run the recipe again") from problem


def border_notes(model: Model, schemes: Mapping[str, QuantScheme], dialect: Dialect) -> tuple[str, ...]:
    """Where values go from float to integers and back, what that moves, and which operators stay float between.

    On an NPU there are no such borders; a module of one's own is traced all the same, since nobody knows its operators.
    Raises PlanError for one that an NPU has not.
    """
    if dialect != "cpu":
        if isinstance(model, PythonModule) and model.inner is None and static_layers(schemes):
            _placed(model, schemes, dialect)
        return (
            "every value has codes of its own, constants too; inputs and outputs are float at the border alone",
        )
    if not static_layers(schemes):
        return ()
    _, placement = _placed(_module(model), schemes, dialect)
    notes = [_told(placement)]
    notes += [
        f"border: {border.value} becomes {border.into} ({border.elements:,} values) at {border.other_side}"
        for border in placement.borders
    ]
    notes += [f"stays float between integers: {reason}" for reason in placement.left]
    return tuple(notes)


def _told(placement: Placement) -> str:
    values = len(set(placement.integer.values()))
    moved = sum(border.elements for border in placement.borders)
    return (
        f"static: {len(placement.layers)} layers, {values} values are integers, {len(placement.clamps)} clamps are "
        f"the ends of their ranges; {len(placement.borders)} borders convert {moved:,} values a run"
    )


def _module(model: Model) -> PythonModule:
    if not isinstance(model, PythonModule):
        raise PlanError(
            f"static activations are built for `task: module`, and this model's task is {model.task}; set activations: "
            "dynamic-int8 or float"
        )
    return model


def _placed(
    model: PythonModule, schemes: Mapping[str, QuantScheme], dialect: Dialect
) -> tuple[torch.export.ExportedProgram, Placement]:
    """The float program and what of it becomes integers."""
    from exporter.models.exporting import export
    from exporter.static.dialects import check_operators, in_blocks, placed, prepared

    module, inputs, shapes = model.built
    program = prepared(export(module, inputs, shapes=shapes), dialect, in_blocks(schemes))
    check_operators(program, dialect)
    quantised = [name for name, scheme in schemes.items() if not scheme.is_float and not scheme.is_static]
    return program, placed(program, static_layers(schemes), dialect, quantised)


def calibration_samples(model: PythonModule, recipe: Recipe) -> Iterator[Sample]:
    """The recipe's samples as the model's inputs, one at a time; without any, the example inputs."""
    given = recipe.calibration
    if given is None:
        yield from model.own_samples()
    elif given.python:
        from exporter.samples.python import python_samples

        yield from python_samples(given.python, given.samples)
    elif given.text:
        from exporter.samples.drawing import draw
        from exporter.samples.text import read_text

        for sample in draw(given, cache_folder()).samples:
            yield from model.samples_of_text(read_text(sample))
    elif given.pictures:
        from exporter.samples.drawing import draw
        from exporter.samples.processing import picture_processor

        processor = picture_processor(None, recipe.model.preprocessing)
        for sample in draw(given, cache_folder()).samples:
            yield model.tensors(processor(sample), "calibration.pictures")
    else:
        raise QexportError(
            "calibration: a module takes tensors, and nothing says how they are made of text or sound; give "
            "calibration: {python: module:function}"
        )
