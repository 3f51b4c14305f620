"""The plan as data: every layer, the rule that decided it, what the files will weigh; to JSON and back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from math import prod
from typing import Any

from exporter.errors import PlanError
from exporter.layers import Kind, LayerInfo
from exporter.schemes import QuantScheme
from exporter.targets import Target
from exporter.tasks import Task

PLAN_FORMAT = 2
FLOAT_BYTES = 4
_SCALE_BITS = 16  # a scale is a bfloat16 number, whatever width a runtime stores it in
_ZERO_POINT_BITS = 8


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
        return self.parameters * FLOAT_BYTES / 1e6

    @property
    def bits_per_weight(self) -> float:
        """Over the layers that rules decide, each table once: weights, bf16 scales and zero points.

        A runtime may store more (float32 scales, a second table); that is in the forecasts.
        """
        bits = sum(stored_bits(layer.info, layer.scheme) for layer in self.layers if layer.tied_to is None)
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
            "targets": [_target_json(forecast.target) for forecast in self.forecasts],
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
                {
                    **asdict(forecast),
                    "target": _target_json(forecast.target),
                    "forecast_mb": round(forecast.megabytes, 3),
                }
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
                        Target(**{**entry["target"], "soc": tuple(entry["target"].get("soc", ()))}),
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
    stored += [scheme.observer] if scheme.is_static else []
    return stored if scheme.rotate is None else [*stored, f"rotate {scheme.rotate}"]


def stored_bits(layer: LayerInfo, scheme: QuantScheme) -> int:
    """Of a layer's weights, bf16 scales and zero points; a runtime may store more."""
    rows = layer.shape[0]
    bits = layer.parameters * scheme.bits
    if scheme.is_float:
        return bits
    scales = 1 if scheme.group == "tensor" else rows * scheme.groups(in_features(layer))
    return bits + scales * (_SCALE_BITS + (0 if scheme.symmetric else _ZERO_POINT_BITS))


def _target_json(target: Target) -> dict[str, Any]:
    """Plain data; JSON has no tuples."""
    return {**asdict(target), "soc": list(target.soc)}


def in_features(layer: LayerInfo) -> int:
    """Length of one row of the (out, in) weight; a convolution's row is its whole filter."""
    return prod(layer.shape[1:])


def target_label(target: Target) -> str:
    """`onnxruntime/cpu`, `executorch/qualcomm for SM8750`."""
    chips = target.variant or ", ".join(target.soc)
    return f"{target.backend}/{target.unit}" + (f" for {chips}" if chips else "")
