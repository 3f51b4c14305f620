"""Recipe + layer list + what the backends can do -> QuantPlan. Pure: no weights, no torch, no files.

The plan is the job on paper. It can be printed, compared and tested without a model, and every later
step only reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Protocol

from exporter.errors import Place, RecipeError
from exporter.layers import CacheShape, LayerInfo, ModelLayers
from exporter.plan import FLOAT_BYTES, Forecast, LayerPlan, QuantPlan, RuleRef, in_features, target_label
from exporter.recipe.folding import listed
from exporter.recipe.matching import decide_layers
from exporter.recipe.types import LIMITS, Recipe, Rule, Training
from exporter.schemes import (
    CALIBRATED_METHODS,
    FLOAT,
    GRANULARITIES,
    GROUP_SIZES,
    ROTATIONS,
    QuantScheme,
    untrainable,
)
from exporter.targets import DEFAULT_CONTEXT, Target
from exporter.tasks import Task


class Capabilities(Protocol):
    """The part of a backend that a plan asks."""

    def unsupported(self, layer: LayerInfo, scheme: QuantScheme, target: Target) -> str | None:
        """Why not, or None."""

    def layer_bytes(self, layer: LayerInfo, scheme: QuantScheme, target: Target) -> int:
        """Bytes that the layer takes in the written files."""

    def unsupported_cache(self, target: Target, cache: Sequence[CacheShape]) -> str | None:
        """Why this target cannot hold such a KV cache, or None."""

    def cache_bytes(self, target: Target, cache: Sequence[CacheShape]) -> int:
        """Bytes of the KV cache at max_context, batch 1."""


def make_plan(recipe: Recipe, model: ModelLayers, backends: Mapping[str, Capabilities]) -> QuantPlan:
    """Decide every layer. Raises RecipeError where recipe, model and targets do not fit together.

    `backends` holds at least those that the recipe's targets name. A layer that one target cannot run
    either stops the plan or, with `on_unsupported: float`, stays float on all of them: the runtimes
    must hold the same numbers.
    """
    recipe = _within_positions(recipe, model)
    rules = decide_layers(recipe, model)
    lint = _Lint(recipe, model, rules, backends)
    schemes, fallbacks = lint.schemes()
    layers = tuple(
        LayerPlan(
            layer.name,
            layer.kind,
            layer.shape,
            layer.tied_to,
            RuleRef(rule.index, rule.place.line, rule.text, rule.because),
            schemes[layer.name],
            {
                target.key: backends[target.key].layer_bytes(layer, schemes[layer.name], target)
                for target in recipe.targets
            },
            fallbacks.get(layer.name, ()),
        )
        for layer, rule in ((layer, rules[layer.name]) for layer in model.layers)
    )
    forecasts = tuple(
        Forecast(
            target,
            sum(layer.bytes[target.key] for layer in layers),
            model.other_parameters * FLOAT_BYTES,
            _fixed_bytes(backends[target.key], model, target),
            backends[target.key].cache_bytes(target, model.cache),
        )
        for target in recipe.targets
    )
    return QuantPlan(
        recipe=recipe.name,
        recipe_sha256=recipe.sha256,
        source=recipe.model.source,
        task=recipe.model.task,
        model=model.description,
        layers=layers,
        other_parameters=model.other_parameters,
        forecasts=forecasts,
        notes=tuple(_notes(recipe, model)),
    )


def trained_layers(recipe: Recipe, model: ModelLayers, schemes: Mapping[str, QuantScheme]) -> list[str]:
    """Layers that `qat:` trains, in the model's order: quantised ones that it names, each shared weight once; where it
    names none, all of those that it can train so."""
    asked = recipe.qat
    if asked is None:
        return []
    by_block = asked.trained_by(recipe.model.task) == "block"
    return [
        layer.name
        for layer in model.layers
        if layer.tied_to is None
        and not schemes[layer.name].is_float
        and (
            any(pattern.matches(layer.name) for pattern, _ in asked.layers)
            if asked.layers
            else not by_block or _in_row(layer.name)
        )
    ]


def _in_row(layer: str) -> bool:
    """Whether a layer is in a row of blocks, which modules have by their numbers."""
    return any(part.isdigit() for part in layer.split("."))


def _within_positions(recipe: Recipe, model: ModelLayers) -> Recipe:
    """The default context is no longer than the model's own; a longer one that was asked for is refused later."""
    most = model.max_context
    if most is None or most >= DEFAULT_CONTEXT:
        return recipe
    targets = tuple(
        replace(target, max_context=most) if target.max_context == DEFAULT_CONTEXT else target
        for target in recipe.targets
    )
    return replace(recipe, targets=targets)


