"""Static layers on their way through ExecuTorch's own partitioner and visitors for XNNPACK.

The partitioner knows a quantised layer by its pattern: dequantised input and weight, a bias that is a constant,
a quantize node behind. The visitors write weights as constants called after the hash of their bytes; ours put
the layer's name before it, so that a reader knows which layer it has before it.
"""

from __future__ import annotations

from typing import Any

import executorch.backends.xnnpack.operators  # noqa: F401  registers its visitors
import torch
from executorch.backends.xnnpack.operators.node_visitor import _node_visitor_dict
from executorch.backends.xnnpack.serialization.xnnpack_graph_schema import XNNGraph
from torch.export import ExportedProgram

from exporter.backends.executorch.operators import planned_names
from exporter.static.naming import operator_name
from exporter.static.weights import BIAS, WEIGHT

_PARTS = {f".{WEIGHT}.values": ".weight", f".{BIAS}.values": ".bias"}


def with_float_biases(program: ExportedProgram) -> ExportedProgram:
    """In place: the float32 numbers that the int32 biases stand for, as the constants that XNNPACK's visitors want.

    They quantise a bias by the same two scales again; a multiple of their product gives the same integer.
    """
    constants = program.graph_signature.inputs_to_buffers
    for node in list(program.graph.nodes):
        if node.op != "call_function" or operator_name(node) != "dequantize_per_channel":
            continue
        values, scales = node.args[0], node.args[1]
        if values.name not in constants or values.meta["val"].dtype != torch.int32:
            continue
        held = program.state_dict
        codes, steps = held[constants[values.name]], held[constants[scales.name]]
        held[constants[values.name]] = codes.float() * steps
        values.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(values)
        program.graph.erase_node(node)
    program.graph_module.recompile()
    return program


class _Named:
    """Puts a static layer's name before the key of its constants."""

    exported_program: ExportedProgram
    _named_data_store: Any

    def get_serialized_buffer_index(
        self, tensor: torch.fx.Node, xnn_graph: XNNGraph, *rest: Any, **options: Any
    ) -> int:
        """See NodeVisitor: number of the constant in the graph, 0 where the tensor is none."""
        index: int = super().get_serialized_buffer_index(tensor, xnn_graph, *rest, **options)  # type: ignore[misc]
        params = rest[3] if len(rest) > 3 else options.get("quant_params")
        node = tensor if params is None else params.q_input
        name = _constant_name(self.exported_program, node)
        if index and name is not None:
            entry = xnn_graph.constant_data[index]
            stored = self._named_data_store.pte_data[entry.named_key]
            key = f"{name}:{entry.named_key}"
            data = self._named_data_store.buffers[stored.buffer_index]
            self._named_data_store.add_named_data(key, data, stored.alignment)
            entry.named_key = key
        return index


def _constant_name(program: ExportedProgram, node: torch.fx.Node) -> str | None:
    """`blocks.0.conv.weight` for a constant of a static layer, else None."""
    path = program.graph_signature.inputs_to_buffers.get(node.name, "")
    for suffix, short in _PARTS.items():
        if path.endswith(suffix):
            path = path.removesuffix(suffix)
            layers = [name for name in planned_names() if path == name or path.endswith(f".{name}")]
            return max(layers, key=len) + short if layers else None
    return None


def register() -> None:
    """Let convolutions and linear layers be written by visitors that name their constants."""
    for target in ("aten.convolution.default", "aten.linear.default"):
        visitor = _node_visitor_dict[target]  # the decorator that registers leaves no class behind
        if not issubclass(visitor, _Named):
            _node_visitor_dict[target] = type(f"Named{visitor.__name__}", (_Named, visitor), {})


register()
