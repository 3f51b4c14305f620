"""`qexport::planned_linear` in ExecuTorch's own way to XNNPACK, which models of any kind take.

The two extension points are ExecuTorch's: a partitioner takes a list of configs
(backends/xnnpack/partition/xnnpack_partitioner.py) and node visitors register themselves
(backends/xnnpack/operators/node_visitor.py).
"""

from __future__ import annotations

from typing import Any

import torch
from executorch.backends.xnnpack.operators.node_visitor import NodeVisitor, register_node_visitor
from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
from executorch.backends.xnnpack.partition.config.xnnpack_config import (
    ConfigPrecisionType,
    XNNPartitionerConfig,
)
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.serialization.xnnpack_graph_schema import XNNGraph
from torch.export import ExportedProgram

from exporter.backends.executorch.delegates import DelegateGraph, write_planned_linear
from exporter.backends.executorch.operators import NAMESPACE, planned_layer


class PlannedLinearConfig(XNNPartitionerConfig):  # type: ignore[misc]  # executorch ships no types
    """Tells the partitioner that planned linears belong into a delegate."""

    target_name = "planned_linear.default"

    def check_constraints(self, node: torch.fx.Node, ep: ExportedProgram) -> bool:
        """Always: capabilities.unsupported has refused what XNNPACK cannot run."""
        return True

    def get_node_and_deps(self, node: torch.fx.Node, ep: ExportedProgram) -> list[torch.fx.Node]:
        """The node alone: weight, scales and bias are no nodes."""
        return [node]

    def supported_precision_types(self) -> list[ConfigPrecisionType]:
        """Planned linears come with quantised weights."""
        return [ConfigPrecisionType.DYNAMIC_QUANT]


def make_partitioner() -> XnnpackPartitioner:
    """XNNPACK's partitioner with planned linears added, for any module."""
    return XnnpackPartitioner(configs=[*ALL_PARTITIONER_CONFIGS, PlannedLinearConfig])


@register_node_visitor
class PlannedLinearVisitor(NodeVisitor):  # type: ignore[misc]  # executorch ships no types
    """Writes a planned linear as XNNPACK's fully-connected node, with the plan's integers."""

    target = f"{NAMESPACE}.planned_linear.default"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._rounded: dict[int, int] = {}  # query, key and value share one conversion to int8

    def define_node(
        self,
        node: torch.fx.Node,
        xnn_graph: XNNGraph,
        vals_to_ids: dict[torch.fx.Node, int],
        debug_handle: int,
    ) -> None:
        """Append the node's tensors and operators to the delegate's graph."""
        source, name = node.args[0], node.args[1]
        assert isinstance(source, torch.fx.Node) and isinstance(name, str)
        self.define_tensor(source, xnn_graph, vals_to_ids)
        self.define_tensor(node, xnn_graph, vals_to_ids)
        graph = DelegateGraph.continued(xnn_graph, self._named_data_store, self._rounded)
        write_planned_linear(graph, planned_layer(name), vals_to_ids[source], vals_to_ids[node])
