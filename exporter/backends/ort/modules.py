"""torch modules that hold packed integers and trace to ONNX Runtime's quantised operators.

The integers go from the plan into the graph's initializers; no float copy of a weight is made and
no pass quantises anything afterwards.
"""

from __future__ import annotations

import torch

from exporter.backends.ort.names import LAYER_KEY
from exporter.backends.ort.packing import PackedWeight, pack
from exporter.models.rotating import rotate
from exporter.models.skeleton import LayerFactory, PlannedLayer
from exporter.schemes import QuantScheme


def accuracy_level(scheme: QuantScheme) -> int:
    """MatMulNBits' accuracy_level: 4 quantises the activations to int8 per block, 0 keeps them float."""
    return 4 if scheme.activations == "dynamic-int8" else 0


class _PackedLayer(torch.nn.Module):
    """Buffers shared by both operators: data (out, bytes), scales (out, blocks or 1), zero points.

    Scales are bfloat16, which neither operator takes: passes/scales.py widens them in the finished graph.
    """

    def __init__(self, planned: PlannedLayer, weight: PackedWeight) -> None:
        super().__init__()
        self.metadata = {LAYER_KEY: planned.info.name}
        self.out_features, self.in_features = planned.info.shape
        self.bits, self.block, self.rotate = weight.bits, weight.block, planned.scheme.rotate
        self.data: torch.Tensor
        self.scales: torch.Tensor
        self.zero_points: torch.Tensor | None
        self.register_buffer("data", torch.from_numpy(weight.data))
        self.register_buffer("scales", torch.from_numpy(weight.scales).view(torch.bfloat16))
        zeros = weight.zero_points
        self.register_buffer("zero_points", None if zeros is None else torch.from_numpy(zeros))


class PackedLinear(_PackedLayer):
    """x (…, in) -> (…, out) by com.microsoft::MatMulNBits."""

    def __init__(self, planned: PlannedLayer, weight: PackedWeight) -> None:
        super().__init__(planned, weight)
        self.level = accuracy_level(planned.scheme)
        # (out, bytes) -> (out, blocks, blob): a view, so a tied table keeps one storage
        self.data = self.data.view(self.out_features, self.in_features // self.block, -1)
        self.bias = None if planned.bias is None else torch.nn.Parameter(planned.bias.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Emit the operator; the output's shape is all that tracing computes."""
        attributes: dict[str, int | float | str | bool] = {
            "K": self.in_features,
            "N": self.out_features,
            "bits": self.bits,
            "block_size": self.block,
            "accuracy_level": self.level,
        }
        inputs: list[torch.Tensor | None] = [rotate(x, self.rotate), self.data, self.scales]
        if self.zero_points is not None or self.bias is not None:
            inputs.append(self.zero_points)
        if self.bias is not None:
            inputs += [None, self.bias]  # between them: the order of the inputs, for other quantisers
        y: torch.Tensor = torch.onnx.ops.symbolic(
            "com.microsoft::MatMulNBits",
            inputs,
            attributes,  # type: ignore[arg-type]  # torch's annotation is an invariant dict
            dtype=x.dtype,
            shape=(*x.shape[:-1], self.out_features),
            version=1,
            metadata_props=self.metadata,
        )
        return y


class PackedEmbedding(_PackedLayer):
    """Token ids (…) -> (…, in) by com.microsoft::GatherBlockQuantized."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Emit the operator."""
        attributes: dict[str, int | float | str | bool] = {
            "gather_axis": 0,
            "quantize_axis": 1,
            "block_size": self.block,
        }
        if self.bits != 4:  # 4 is the default, and the attribute is unknown before 1.23
            attributes["bits"] = self.bits
        table: torch.Tensor = torch.onnx.ops.symbolic(
            "com.microsoft::GatherBlockQuantized",
            (self.data, ids, self.scales, *(() if self.zero_points is None else (self.zero_points,))),
            attributes,  # type: ignore[arg-type]  # torch's annotation is an invariant dict
            dtype=torch.float32,
            shape=(*ids.shape, self.in_features),
            version=1,
            metadata_props=self.metadata,
        )
        return rotate(table, self.rotate)


def layer_factory() -> LayerFactory:
    """A make_layer for Skeleton.build. A tied layer takes the packed bytes of its owner."""
    packed: dict[str, PackedWeight] = {}

    def weight_of(planned: PlannedLayer) -> PackedWeight:
        owner = planned.info.tied_to or planned.info.name
        if owner not in packed:
            packed[owner] = pack(planned.load())
        return packed[owner]

    def make_layer(planned: PlannedLayer) -> torch.nn.Module:
        weight = weight_of(planned)
        return (PackedEmbedding if planned.info.kind == "embedding" else PackedLinear)(planned, weight)

    return make_layer
