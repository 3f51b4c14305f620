"""What each NPU target takes, as data: the plan's lint reads it, and a test lowers one layer for every entry.

An entry is a combination of layer, weights, group and activations. `source` says where it is written down; all of them
were compiled and run as well (tests/npu/test_npu_capabilities.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from exporter.blocks import BLOCK
from exporter.layers import Kind, LayerInfo
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
    group: int | Granularity
    activations: Activations
    source: str
    oldest_arch: int = 0  # of Qualcomm's HTP; 0: any


_A8: Activations = "static-int8"
_A16: Activations = "static-int16"
_PRODUCTS: tuple[Kind, ...] = ("linear", "conv")
_WEIGHTS: tuple[Weights, ...] = ("int8", "int4")
_GROUPS: tuple[Granularity, ...] = ("channel", "tensor")
_BLOCKS = (32, 64, 128)  # of 16 weights, it computes something else (docs/npu.md)
_EXPANSION = "Qualcomm AI Engine Direct, QnnTypes.h: Qnn_BlockwiseExpansion_t, of FullyConnected and MatMul"


def _entries(source: str, activations: Sequence[Activations], four_bits_from: int = 0) -> tuple[Entry, ...]:
    """Products of every width and group, and lookups of 8 bits."""
    products = itertools.product(activations, _PRODUCTS, _WEIGHTS, _GROUPS)
    return (
        *(
            Entry(kind, width, group, taken, source, four_bits_from if width == "int4" else 0)
            for taken, kind, width, group in products
        ),
        *(Entry("embedding", "int8", "tensor", taken, source) for taken in activations),
    )


_HTP_ENTRIES = (
    *_entries(_HTP, (_A8, _A16), four_bits_from=73),
    *(Entry("linear", "int4", block, _A16, _EXPANSION, 73) for block in _BLOCKS),
)
TABLES: Mapping[str, tuple[Entry, ...]] = {
    "onnxruntime-qnn": _HTP_ENTRIES,
    "executorch-qualcomm": _HTP_ENTRIES,
    # With 16-bit activations, linear layers and lookups alone: what Arm's compiler makes of int4 weights, or of
    # convolutions, beside them computes something else (docs/npu.md).
    "executorch-tosa": (
        *_entries(_TOSA, (_A8,)),
        Entry("linear", "int8", "channel", _A16, _TOSA),
        Entry("linear", "int8", "tensor", _A16, _TOSA),
        Entry("embedding", "int8", "tensor", _A16, _TOSA),
    ),
    "executorch-ethos-u": _entries(_VELA, (_A8,)),
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
        wider = "weights: int8 and group: channel" if isinstance(scheme.group, int) else "weights: int8"
        return (
            f"{scheme.weights} weights need a Hexagon Tensor Processor v{fitting[0].oldest_arch} or newer, and "
            f"{old[0].name} ({old[0].phones}) has v{old[0].arch}; set {wider}, or a soc of {newer}"
        )
    if isinstance(scheme.group, int) and layer.shape[0] == 1:
        return "QNN's compiler takes no blocks of a layer with one output; set group: channel"
    if target.variant is not None and scheme.bits == 4 and "u85" not in target.variant:
        return f"{target.variant} unpacks int4 weights to int8; set weights: int8, or a variant of ethos-u85"
    return None


# Sizes, measured on EfficientNet-Lite0 and MiniLM (docs/npu.md). The HTP keeps filters in blocks of 32 by 32 channels,
# and those of depthwise convolutions spread out, twice as far for 16-bit activations; Vela adds its commands.
_SIDE = 32
_DEPTHWISE = {8: 4.85, 16: 9.2}
_TOSA_ROW, _VELA_ROW, _VELA_LAYER = 12, 6, 5800
_SCALE = 4
# A second graph of the same weights, for each layer: 15 kB in SmolLM2-135M, 8 kB in a small net; commands and tables.
_SECOND_GRAPH_LAYER = 15_000
SIZE_SHARE, SIZE_BYTES = 0.05, 600_000  # what a forecast may be off by; tables of functions, commands, names


def layer_bytes(layer: LayerInfo, scheme: QuantScheme, target: Target) -> int:
    """Bytes of the packed weight and its scales in a compiled file; biases are counted among other parameters."""
    if scheme.is_float:  # a table in the codes of the activations, 16 bits where anything is
        return 2 * layer.parameters
    rows = layer.parameters // in_features(layer)
    scales = _SCALE * (1 if scheme.group == "tensor" else rows)
    if target.unit == "tosa":  # one byte for each weight, of 4 bits too
        return layer.parameters + _TOSA_ROW * rows
    if target.unit == "ethos-u":
        return layer.parameters * scheme.bits // 8 + _VELA_ROW * rows + _VELA_LAYER
    if layer.kind != "conv":
        steps = layer.parameters // BLOCK if isinstance(scheme.group, int) else 0  # a byte for each
        return layer.parameters * scheme.bits // 8 + steps + scales
    outer, inner, places = layer.shape[0], layer.shape[1], layer.parameters // rows // layer.shape[1]
    if inner == 1 and outer > 1:
        wide = 16 if scheme.activation_limits[1] > 255 else 8
        return int(layer.parameters * _DEPTHWISE[wide]) + scales
    padded = places * _SIDE**2 * -(-outer // _SIDE) * -(-inner // _SIDE)
    return padded * scheme.bits // 8 + scales


def second_graph_bytes(layers: int, target: Target) -> int:
    """What a prompt's program adds to one compiled file, whose weights are those of the decode step."""
    return layers * _SECOND_GRAPH_LAYER if target.prefill else 0


def size_problem(forecast: int, found: int) -> str | None:
    """Why a compiled file is not as large as its packed weights, or None."""
    if abs(found - forecast) <= SIZE_SHARE * forecast + SIZE_BYTES:
        return None
    return (
        f"the compiled file has {found / 1e6:.2f} MB, and packed weights would make {forecast / 1e6:.2f} MB: more than "
        f"{100 * SIZE_SHARE:.0f} % and {SIZE_BYTES / 1e6:.1f} MB apart; the compiler has unpacked or dropped some"
    )