def _fixed_bytes(backend: Capabilities, model: ModelLayers, target: Target) -> int:
    """What a backend's files hold besides parameters, where it says so."""
    measure = getattr(backend, "fixed_bytes", None)
    return int(measure(model, target)) if measure is not None else 0


def _notes(recipe: Recipe, model: ModelLayers) -> Iterator[str]:
    """What of the recipe has no effect, or another one than its words say."""
    most = model.max_context
    if model.cache and most is not None and most < DEFAULT_CONTEXT:
        yield f"the model was made for {most:,} positions, so max_context is {most:,} where no less is asked for"
    used = {rule.scheme.name for rule in recipe.rules}
    for name, entry in recipe.schemes.items():
        if name not in used:
            yield f"scheme {name} (line {entry.place.line}) is used by no rule"
    fixed_scales = any(t.backend == "onnxruntime" and t.kv_cache == "int8" for t in recipe.targets)
    if any(rule.scheme.is_static for rule in recipe.rules):
        if recipe.calibration is None:
            own = "the example inputs" if recipe.model.task == "module" else "the package's own text"
            yield f"ranges of static activations are measured on {own}; calibration: names samples"
    elif recipe.calibration is not None and not fixed_scales:
        yield "calibration is checked and not used: methods rtn and mse, and dynamic-int8, need none"
    elif recipe.calibration is not None:
        yield "calibration: its samples give the scales of the KV cache; rtn, mse and dynamic-int8 need none"
    elif fixed_scales:
        yield "onnxruntime: the KV cache's scales are measured on the package's own text; calibration: names another"
    if recipe.envelope is not None:
        limits = ", ".join(f"{key} {limit:g}" for key, limit in recipe.envelope.limits.items())
        yield f"released only with {limits}; tried in turn: as written, {', '.join(recipe.envelope.ladder)}"
    gates = {**asdict(recipe.parity.lowering), **asdict(recipe.parity.quantisation)}
    known = _gates_of(recipe.model.task)
    if unset := [name for name, limit in gates.items() if limit is None and name in known]:
        yield f"parity sets no limit for {', '.join(unset)}: measured and reported, not judged"


def _gates_of(task: Task) -> tuple[str, ...]:
    """The limits of parity that a task's ladder judges by."""
    if task == "feature-extraction":
        return ("max_rel", "min_cosine", "min_language_cosine")
    with_words = ("max_ppl_ratio",) if task in ("text-generation", "fill-mask", "module") else ()
    return ("max_rel", "max_kl", "min_top1", *with_words)


