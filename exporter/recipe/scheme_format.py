"""The part of a recipe's format that says how a layer is stored."""

from __future__ import annotations

from dataclasses import dataclass, replace

from exporter.errors import Place
from exporter.recipe.document import MapNode
from exporter.recipe.fields import Boolean, Choice, Field, Record
from exporter.recipe.types import SchemeEntry
from exporter.schemes import (
    ACTIVATIONS,
    GRANULARITIES,
    GROUP_SIZES,
    METHODS,
    OBSERVERS,
    ROTATIONS,
    WEIGHTS,
    Activations,
    Granularity,
    Method,
    Observer,
    QuantScheme,
    Weights,
)


@dataclass(frozen=True)
class SchemeDraft:
    """A scheme before it has its name, which is the key it stands under."""

    scheme: QuantScheme
    place: Place
    group_place: Place

    def named(self, name: str) -> SchemeEntry:
        """The scheme under its name."""
        return SchemeEntry(replace(self.scheme, name=name), self.place, self.group_place)


def _scheme(
    node: MapNode,
    weights: Weights,
    group: int | Granularity = "channel",
    symmetric: bool = True,
    activations: Activations = "float",
    method: Method = "mse",
    observer: Observer = "minmax",
    rotate: int | None = None,
) -> SchemeDraft:
    # raises ValueError for a wrong mix
    scheme = QuantScheme("", weights, group, symmetric, activations, method, observer, rotate)
    if weights == "float" and "group" in node.entries:
        raise ValueError("float weights have no group")
    if "observer" in node.entries and not scheme.is_static:
        raise ValueError(f"an observer measures ranges of static activations; these are {activations}")
    if scheme.is_static and method in ("wmse", "hqq", "auto"):
        raise ValueError(
            f"method {method} is built for weights of float or dynamic activations; these are {activations}. Take "
            "method: gptq or mse"
        )
    if method == "hqq" and group == "tensor":
        raise ValueError(
            "method hqq fits a scale for each group or channel; set group: channel, or method: mse"
        )
    group_entry = node.entries.get("group")
    group_place = group_entry.node.place if group_entry else node.place
    return SchemeDraft(scheme, node.place, group_place)


SCHEME = Record(
    _scheme,
    {
        "weights": Field(Choice(WEIGHTS), "width of a stored weight", required=True),
        "group": Field(
            Choice((*GROUP_SIZES, *GRANULARITIES)),
            "weights along the input axis that share a scale; channel: a whole output row",
            default="channel",
        ),
        "symmetric": Field(Boolean(), "true: no zero points", default=True),
        "activations": Field(
            Choice(ACTIVATIONS),
            "dynamic-int8: the runtime quantises the layer's input too; static-*: input and output are integers "
            "whose ranges calibration measures",
            default="float",
        ),
        "method": Field(
            Choice(METHODS),
            "how weights are rounded: mse searches scales for the least error, rtn covers the largest weight, hqq lets "
            "single large errors go; by what a layer takes on calibration samples: wmse weighs errors by it, gptq "
            "chooses integers by the error of the layer's output, auto takes what loses least of these in each layer",
            default="mse",
        ),
        "observer": Field(
            Choice(OBSERVERS),
            "how the range of a static activation is found: all that was seen, all but the rarest values, the "
            "least divergence of the histogram, or the least squared error",
            default="minmax",
        ),
        "rotate": Field(
            Choice(ROTATIONS),
            "neighbouring channels that a Hadamard matrix mixes before weights and activations are rounded, so that no "
            "channel is much larger than the others; the model computes the same, by one more small product for each "
            "input; by default nothing is mixed",
        ),
    },
)
