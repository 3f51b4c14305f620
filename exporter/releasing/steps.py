"""The ladder's steps: from a recipe that missed its envelope to another one that is an ordinary recipe too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from exporter.errors import PlanError, QexportError
from exporter.pipeline import plan_recipe
from exporter.plan import in_features
from exporter.progress import Stages
from exporter.recipe import Recipe, SchemeEntry, changed_recipe, parse_recipe, recipe_data, same_model
from exporter.schemes import CALIBRATED_METHODS, ROTATIONS

if TYPE_CHECKING:
    from exporter.searching import Goal

INT8 = "envelope_int8"  # the scheme that a step adds where the recipe has none of eight bits
_ROTATED = 64  # channels; more take more multiplications and gain little
MARGIN = 0.95  # of a limit, for what a prediction is aimed at


def with_method(recipe: Recipe) -> Recipe:
    """Every scheme of four bits by gptq, and inputs rotated before they are rounded; neither costs bytes that count.

    Raises PlanError that says why there is nothing to change.
    """
    used = _used(recipe)
    _needs_text(recipe)
    plain = [name for name, entry in used.items() if entry.scheme.bits <= 4 and not _calibrated(entry)]
    turned = _rotations(recipe)
    if not plain and not used.keys() & turned:
        raise PlanError(
            "every scheme of four bits has a calibrated method already, and what can be is rotated"
        )
    data = recipe_data(recipe)
    for name in plain:
        data["schemes"][name]["method"] = "gptq"
    for name, size in turned.items():
        data["schemes"][name]["rotate"] = size
    what = [f"{', '.join(plain)} by gptq"] if plain else []
    what += [f"{', '.join(turned)} rotated"] if turned else []
    return changed_recipe(recipe, data, f"Step method: {'; '.join(what)}.")


def _rotations(recipe: Recipe) -> dict[str, int]:
    """Schemes that do not rotate yet, those too that only a mix would use, with the largest rotation up to 64 that
    divides the rows of all their layers."""
    _, plan = plan_recipe(recipe)
    quantised = [layer for layer in plan.layers if not layer.scheme.is_float]
    found = {}
    for name, entry in recipe.schemes.items():
        if entry.scheme.is_float or entry.scheme.rotate is not None:
            continue
        own = [layer for layer in quantised if layer.scheme.name == name] or quantised
        rows = {in_features(layer.info) for layer in own}
        fitting = [size for size in ROTATIONS if size <= _ROTATED and not any(row % size for row in rows)]
        if rows and fitting:
            found[name] = fitting[-1]
    return found


def with_int8(recipe: Recipe) -> Recipe:
    """Every quantised layer in eight bits. Raises PlanError where it is so already."""
    data = recipe_data(recipe)
    eight = _eight_bits(recipe, data)
    rules = [rule for rule in data["rules"] if rule["scheme"] not in ("float", eight)]
    if not rules:
        raise PlanError("every quantised layer has eight bits already")
    for rule in rules:
        rule["scheme"] = eight
    return changed_recipe(recipe, data, f"Step int8: every layer as {eight}.")


def with_mix(recipe: Recipe, goal: Goal, stages: Stages) -> tuple[Recipe, float]:
    """The best mix of the recipe's schemes and eight bits for the goal, and its predicted KL.

    Raises PlanError where the goal cannot be met, QexportError where a search cannot be.
    """
    from exporter.searching import search  # imports torch, which a wrong recipe must not wait for

    _needs_text(recipe)
    data = recipe_data(recipe)
    _eight_bits(recipe, data)
    base = changed_recipe(recipe, data, "Step mix.")
    model, plan = plan_recipe(base)
    found = search(base, model, plan, goal, stages)
    return same_model(parse_recipe(found.recipe.encode(), recipe.path), recipe), found.loss


def with_training(recipe: Recipe) -> Recipe:
    """The same, then trained. Raises PlanError where it is trained already, or cannot be."""
    if recipe.qat is not None:
        raise PlanError("the recipe trains already")
    _needs_text(recipe)
    data = recipe_data(recipe)
    data["qat"] = {}
    return changed_recipe(recipe, data, "Step qat: trained.")


def _needs_text(recipe: Recipe) -> None:
    if recipe.model.task != "text-generation" or recipe.targets[0].on_npu:
        raise PlanError(f"is built for text-generation on CPUs; this model's task is {recipe.model.task}")
    if recipe.calibration is None or not recipe.calibration.text:
        raise QexportError("needs calibration: {text: [a file]}")


def _used(recipe: Recipe) -> Mapping[str, SchemeEntry]:
    names = {rule.scheme.name for rule in recipe.rules}
    return {name: entry for name, entry in recipe.schemes.items() if name in names}


def _calibrated(entry: SchemeEntry) -> bool:
    return entry.scheme.method in CALIBRATED_METHODS


def _eight_bits(recipe: Recipe, data: dict[str, Any]) -> str:
    """The name of a scheme of eight bits; written into `data` where the recipe has none."""
    for name, entry in recipe.schemes.items():
        if entry.scheme.bits == 8:
            return name
    first = next((entry.scheme for entry in recipe.schemes.values()), None)
    if first is None or first.is_static:
        raise PlanError("the recipe has no scheme of eight bits; add one")
    data["schemes"][INT8] = {"weights": "int8", "group": "channel", "activations": first.activations}
    if first.rotate is not None:
        data["schemes"][INT8]["rotate"] = first.rotate
    if first.method in CALIBRATED_METHODS:
        data["schemes"][INT8]["method"] = first.method
    return INT8