class _Lint:
    """Asks for every layer whether its group divides and whether each target can run it."""

    def __init__(
        self,
        recipe: Recipe,
        model: ModelLayers,
        rules: Mapping[str, Rule],
        backends: Mapping[str, Capabilities],
    ) -> None:
        self.recipe, self.model, self.rules, self.backends = recipe, model, rules, backends
        self.problems: list[tuple[Place, str]] = []

    def schemes(self) -> tuple[dict[str, QuantScheme], dict[str, tuple[str, ...]]]:
        """Scheme of each layer, and why where it is not its rule's. Raises RecipeError."""
        undivided = self.check_groups()
        refused = {
            layer.name: reasons
            for layer in self.model.layers
            if layer.name not in undivided and (reasons := self.reasons(layer, self.rules[layer.name].scheme))
        }
        fallbacks: dict[str, tuple[str, ...]] = {}
        if refused and self.recipe.on_unsupported == "float":
            fallbacks = self.fall_back(refused)
            by_name = self.model.by_name()
            refused = {name: still for name in fallbacks if (still := self.reasons(by_name[name], FLOAT))}
        self.report(refused)
        self.check_contexts()
        self.check_methods()
        self.check_training()
        self.check_envelope()
        if self.problems:
            raise RecipeError(self.problems)
        schemes = {name: FLOAT if name in fallbacks else rule.scheme for name, rule in self.rules.items()}
        return schemes, fallbacks

    def reasons(self, layer: LayerInfo, scheme: QuantScheme) -> dict[int, str]:
        """Target's index -> why it cannot run the layer."""
        fixed = None if scheme.is_float else layer.fixed
        found = {
            index: fixed or self.backends[target.key].unsupported(layer, scheme, target)
            for index, target in enumerate(self.recipe.targets)
        }
        return {index: reason for index, reason in found.items() if reason is not None}

    def fall_back(self, refused: Mapping[str, Mapping[int, str]]) -> dict[str, tuple[str, ...]]:
        """Layers that become float: the refused ones, and what shares a weight with them."""
        shared: dict[str, dict[str, None]] = {}  # owner -> reasons of the layers on its weight
        owner_of = {layer.name: layer.tied_to or layer.name for layer in self.model.layers}
        for name, reasons in refused.items():
            for index, reason in reasons.items():
                text = f"{target_label(self.recipe.targets[index])}: {reason}"
                shared.setdefault(owner_of[name], {})[text] = None
        return {name: tuple(shared[owner]) for name, owner in owner_of.items() if owner in shared}

    def check_contexts(self) -> None:
        """A context beyond the model's own, and a KV cache that a target cannot hold."""
        for target, place in zip(self.recipe.targets, self.recipe.target_places, strict=True):
            label = target_label(target)
            most = self.model.max_context
            if most is not None and target.max_context > most:
                text = f"max_context {target.max_context:,} is beyond the {most:,} positions of the model"
                self.problems.append((place, f"{label}: {text}; set max_context: {most} or less"))
            if not self.model.cache and target.kv_cache != "float32":
                text = f"kv_cache {target.kv_cache}, but the model keeps no keys and values; leave it out"
                self.problems.append((place, f"{label}: {text}"))
                continue
            reason = self.backends[target.key].unsupported_cache(target, self.model.cache)
            if reason is not None:
                self.problems.append((place, f"{label}: {reason}"))

    def check_methods(self) -> None:
        """Methods that look at what a layer takes, where nothing says on which text."""
        used = {rule.scheme.name for rule in self.rules.values()}
        calibration = self.recipe.calibration
        for name, entry in self.recipe.schemes.items():
            method = entry.scheme.method
            if name not in used or method not in CALIBRATED_METHODS or entry.scheme.is_static:
                continue
            if self.recipe.model.task != "text-generation":
                task = self.recipe.model.task
                text = f"is built for text-generation and for static activations; this model's task is {task}"
                self.problems.append(
                    (entry.place, f"method {method} of scheme {name} {text}; set method: mse")
                )
            elif calibration is None or not calibration.text:
                text = "looks at what layers take on calibration text, and the recipe names none"
                way_out = "add calibration: {text: [a file]}, or set method: mse"
                self.problems.append((entry.place, f"method {method} of scheme {name} {text}; {way_out}"))

    def check_training(self) -> None:
        """`qat:` of what cannot be trained, or of nothing."""
        asked = self.recipe.qat
        if asked is None or asked.place is None:
            return
        task, given = self.recipe.model.task, self.recipe.calibration
        if task not in ("text-generation", "module") or self.recipe.targets[0].on_npu:
            text = "qat is built for text-generation and module on CPUs; leave it out"
            self.problems.append((asked.place, text))
        elif given is None or (task == "text-generation" and not given.text):
            what, kind = (
                ("text", "text: [a file]")
                if task == "text-generation"
                else ("samples", "pictures: [a folder]")
            )
            text = f"qat trains on calibration {what}, and the recipe names none; add calibration: {{{kind}}}"
            self.problems.append((asked.place, text))
        elif task == "module" and not asked.weights:
            text = "qat.weights: false trains scales only, and those of static layers stay; leave it out"
            self.problems.append((asked.place, text))
        self._check_trained_by(asked)
        for pattern, place in asked.layers:
            if not any(pattern.matches(layer.name) for layer in self.model.layers):
                self.problems.append((place, f"qat.layers: {pattern.text} matches no layer"))
        trained = trained_layers(self.recipe, self.model, {n: rule.scheme for n, rule in self.rules.items()})
        if not trained and not asked.layers:
            kind = "layer in a block" if asked.trained_by(task) == "block" else "layer"
            self.problems.append(
                (asked.place, f"qat: nothing to train, no {kind} is quantised; leave it out")
            )
        for name in trained:
            reason = untrainable(self.rules[name].scheme, task)
            if reason is None and asked.trained_by(task) == "block" and not _in_row(name):
                reason = "it is in no block; set by: model, or leave it out of qat.layers"
            if reason is not None:
                self.problems.append((asked.place, f"qat cannot train {name}: {reason}"))
                break

    def _check_trained_by(self, asked: Training) -> None:
        assert asked.place is not None
        if asked.by == "block" and self.recipe.model.task == "module":
            self.problems.append((asked.place, "qat.by: block is built for text-generation; leave it out"))
        elif asked.patience is not None and asked.trained_by(self.recipe.model.task) == "block":
            text = "qat.patience ends training by: model, and blocks take all their steps; leave it out"
            self.problems.append((asked.place, text))

    def check_envelope(self) -> None:
        """Limits that nothing of this task measures."""
        asked = self.recipe.envelope
        if asked is None or asked.place is None:
            return
        task, on_npu = self.recipe.model.task, self.recipe.targets[0].on_npu
        known = {"max_mb", *_gates_of(task)}
        if task == "text-generation" and not on_npu:
            known |= {"min_accuracy_ratio", "max_safety_shift", "min_tokens_per_second"}
        for key in asked.limits:
            if key not in known:
                shown = ", ".join(key for key in LIMITS if key in known)
                text = f"envelope.{key} is not measured for {task}{' on NPUs' if on_npu else ''}; allowed: {shown}"
                self.problems.append((asked.place, text))

    def check_groups(self) -> set[str]:
        """Names of layers whose row the group or the rotation of their scheme does not divide; one problem per row
        length."""
        failing: dict[tuple[str, str, int], list[str]] = {}
        for layer in self.model.layers:
            scheme, length = self.rules[layer.name].scheme, in_features(layer)
            for word, size in (("group", scheme.group), ("rotate", scheme.rotate)):
                if isinstance(size, int) and length % size and not layer.tied_to:
                    failing.setdefault((word, scheme.name, length), []).append(layer.name)
        for (word, name, length), layers in failing.items():
            entry = self.recipe.schemes[name]
            text = (
                f"{word} {getattr(entry.scheme, word)} of scheme {name} does not divide the {length} input features"
                f" of {listed(layers)}"
            )
            sizes, others = (GROUP_SIZES, GRANULARITIES) if word == "group" else (ROTATIONS, ())
            allowed = [*(str(size) for size in sizes if length % size == 0), *others]
            way_out = f"allowed: {', '.join(allowed)}" if allowed else "leave it out"
            place = entry.group_place if word == "group" else entry.place
            self.problems.append((place, f"{text}; {way_out}"))
        bad = {name for layers in failing.values() for name in layers}
        return bad | {layer.name for layer in self.model.layers if layer.tied_to in bad}

    def report(self, refused: Mapping[str, Mapping[int, str]]) -> None:
        """One problem per rule, target and reason; one per target where the reason holds for all layers."""
        groups: dict[tuple[int, str], dict[int, list[str]]] = {}  # (target, reason) -> rule -> layers
        for name, reasons in refused.items():
            for index, reason in reasons.items():
                groups.setdefault((index, reason), {}).setdefault(self.rules[name].index, []).append(name)
        way_out = "choose another scheme"
        if self.recipe.on_unsupported == "error" and not self.recipe.targets[0].on_npu:
            way_out += ", or set on_unsupported: float to keep such layers float on every target"
        for (index, reason), by_rule in groups.items():
            label = target_label(self.recipe.targets[index])
            if sum(map(len, by_rule.values())) == len(self.model.layers) > 1:
                self.problems.append(
                    (self.recipe.target_places[index], f"{label}, for every layer: {reason}")
                )
                continue
            for rule_index, names in by_rule.items():
                rule = self.recipe.rules[rule_index]
                scheme = rule.scheme if self.recipe.on_unsupported == "error" else FLOAT
                shown = scheme.name if scheme.is_float else f"{scheme.name} ({scheme.describe()})"
                text = f"{label} cannot run {listed(names)} as {shown}: {reason}; {way_out}"
                self.problems.append((rule.scheme_place, text))
