"""QuantScheme: how one layer's weights and activations are stored. Pure data, no arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Weights = Literal["int4", "int8", "float"]
Granularity = Literal["channel", "tensor"]
Activations = Literal["float", "dynamic-int8", "static-int8", "static-uint8", "static-int16"]
Method = Literal["rtn", "mse", "wmse", "hqq", "gptq", "auto"]
Observer = Literal["minmax", "percentile", "entropy", "mse"]

GROUP_SIZES = (16, 32, 64, 128)
ROTATIONS = (16, 32, 64, 128)  # channels that a Hadamard rotation mixes
WEIGHTS: tuple[str, ...] = get_args(Weights)
ACTIVATIONS: tuple[str, ...] = get_args(Activations)
METHODS: tuple[str, ...] = get_args(Method)
# Those that look at what a layer takes on calibration samples.
CALIBRATED_METHODS = ("wmse", "gptq", "auto")
GRANULARITIES: tuple[str, ...] = get_args(Granularity)
OBSERVERS: tuple[str, ...] = get_args(Observer)

_BITS = {"int4": 4, "int8": 8, "float": 32}
# Symmetric int8 leaves -128 unused, so that negating a weight is exact and no kernel's
# 16-bit intermediate saturates; symmetric int4 uses all sixteen codes.
_RANGES = {
    ("int4", True): (-8, 7),
    ("int4", False): (-8, 7),
    ("int8", True): (-127, 127),
    ("int8", False): (-128, 127),
}
# Codes of activations whose ranges are fixed when the model is exported.
_STATIC_RANGES = {"static-int8": (-128, 127), "static-uint8": (0, 255), "static-int16": (-32768, 32767)}
_ACTIVATION_MARKS = {
    "float": "",
    "dynamic-int8": " a8",
    "static-int8": " s8",
    "static-uint8": " su8",
    "static-int16": " s16",
}


@dataclass(frozen=True)
class QuantScheme:
    """Weights' width, the group that shares a scale (along the input axis), and the activations."""

    name: str
    weights: Weights
    group: int | Granularity = "channel"
    symmetric: bool = True
    activations: Activations = "float"
    method: Method = "mse"
    observer: Observer = "minmax"  # how the range of a static activation is found; no other has one
    rotate: int | None = (
        None  # neighbours along the input axis that are mixed before rounding (exporter.rotation)
    )

    def __post_init__(self) -> None:
        if self.weights not in WEIGHTS:
            raise ValueError(f"weights {self.weights!r} is none of {', '.join(WEIGHTS)}")
        if self.group not in (*GROUP_SIZES, *GRANULARITIES):
            allowed = ", ".join(map(str, (*GROUP_SIZES, *GRANULARITIES)))
            raise ValueError(f"group {self.group!r} is none of {allowed}")
        if self.activations not in ACTIVATIONS:
            raise ValueError(f"activations {self.activations!r} is none of {', '.join(ACTIVATIONS)}")
        if self.method not in METHODS:
            raise ValueError(f"method {self.method!r} is none of {', '.join(METHODS)}")
        if self.observer not in OBSERVERS:
            raise ValueError(f"observer {self.observer!r} is none of {', '.join(OBSERVERS)}")
        if self.is_float and self.activations != "float":
            raise ValueError("float weights take float activations")
        if self.rotate is not None and self.rotate not in ROTATIONS:
            raise ValueError(f"rotate {self.rotate!r} is none of {', '.join(map(str, ROTATIONS))}")
        if self.rotate is not None and (self.is_float or self.is_static):
            raise ValueError("only integer weights with float or dynamic-int8 activations are rotated")

    @property
    def is_float(self) -> bool:
        """True where the layer keeps its float32 weights."""
        return self.weights == "float"

    @property
    def is_static(self) -> bool:
        """True where the layer takes and gives integers whose ranges were measured beforehand."""
        return self.activations in _STATIC_RANGES

    @property
    def steps_scales(self) -> bool:
        """True where the scales of a row's blocks are whole steps of one scale (exporter.blocks): static layers', whose
        only kernel for blocks, that of Qualcomm's HTP, has them so."""
        return self.is_static and isinstance(self.group, int)

    @property
    def activation_limits(self) -> tuple[int, int]:
        """Smallest and largest code of a static activation. Undefined for others."""
        return _STATIC_RANGES[self.activations]

    @property
    def bits(self) -> int:
        """Bits of one stored weight, scales not counted."""
        return _BITS[self.weights]

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest integer code. Undefined for float."""
        return _RANGES[self.weights, self.symmetric]

    def groups(self, in_features: int) -> int:
        """Scales per output row for a weight of (out, in_features)."""
        return in_features // self.group if isinstance(self.group, int) else 1

    def describe(self) -> str:
        """Short form for tables: `int4 g32 sym a8`, `h64` behind it where 64 channels are rotated."""
        if self.is_float:
            return "float"
        group = f"g{self.group}" if isinstance(self.group, int) else self.group
        sign = "sym" if self.symmetric else "asym"
        turned = "" if self.rotate is None else f" h{self.rotate}"
        return f"{self.weights} {group} {sign}{_ACTIVATION_MARKS[self.activations]}{turned}"


FLOAT = QuantScheme(name="float", weights="float")


def wants_text(schemes: Mapping[str, QuantScheme]) -> bool:
    """Whether a method of these looks at calibration text (static activations have calibration of their own)."""
    return any(scheme.method in CALIBRATED_METHODS and not scheme.is_static for scheme in schemes.values())


def undivided(scheme: QuantScheme, in_features: int) -> str | None:
    """Why a scheme does not fit a row of that length, whatever runs it, or None."""
    if isinstance(scheme.group, int) and in_features % scheme.group:
        return f"group {scheme.group} does not divide the {in_features} input features"
    if scheme.rotate is not None and in_features % scheme.rotate:
        return f"rotate {scheme.rotate} does not divide the {in_features} input features"
    return None


def untrainable(scheme: QuantScheme, task: str) -> str | None:
    """Why a scheme cannot be trained in a model of that task, or None."""
    if scheme.is_float:
        return "float weights have nothing to train"
    if not scheme.symmetric:
        return "zero points are not trained; set symmetric: true"
    if task == "module" and not scheme.is_static:
        return (
            "of a module static layers are trained; name them in qat.layers, or set activations: static-int8"
        )
    return None
