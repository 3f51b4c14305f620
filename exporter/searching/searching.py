"""`qexport search`: scores once, then the best mix for a budget, as an ordinary recipe."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from exporter.backends import get_backend
from exporter.errors import PlanError, QexportError
from exporter.folders import cache_folder, locked
from exporter.layers import LayerInfo
from exporter.models.causal_lm import CausalLM
from exporter.models.loading import Model
from exporter.plan import QuantPlan, in_features
from exporter.progress import Stages, in_words
from exporter.recipe import Recipe, parse_recipe
from exporter.samples.drawing import calibration_key, draw
from exporter.samples.text import read_text
from exporter.schemes import QuantScheme, undivided
from exporter.searching.goals import Goal, Sizes, options_of, solve, totals
from exporter.searching.knapsack import Option
from exporter.searching.rules import WrittenRule, rules_for
from exporter.searching.scoring import FORMAT, Scores, Scoring

_CURVE = 40  # budgets along the curve
CHOSEN, WRITTEN = "this mix", "the recipe's own rules"  # what a check measures


@dataclass(frozen=True)
class Found:
    """What a search gave."""

    recipe: str  # the new recipe's text
    rules: tuple[WrittenRule, ...]
    loss: float  # predicted KL, nats per token
    megabytes: Mapping[str, float]  # by target
    bits_per_weight: float
    curve: tuple[tuple[float, float], ...]  # (MB of the largest file, predicted KL)
    uniform: Mapping[
        str, tuple[float, float, float]
    ]  # scheme -> MB of the largest file, predicted and true KL
    scores: Scores
    checked: Mapping[
        str, tuple[float, float]
    ]  # mix -> MB of the largest file, true KL; empty unless asked for

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "scores": self.scores.to_json()}


def search(
    recipe: Recipe, model: Model, plan: QuantPlan, goal: Goal, stages: Stages, check: bool = False
) -> Found:
    """The best mix of the recipe's schemes for a goal.

    A layer whose rule says `float` stays float; every other layer may have any scheme of the recipe that all targets
    can run. `check`: measure what the mix, and the recipe's own rules, truly lose. Raises PlanError where nothing is
    left to choose or the goal cannot be met, QexportError without text.
    """
    if not isinstance(model, CausalLM):
        raise PlanError(
            f"{recipe.path}: a search is built for text-generation; this model's task is {recipe.model.task}"
        )
    schemes = {layer.name: layer.scheme for layer in plan.layers}
    layers = [layer for layer in model.layers().layers if not schemes[layer.name].is_float]
    candidates = {name: entry.scheme for name, entry in recipe.schemes.items() if not entry.scheme.is_float}
    allowed = _allowed(recipe, layers, candidates)
    _check(recipe, goal, plan, layers, candidates)
    assert recipe.calibration is not None
    key = _key(recipe, model, candidates, allowed)
    folder = cache_folder() / "search" / key
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder), stages.stage("scores") as progress:
        drawn = draw(recipe.calibration, cache_folder())
        texts = [read_text(sample) for sample in drawn.samples]
        scoring = Scoring(model, layers, candidates, allowed, folder, recipe.calibration.seed)
        scores = scoring.scores(texts, in_words(progress, stages.console))
    sizes = Sizes(plan, layers)
    by_name = {layer.name: layer for layer in layers}
    with stages.stage("choose"):
        options = options_of(scores, by_name, candidates, sizes)
        choice = solve(goal, options, sizes, scores)
        found = _found(recipe, goal, scores, options, choice, sizes)
    if not check:
        return found
    mixes = {CHOSEN: {name: choice[unit.name] for unit in scores.units for name in unit.layers}}
    weighs = {CHOSEN: max(found.megabytes.values())}
    if len(rules := {schemes[layer.name].name for layer in layers}) > 1:  # of one scheme it is known already
        assert rules <= set(candidates)
        mixes[WRITTEN] = {layer.name: schemes[layer.name].name for layer in layers}
        weighs[WRITTEN] = max(forecast.megabytes for forecast in plan.forecasts)
    with locked(folder), stages.stage("check") as progress:
        true = scoring.true_kl(texts, mixes, in_words(progress, stages.console))
    return replace(found, checked={mix: (weighs[mix], true[mix]) for mix in mixes})


def _allowed(
    recipe: Recipe, layers: Sequence[LayerInfo], candidates: Mapping[str, QuantScheme]
) -> dict[str, list[str]]:
    """Layer -> candidates that every target runs. Raises PlanError naming a layer that none fits."""
    found: dict[str, list[str]] = {}
    reasons: dict[str, list[str]] = {}
    for layer in layers:
        found[layer.name] = []
        for name, scheme in candidates.items():
            misfit = undivided(scheme, in_features(layer))
            whys = [misfit] if misfit else []
            whys += [
                f"{target.key}: {why}"
                for target in recipe.targets
                if not misfit and (why := get_backend(target.key).unsupported(layer, scheme, target))
            ]
            if not whys:
                found[layer.name].append(name)
            reasons.setdefault(layer.name, []).extend(f"{name}: {why}" for why in whys)
    for layer in layers:
        if layer.tied_to is not None:  # one weight, one scheme
            both = [name for name in found[layer.tied_to] if name in found[layer.name]]
            found[layer.name] = found[layer.tied_to] = both
    for name, names in found.items():
        if not names:
            raise PlanError(
                f"layer {name}: no scheme of the recipe fits it. {'; '.join(reasons[name])}. Add a scheme that "
                "does, or a rule that keeps it float"
            )
    return found


def _check(
    recipe: Recipe,
    goal: Goal,
    plan: QuantPlan,
    layers: Sequence[LayerInfo],
    candidates: Mapping[str, QuantScheme],
) -> None:
    if recipe.calibration is None or not recipe.calibration.text:
        raise QexportError(
            f"{recipe.path}: a search measures on text, and the recipe names none; add calibration: {{text: [a file]}}"
        )
    if not layers:
        raise PlanError(f"{recipe.path}: every layer is float by its rule; nothing is left to search over")
    if len(candidates) < 2:
        raise PlanError(
            f"{recipe.path}: a search needs two schemes to choose among; here is {', '.join(candidates)}"
        )
    if goal.megabytes is not None and goal.megabytes >= plan.float_megabytes:
        raise PlanError(
            f"--target-mb {goal.megabytes:g}: the model in float32 is {plan.float_megabytes:.1f} MB, which fits as it "
            "is; use `scheme: float` for every layer, or ask for less"
        )


def _key(
    recipe: Recipe,
    model: CausalLM,
    candidates: Mapping[str, QuantScheme],
    allowed: Mapping[str, Sequence[str]],
) -> str:
    """What scores depend on."""
    assert recipe.calibration is not None
    content = {
        "format": FORMAT,
        "model": model.identity(),
        "candidates": {name: asdict(scheme) for name, scheme in candidates.items()},
        "allowed": {name: list(names) for name, names in allowed.items()},
        "calibration": calibration_key(recipe.calibration),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:24]


def _found(
    recipe: Recipe,
    goal: Goal,
    scores: Scores,
    options: Sequence[Option],
    choice: Mapping[str, str],
    sizes: Sizes,
) -> Found:
    loss, weighs = totals(options, choice)
    costs: dict[str, dict[str, tuple[float, float]]] = {}
    for option in options:
        costs.setdefault(option.unit, {})[option.scheme] = option.loss, max(option.sizes[:-1]) / 1e6
    rules = [
        WrittenRule(rule.text, "float", rule.because or "float in the recipe that was searched")
        for rule in recipe.rules
        if rule.scheme.is_float and rule.match is not None
    ]
    rules += rules_for(scores.units, choice, costs, "searched")
    return Found(
        _text(recipe, goal, rules, scores),
        tuple(rules),
        loss,
        {
            label: (size + fixed) / 1e6
            for label, size, fixed in zip(sizes.labels, weighs, sizes.fixed, strict=False)
        },
        (weighs[-1] + sizes.kept_bits) / sizes.weights,
        _curve(options, sizes, scores),
        {
            name: (_largest(totals(of, {o.unit: name for o in of})[1], sizes), sum(o.loss for o in of), true)
            for name, true in scores.uniform.items()
            if len(of := [o for o in options if o.scheme == name]) == len(scores.units)
        },
        scores,
        {},
    )


def _largest(weighs: Sequence[int], sizes: Sizes) -> float:
    return max(size + fixed for size, fixed in zip(weighs, sizes.fixed, strict=False)) / 1e6


def _curve(options: Sequence[Option], sizes: Sizes, scores: Scores) -> tuple[tuple[float, float], ...]:
    """Predicted KL of the best mixes between the smallest and the largest file."""
    groups = [[o for o in options if o.unit == unit.name] for unit in scores.units]
    low = max(sum(min(o.sizes[i] for o in g) for g in groups) + f for i, f in enumerate(sizes.fixed)) / 1e6
    high = max(sum(max(o.sizes[i] for o in g) for g in groups) + f for i, f in enumerate(sizes.fixed)) / 1e6
    found = []
    for megabytes in np.linspace(low, high, _CURVE):
        choice = solve(Goal(megabytes=float(megabytes) + 1e-3), options, sizes, scores)
        loss, weighs = totals(options, choice)
        found.append((_largest(weighs, sizes), loss))
    return tuple(dict.fromkeys(found))


def _text(recipe: Recipe, goal: Goal, rules: Sequence[WrittenRule], scores: Scores) -> str:
    """The recipe with other rules and another name; everything else as it stands there."""
    lines = recipe.text.splitlines()
    tops = [number for number, line in enumerate(lines) if re.match(r"[A-Za-z_]+\s*:", line)]
    first = next(number for number in tops if re.match(r"rules\s*:", lines[number]))
    behind = min((number for number in tops if number > first), default=len(lines))
    while behind > first + 1 and (
        not lines[behind - 1].strip() or lines[behind - 1].lstrip().startswith("#")
    ):
        behind -= 1  # comments above the next key are that key's
    correlation = scores.correlations[scores.best]
    written = [
        f"# Chosen by qexport search for {goal.words}, by score {scores.best} (rank correlation with true KL "
        f"{correlation:.2f}).",
        "rules:",
        *(
            f"  - {{match: {json.dumps(rule.match)}, scheme: {rule.scheme}, because: {json.dumps(rule.because)}}}"
            for rule in rules
        ),
    ]
    lines[first:behind] = written
    name = f"{recipe.name}_{goal.file_words}"[:64]
    at = next(number for number, line in enumerate(lines) if re.match(r"name\s*:", line))
    lines[at] = f"name: {name}"
    text = "\n".join(lines) + "\n"
    parse_recipe(text.encode(), recipe.path)  # whatever stood in it: what is written is a recipe
    return text


def write_new(path: Path, content: str, force: bool) -> None:
    """A text file, whole or not at all. Raises QexportError where one is there and `force` is not given."""
    if path.exists() and not force:
        raise QexportError(f"{path}: is there already; name another with --out, or replace it with --force")
    draft = path.with_name(f".{path.name}.partial")
    with draft.open("w", encoding="utf-8") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(draft, path)
