"""Recipe + layer list + what the backends can do -> QuantPlan. Pure: no weights, no torch, no files.

The plan is the job on paper. It can be printed, compared and tested without a model, and every later
step only reads it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import prod
from typing import Any, Protocol

from exporter.errors import Place, PlanError, RecipeError
from exporter.layers import CacheShape, Kind, LayerInfo, ModelLayers
from exporter.recipe.folding import listed
from exporter.recipe.matching import decide_layers
from exporter.recipe.types import Recipe, Rule
from exporter.schemes import FLOAT, GROUP_SIZES, QuantScheme
from exporter.targets import DEFAULT_CONTEXT, Target
from exporter.tasks import Task

PLAN_FORMAT = 2
_FLOAT_BYTES = 4
_SCALE_BITS = 16  # a scale is a bfloat16 number, whatever width a runtime stores it in
_ZERO_POINT_BITS = 8


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


@dataclass(frozen=True)
class RuleRef:
    """The rule that decided a layer."""

    index: int  # from 0
    line: int
    text: str
    because: str | None


@dataclass(frozen=True)
class LayerPlan:
    """What becomes of one layer."""

    name: str
    kind: Kind
    shape: tuple[int, ...]
    tied_to: str | None
    rule: RuleRef
    scheme: QuantScheme
    bytes: Mapping[str, int]  # per backend
    fallback: tuple[str, ...] = ()  # why the rule's scheme gave way to float; empty where it did not

    @property
    def info(self) -> LayerInfo:
        """The layer as the model has it."""
        return LayerInfo(self.name, self.kind, self.shape, self.tied_to)


@dataclass(frozen=True)
class Forecast:
    """Bytes of the model file(s) for one target."""

    target: Target
    layer_bytes: int
    other_bytes: int  # norms, biases and other parameters, float32
    fixed_bytes: int  # graph, operators, tables: measured once per backend
    cache_bytes: int = 0  # of the KV cache in memory at max_context, batch 1; not in the files

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.layer_bytes + self.other_bytes + self.fixed_bytes

    @property
    def megabytes(self) -> float:
        """10^6 bytes, as app stores count."""
        return self.total_bytes / 1e6


@dataclass(frozen=True)
class QuantPlan:
    """Every layer's scheme, with the rule that chose it, and what that costs on each target."""

    recipe: str
    recipe_sha256: str
    source: str
    task: Task
    model: str  # one line for a person
    layers: tuple[LayerPlan, ...]
    other_parameters: int
    forecasts: tuple[Forecast, ...]
    notes: tuple[str, ...] = ()

    @property
    def targets(self) -> tuple[Target, ...]:
        """The recipe's targets, their context within the model's positions."""
        return tuple(forecast.target for forecast in self.forecasts)

    @property
    def parameters(self) -> int:
        """Parameters of the model, a shared table counted once."""
        return self._decided_parameters + self.other_parameters

    @property
    def _decided_parameters(self) -> int:
        return sum(layer.info.parameters for layer in self.layers if layer.tied_to is None)

    @property
    def float_megabytes(self) -> float:
        """The model in float32."""
        return self.parameters * _FLOAT_BYTES / 1e6

    @property
    def bits_per_weight(self) -> float:
        """Over the layers that rules decide, each table once: weights, bf16 scales and zero points.

        A runtime may store more (float32 scales, a second table); that is in the forecasts.
        """
        bits = sum(_stored_bits(layer) for layer in self.layers if layer.tied_to is None)
        return bits / max(1, self._decided_parameters)

    @property
    def fallbacks(self) -> tuple[LayerPlan, ...]:
        """Layers that stay float because a target cannot run their rule's scheme."""
        return tuple(layer for layer in self.layers if layer.fallback)

    @cached_property
    def plan_hash(self) -> str:
        """sha256 over what decides the files: model source, task, targets, and each layer's scheme.

        Comments, rule order and line numbers do not count where they lead to the same schemes.
        """
        content = {
            "format": PLAN_FORMAT,
            "source": self.source,
            "task": self.task,
            "targets": [asdict(forecast.target) for forecast in self.forecasts],
            "layers": [[*asdict(layer.info).values(), _stored_scheme(layer.scheme)] for layer in self.layers],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Plain data for json.dumps; from_json reads it."""
        return {
            "format": PLAN_FORMAT,
            "plan_hash": self.plan_hash,
            "recipe": {"name": self.recipe, "sha256": self.recipe_sha256},
            "model": {"source": self.source, "task": self.task, "description": self.model},
            "totals": {
                "parameters": self.parameters,
                "other_parameters": self.other_parameters,
                "bits_per_weight": round(self.bits_per_weight, 4),
                "float_mb": round(self.float_megabytes, 3),
            },
            "targets": [
                {**asdict(forecast), "forecast_mb": round(forecast.megabytes, 3)}
                for forecast in self.forecasts
            ],
            "layers": [
                {**asdict(layer), "shape": list(layer.shape), "fallback": list(layer.fallback)}
                for layer in self.layers
            ],
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> QuantPlan:
        """The plan that to_json wrote. PlanError where the data is not one."""
        try:
            if data["format"] != PLAN_FORMAT:
                raise PlanError(f"plan of format {data['format']!r}; this qexport reads format {PLAN_FORMAT}")
            plan = cls(
                recipe=data["recipe"]["name"],
                recipe_sha256=data["recipe"]["sha256"],
                source=data["model"]["source"],
                task=data["model"]["task"],
                model=data["model"]["description"],
                layers=tuple(_layer_from_json(layer) for layer in data["layers"]),
                other_parameters=data["totals"]["other_parameters"],
                forecasts=tuple(
                    Forecast(
                        Target(**entry["target"]),
                        entry["layer_bytes"],
                        entry["other_bytes"],
                        entry["fixed_bytes"],
                        entry["cache_bytes"],
                    )
                    for entry in data["targets"]
                ),
                notes=tuple(data["notes"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise PlanError(f"this is not a plan that qexport wrote: {error!r}; plan again") from error
        if plan.plan_hash != data.get("plan_hash"):
            raise PlanError("the plan's content does not fit its plan_hash: it was edited; plan again")
        return plan


def _layer_from_json(data: Mapping[str, Any]) -> LayerPlan:
    return LayerPlan(
        data["name"],
        data["kind"],
        tuple(data["shape"]),
        data["tied_to"],
        RuleRef(**data["rule"]),
        QuantScheme(**data["scheme"]),
        dict(data["bytes"]),
        tuple(data["fallback"]),
    )


def _stored_scheme(scheme: QuantScheme) -> list[object]:
    """What of a scheme reaches the files: all but the recipe's name for it."""
    stored: list[object] = [scheme.weights, scheme.group, scheme.symmetric, scheme.activations, scheme.method]
    return [*stored, scheme.observer] if scheme.is_static else stored


def _stored_bits(layer: LayerPlan) -> int:
    scheme, rows = layer.scheme, layer.shape[0]
    bits = layer.info.parameters * scheme.bits
    if scheme.is_float:
        return bits
    scales = 1 if scheme.group == "tensor" else rows * scheme.groups(in_features(layer.info))
    return bits + scales * (_SCALE_BITS + (0 if scheme.symmetric else _ZERO_POINT_BITS))


def in_features(layer: LayerInfo) -> int:
    """Length of one row of the (out, in) weight; a convolution's row is its whole filter."""
    return prod(layer.shape[1:])


def target_label(target: Target) -> str:
    """`onnxruntime/cpu`, `executorch/xnnpack`."""
    return f"{target.backend}/{target.ep if target.backend == 'onnxruntime' else target.delegate}"


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
                target.backend: backends[target.backend].layer_bytes(layer, schemes[layer.name], target)
                for target in recipe.targets
            },
            fallbacks.get(layer.name, ()),
        )
        for layer, rule in ((layer, rules[layer.name]) for layer in model.layers)
    )
    forecasts = tuple(
        Forecast(
            target,
            sum(layer.bytes[target.backend] for layer in layers),
            model.other_parameters * _FLOAT_BYTES,
            _fixed_bytes(backends[target.backend], model, target),
            backends[target.backend].cache_bytes(target, model.cache),
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
            yield "ranges of static activations are measured on the example inputs; calibration: names samples"
    elif recipe.calibration is not None and not fixed_scales:
        yield "calibration is checked and not used: methods rtn and mse, and dynamic-int8, need none"
    elif recipe.calibration is not None:
        yield "calibration: its samples give the scales of the KV cache; rtn, mse and dynamic-int8 need none"
    elif fixed_scales:
        yield "onnxruntime: the KV cache's scales are measured on the package's own text; calibration: names another"
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
        if self.problems:
            raise RecipeError(self.problems)
        schemes = {name: FLOAT if name in fallbacks else rule.scheme for name, rule in self.rules.items()}
        return schemes, fallbacks

    def reasons(self, layer: LayerInfo, scheme: QuantScheme) -> dict[int, str]:
        """Target's index -> why it cannot run the layer."""
        fixed = None if scheme.is_float else layer.fixed
        found = {
            index: fixed or self.backends[target.backend].unsupported(layer, scheme, target)
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
            reason = self.backends[target.backend].unsupported_cache(target, self.model.cache)
            if reason is not None:
                self.problems.append((place, f"{label}: {reason}"))

    def check_groups(self) -> set[str]:
        """Names of layers whose row the group of their scheme does not divide; one problem per row length."""
        failing: dict[tuple[str, int], list[str]] = {}
        for layer in self.model.layers:
            scheme = self.rules[layer.name].scheme
            if isinstance(scheme.group, int) and in_features(layer) % scheme.group and not layer.tied_to:
                failing.setdefault((scheme.name, in_features(layer)), []).append(layer.name)
        for (name, length), layers in failing.items():
            entry = self.recipe.schemes[name]
            dividing = [str(group) for group in GROUP_SIZES if length % group == 0]
            text = f"group {entry.scheme.group} of scheme {name} does not divide the {length} input features"
            allowed = f"allowed: {', '.join([*dividing, 'channel', 'tensor'])}"
            self.problems.append((entry.group_place, f"{text} of {listed(layers)}; {allowed}"))
        bad = {name for layers in failing.values() for name in layers}
        return bad | {layer.name for layer in self.model.layers if layer.tied_to in bad}

    def report(self, refused: Mapping[str, Mapping[int, str]]) -> None:
        """One problem per rule, target and reason; one per target where the reason holds for all layers."""
        groups: dict[tuple[int, str], dict[int, list[str]]] = {}  # (target, reason) -> rule -> layers
        for name, reasons in refused.items():
            for index, reason in reasons.items():
                groups.setdefault((index, reason), {}).setdefault(self.rules[name].index, []).append(name)
        way_out = "choose another scheme"
        if self.recipe.on_unsupported == "error":
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
