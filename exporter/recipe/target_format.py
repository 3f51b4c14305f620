"""The entries of a recipe's `targets` as tables of keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from exporter.errors import Place
from exporter.recipe.document import MapNode, Node, Problems, ScalarNode
from exporter.recipe.fields import (
    Boolean,
    Choice,
    Field,
    Integer,
    JsonSchema,
    ListOf,
    Record,
    Tagged,
    Text,
    refuse,
)
from exporter.socs import ETHOS_U, SOCS
from exporter.targets import (
    DEFAULT_CONTEXT,
    DELEGATES,
    EPS,
    KV_CACHE_TYPES,
    NPU_LENGTH,
    REFUSED,
    Target,
)

ABIS = ("arm64-v8a", "armeabi-v7a", "x86_64", "x86")


def fitting_targets(targets: list[tuple[Target, Place]], where: str, problems: Problems) -> None:
    """A backend writes one folder, so two targets with one backend would overwrite each other; and the values of one
    recipe are placed once, for CPUs, for Qualcomm's NPUs or for Arm's."""
    first: dict[str, int] = {}
    for target, place in targets:
        if target.key in first:
            text = f"backend '{target.key}' again; it is first given in line {first[target.key]}"
            problems.append((place, f"{where}: {text}, and each backend writes one folder"))
        first.setdefault(target.key, place.line)
    kinds = {target.dialect: target for target, _ in targets}
    if len(kinds) > 1:
        names = " and ".join(sorted(target.key for target in kinds.values()))
        text = "a CPU computes in float between its integers, an NPU in integers alone, Qualcomm's in others than Arm's"
        problems.append((targets[0][1], f"{where}: {names} in one recipe: {text}; write one recipe for each"))
    for what in ("length", "prefill"):
        values = {str(getattr(target, what) or "none") for target, _ in targets if target.on_npu}
        if len(values) > 1:
            found = f"{what} {' and '.join(sorted(values))} in one recipe"
            text = "its NPU targets are given one program of fixed shapes"
            problems.append((targets[0][1], f"{where}: {found}: {text}; set the same {what} in all"))


@dataclass(frozen=True)
class _Unit:
    """What computes. A name that people know and that is not built gets its reason."""

    built: tuple[str, ...]

    def read(self, node: Node, where: str, problems: Problems) -> str:
        value = node.value if isinstance(node, ScalarNode) else None
        if isinstance(value, str) and value.lower() in REFUSED:
            raise refuse(problems, node.place, f"{where} '{value}' is not built: {REFUSED[value.lower()]}")
        return str(Choice(self.built).read(node, where, problems))

    def json_schema(self) -> JsonSchema:
        return {"enum": list(self.built)}


@dataclass(frozen=True)
class _Chips:
    """One system on a chip, or a list of them."""

    def read(self, node: Node, where: str, problems: Problems) -> tuple[str, ...]:
        chip = Choice(tuple(SOCS))
        if isinstance(node, ScalarNode):
            return (str(chip.read(node, where, problems)),)
        return tuple(str(name) for name in ListOf(chip, maximum=len(SOCS)).read(node, where, problems))

    def json_schema(self) -> JsonSchema:
        chip = Choice(tuple(SOCS)).json_schema()
        return {"anyOf": [chip, {"type": "array", "items": chip, "minItems": 1}]}


def _target(node: MapNode, **values: Any) -> Target:
    del node
    target = Target(**values)
    if target.unit in ("qnn", "qualcomm") and not target.soc:
        raise ValueError(f"{target.unit} compiles for one chip; set soc: to one of {', '.join(SOCS)}")
    if target.unit not in ("qnn", "qualcomm") and target.soc:
        raise ValueError(f"{target.unit} is for every chip; leave soc out")
    if target.unit == "ethos-u" and target.variant is None:
        raise ValueError(
            f"ethos-u compiles for one configuration; set variant: to one of {', '.join(ETHOS_U)}"
        )
    if target.unit != "ethos-u" and target.variant is not None:
        raise ValueError(f"{target.unit} has no variants; leave variant out")
    if target.prefill is not None and target.dialect != "qualcomm":
        raise ValueError(
            f"prefill is built for qnn and qualcomm, and {target.unit} is given; leave prefill out"
        )
    if target.prefill is not None and target.prefill > target.length:
        raise ValueError(
            f"prefill {target.prefill} is beyond length {target.length}, the past that its tokens become; set "
            f"prefill: {target.length} or less"
        )
    return target


_COMMON = {
    "min_runtime": Field(
        Text(r"[0-9]+\.[0-9]+(\.[0-9]+)?", 'a version such as "1.23"'),
        "oldest runtime version that the phone may carry",
    ),
    "abi": Field(Choice(ABIS), "the phone's ABI", default="arm64-v8a"),
    "max_context": Field(
        Integer(8, 1 << 20),
        "longest context, in tokens, that a language model is made for",
        default=DEFAULT_CONTEXT,
    ),
    "kv_cache": Field(
        Choice(KV_CACHE_TYPES), "how keys and values of past tokens are stored", default="float32"
    ),
}

_SOC = Field(_Chips(), "chip, or chips, that an NPU program is compiled for")
_LENGTH = Field(
    Integer(8, 4096),
    "tokens of a text on an NPU, whose shapes are fixed; padding included",
    default=NPU_LENGTH,
)
_PREFILL = Field(
    Integer(2, 4096),
    "new tokens of a second program with the same weights, which takes a language model's prompt in; at most length",
)

TARGET = Tagged(
    "backend",
    {
        "onnxruntime": Record(
            _target,
            {
                "backend": Field(Choice(("onnxruntime",)), "the runtime", required=True),
                **_COMMON,
                "ep": Field(_Unit(EPS), "execution provider", default="cpu"),
                "soc": _SOC,
                "length": _LENGTH,
                "prefill": _PREFILL,
                "ort_format": Field(Boolean(), "also write model.ort", default=False),
            },
        ),
        "executorch": Record(
            _target,
            {
                "backend": Field(Choice(("executorch",)), "the runtime", required=True),
                **_COMMON,
                "delegate": Field(_Unit(DELEGATES), "what runs the operators", default="xnnpack"),
                "soc": _SOC,
                "variant": Field(Choice(ETHOS_U), "configuration of an Ethos-U"),
                "length": _LENGTH,
                "prefill": _PREFILL,
            },
        ),
    },
)
