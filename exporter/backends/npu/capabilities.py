"""What each NPU target takes, as data: the plan's lint reads it, and a test lowers one layer for every entry.

An entry is a combination of layer, weights, group and activations. `source` says where it is written down; all of them
were compiled and run as well (tests/npu/test_capabilities.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from exporter.layers import Kind, LayerInfo, ModelLayers
from exporter.plan import in_features
from exporter.schemes import Activations, Granularity, QuantScheme, Weights
from exporter.socs import SOCS
from exporter.targets import Target

_HTP = (
    "Qualcomm AI Engine Direct, HTP op definition supplement: Conv2d, DepthWiseConv2d, FullyConnected, Gather"
)
_TOSA = "TOSA 1.0 specification, profile PRO-INT with extensions EXT-INT4 and EXT-INT16"
_VELA = "ethos-u-vela 5.1.0 over TOSA 1.0, Ethos-U85 technical reference manual"


@dataclass(frozen=True)
class Entry:
    """One combination that a target computes."""

    kind: Kind
    weights: Weights
    group: Granularity
    activations: Activations
    source: str
    oldest_arch: int = 68  # of Qualcomm's HTP


def _entries(
    source: str, activations: tuple[Activations, ...], weights: tuple[Weights, ...]
) -> Iterator[Entry]:
    for activation in activations:
        for kind in ("linear", "conv"):
            for weight in weights:
                for group in ("channel", "tensor"):
                    yield Entry(kind, weight, group, activation, source, 73 if weight == "int4" else 68)  # type: ignore[arg-type]
        yield Entry("embedding", "int8", "tensor", activation, source)


TABLES: Mapping[str, tuple[Entry, ...]] = {
    "onnxruntime-qnn": tuple(_entries(_HTP, ("static-int8", "static-int16"), ("int8", "int4"))),
    "executorch-qualcomm": tuple(_entries(_HTP, ("static-int8", "static-int16"), ("int8", "int4"))),
    "executorch-tosa": tuple(_entries(_TOSA, ("static-int8", "static-int16"), ("int8", "int4"))),
    "executorch-ethos-u": tuple(_entries(_VELA, ("static-int8",), ("int8", "int4"))),
}


def unsupported(layer: LayerInfo, scheme: QuantScheme, target: Target) -> str | None:
    """Why this layer cannot run with this scheme on this target, or None. Pure."""
    if scheme.is_float:
        if layer.kind == "embedding":
            return None  # the table has the codes of all other values
        return (
            "an NPU computes in integers: a layer in float would run on the CPU; give it weights int8 and activations "
            "static-int16, the most exact there is"
        )
    if not scheme.symmetric:
        return "an NPU's weights are symmetric; set symmetric: true"
    if not scheme.is_static:
        kinds = sorted({entry.activations for entry in TABLES[target.key]})
        return (
            f"activations {scheme.activations}: an NPU takes ranges that were measured beforehand; set activations: "
            f"{' or '.join(kinds)}"
        )
    return _misfit(layer, scheme, target)


def _misfit(layer: LayerInfo, scheme: QuantScheme, target: Target) -> str | None:
    """The first of the table's columns that does not fit, with what it allows."""
    fitting = [entry for entry in TABLES[target.key] if entry.kind == layer.kind]
    for what in ("activations", "weights", "group"):
        wanted = getattr(scheme, what)
        allowed = sorted({str(getattr(entry, what)) for entry in fitting})
        fitting = [entry for entry in fitting if getattr(entry, what) == wanted]
        if not fitting:
            return f"{what} {wanted} is not among what {layer.kind} layers take there; allowed: {', '.join(allowed)}"
    old = [SOCS[name] for name in target.soc if SOCS[name].arch < fitting[0].oldest_arch]
    if old:
        newer = ", ".join(soc.name for soc in SOCS.values() if soc.arch >= fitting[0].oldest_arch)
        return (
            f"{scheme.weights} weights need a Hexagon Tensor Processor v{fitting[0].oldest_arch} or newer, and "
            f"{old[0].name} ({old[0].phones}) has v{old[0].arch}; set weights: int8, or a soc of {newer}"
        )
    if target.variant is not None and scheme.bits == 4 and "u85" not in target.variant:
        return f"{target.variant} unpacks int4 weights to int8; set weights: int8, or a variant of ethos-u85"
    return None


def layer_bytes(layer: LayerInfo, scheme: QuantScheme, target: Target) -> int:
    """Bytes of the packed weight, its scales and its bias in a compiled file."""
    if scheme.is_float:  # a table in the codes of the activations, 16 bits where anything is
        return 2 * layer.parameters
    rows = layer.parameters // in_features(layer)
    scales = 4 * (1 if scheme.group == "tensor" else rows)
    bias = 0 if layer.kind == "embedding" else 4 * rows
    return layer.parameters * scheme.bits // 8 + scales + bias


def fixed_bytes(model: ModelLayers, target: Target) -> int:
    """What a compiled file holds besides weights: operators, tables, the description of its borders."""
    del model
    return 0
