"""From a plan to integers: calibrate, quantise, train. What takes long lies in a work folder and is not done twice."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from exporter.artifacts import write_json
from exporter.folders import cache_folder
from exporter.memory import Room
from exporter.models.causal_lm import CausalLM
from exporter.models.loading import Model
from exporter.models.python_module import PythonModule
from exporter.numerics import QuantizedTensor
from exporter.plan import QuantPlan
from exporter.planning import trained_layers
from exporter.progress import Stages, in_words
from exporter.quantizing import QuantizedStore, quantize_layers
from exporter.ranges import Ranges, calibration_samples, measure_ranges, static_layers
from exporter.recipe import Recipe
from exporter.samples.drawing import draw
from exporter.samples.text import read_text
from exporter.schemes import QuantScheme, wants_text

_TRAINED = "trained.json"
Integers = Callable[[str], QuantizedTensor]


@dataclass(frozen=True)
class Made:
    """Every layer's integers, and how they came to be."""

    integers: Integers  # layer -> its own, or its owner's
    ranges: Ranges | None
    methods: Mapping[str, Any] = field(
        default_factory=dict
    )  # layer -> method and output errors, where judged
    training: Mapping[str, Any] | None = None


def takes_long(recipe: Recipe, plan: QuantPlan) -> bool:
    """Whether a job does work that is worth going on from."""
    return recipe.qat is not None or wants_text({layer.name: layer.scheme for layer in plan.layers})


def make_integers(
    recipe: Recipe, model: Model, plan: QuantPlan, room: Room, work: Path, stages: Stages
) -> Made:
    """The stages calibrate, quantise and train. `work` is empty, or as a killed run of the same job left it."""
    schemes = {layer.name: layer.scheme for layer in plan.layers}
    owners = {layer.name: layer.tied_to or layer.name for layer in plan.layers}
    ranges = None
    if static_layers(schemes):
        with stages.stage("calibrate") as progress:
            ranges = measure_ranges(model, schemes, recipe, progress)
    store = QuantizedStore(work)
    with stages.stage("quantise") as progress:
        told = in_words(progress, stages.console) if wants_text(schemes) else progress
        methods = _quantise(recipe, model, schemes, store, ranges, room, told)
    if recipe.qat is None:
        return Made(lambda name: store.load(owners[name]), ranges, methods)
    with stages.stage("train") as progress:
        trained = QuantizedStore(work / "trained")
        training = _train(
            recipe, model, schemes, lambda name: store.load(owners[name]), ranges, trained, progress
        )
    stages.say(_gained(training))
    layers = set(trained_layers(recipe, model.layers(), schemes))
    return Made(
        lambda name: (trained if owners[name] in layers else store).load(owners[name]),
        ranges,
        methods,
        training,
    )


def _quantise(
    recipe: Recipe,
    model: Model,
    schemes: Mapping[str, QuantScheme],
    store: QuantizedStore,
    ranges: Ranges | None,
    room: Room,
    progress: Callable[[str, float], None],
) -> dict[str, Any]:
    """Every layer's integers into the store; how they were chosen, where their layers' outputs judged it."""
    decided = [(layer, schemes[layer.name]) for layer in model.layers().layers]
    if not wants_text(schemes):
        known = (ranges.least, ranges.moments) if ranges else ()
        quantize_layers(model, decided, store, progress, room.workers, *known)
        return {}
    from exporter.blockwise import calibration_windows, quantize_by_blocks

    assert isinstance(model, CausalLM)  # the plan saw to it
    windows = calibration_windows(model.tokenizer(), _texts(recipe), model.layers().max_context)
    return quantize_by_blocks(model, decided, windows, store, store.folder / "blocks", progress, room.workers)


def _train(
    recipe: Recipe,
    model: Model,
    schemes: Mapping[str, QuantScheme],
    integers: Integers,
    ranges: Ranges | None,
    trained: QuantizedStore,
    progress: Callable[[str, float], None],
) -> Mapping[str, Any]:
    """The recipe's `qat:` from these integers to those that `trained` then holds; once."""
    from exporter.qat import train_static, train_text

    assert recipe.qat is not None
    asked, layers = recipe.qat, trained_layers(recipe, model.layers(), schemes)
    done = trained.folder / _TRAINED
    if done.is_file():
        for name in layers:
            trained.expect(name, schemes[name])
        found: dict[str, Any] = json.loads(done.read_text("utf-8"))
        return found
    trained.folder.mkdir(exist_ok=True)
    checkpoints = trained.folder / "checkpoints"
    if isinstance(model, PythonModule):
        assert ranges is not None and recipe.calibration is not None  # the plan saw to it
        skeleton = model.skeleton(schemes, integers, ranges.plan)
        drawn = replace(recipe, calibration=replace(recipe.calibration, samples=asked.samples))
        samples = list(calibration_samples(model, drawn))
        seen = train_static(model, skeleton, asked, layers, samples, trained, checkpoints, progress)
    else:
        assert isinstance(model, CausalLM)
        text_skeleton = model.skeleton(schemes, integers)
        texts = _texts(recipe, asked.samples)
        seen = train_text(model, text_skeleton, asked, layers, texts, trained, checkpoints, progress)
    draft = done.with_suffix(".partial")
    write_json(draft, seen)
    os.replace(draft, done)
    return seen


def _gained(training: Mapping[str, Any]) -> str:
    """What training was good for, in words."""
    held_out = training["held_out"]
    if training["by"] == "block":
        before, after = held_out["before"], held_out["after"]
    else:
        before, after = held_out["0"], min(held_out.values())
    found = f"  KL on samples that nothing was trained on: {before:.4g} before training, {after:.4g} after"
    return found if after < before else f"{found}; the calibrated integers stay"


def _texts(recipe: Recipe, samples: int | None = None) -> list[str]:
    assert recipe.calibration is not None  # the plan saw to it
    given = recipe.calibration if samples is None else replace(recipe.calibration, samples=samples)
    return [read_text(sample) for sample in draw(given, cache_folder()).samples]
