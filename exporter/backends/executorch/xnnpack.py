"""XNNPACK's side of `qexport::planned_linear`: what may go into a delegate, and how it is written there.

The two extension points are ExecuTorch's own: a partitioner takes a list of configs
(backends/xnnpack/partition/xnnpack_partitioner.py) and node visitors register themselves
(backends/xnnpack/operators/node_visitor.py). The constants' keys in the file are
`MODULE_PATH.weight:SHA256` and `MODULE_PATH.scales:SHA256`, which lets a reader name every tensor, and
keeps keys of different models apart in a process-wide weights cache.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from executorch.backends.xnnpack.operators.node_visitor import (
    NodeVisitor,
    get_tensor_value,
    register_node_visitor,
)
from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
from executorch.backends.xnnpack.partition.config.xnnpack_config import (
    ConfigPrecisionType,
    XNNPartitionerConfig,
)
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.serialization.xnnpack_graph_schema import (
    ConstantDataOffset,
    PerChannelGroupQuant,
    PerChannelQuant,
    PerTokenDynamicQuant,
    XNNAdd,
    XNNConvert,
    XNNDatatype,
    XNNFullyConnected,
    XNNGraph,
    XNNQuantizedTensorValue,
    XNNStaticSlice,
    XNNTensorValue,
    XNode,
    XValue,
)
from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import CONSTANT_TENSOR_ALIGNMENT
from executorch.backends.xnnpack.utils.xnnpack_constants import UINT64_MAX, XNN_INVALID_VALUE_ID
from executorch.backends.xnnpack.xnnpack_preprocess import XnnpackBackend
from executorch.exir._serialize._named_data_store import NamedDataStore
from executorch.exir.backend.compile_spec_schema import CompileSpec
from executorch.exir.backend.partitioner import DelegationSpec
from numpy.typing import NDArray
from torch.export import ExportedProgram

from exporter.backends.executorch.operators import NAMESPACE, planned_layer
from exporter.numerics import QuantizedTensor, pack_int4

_INTERNAL = {"external_id": XNN_INVALID_VALUE_ID, "flags": 0}


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


class MeanLastConfig(PlannedLinearConfig):
    """The same for qexport::mean_last."""

    target_name = "mean_last.default"


class SliceLastConfig(PlannedLinearConfig):
    """The same for qexport::slice_last."""

    target_name = "slice_last.default"


_OURS = [PlannedLinearConfig, MeanLastConfig, SliceLastConfig]

# Operators that XNNPACK's own graph passes exist for (backends/xnnpack/_passes).
_NEED_PASSES = ("convolution", "max_pool2d", "batch_norm", "prelu", "upsample", "relu", "constant_pad")


def make_partitioner() -> XnnpackPartitioner:
    """XNNPACK's partitioner with planned linears added, for any module."""
    return XnnpackPartitioner(configs=[*ALL_PARTITIONER_CONFIGS, *_OURS])


class BlockPartitioner(XnnpackPartitioner):  # type: ignore[misc]  # executorch ships no types
    """The same for transformer blocks, at a third of the time.

    Two things are left out that such graphs do not need: the check per operator whether it may stay
    whole, which costs three more decompositions of the whole graph, and the seventeen graph passes per
    delegate that serve convolutions, pooling and static quantisation.
    """

    def __init__(self) -> None:
        super().__init__(configs=[*ALL_PARTITIONER_CONFIGS, *_OURS])
        # The backend's own key for "linear layers only" (xnnpack_preprocess.py): one pass instead of all.
        spec = CompileSpec("dqlinear_partitioner", b"")
        self.delegation_spec = DelegationSpec(XnnpackBackend.__name__, [spec])

    @staticmethod
    def fits(program: ExportedProgram) -> bool:
        """Whether no operator of the graph needs the passes left out."""
        names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
        return not any(word in name for name in names for word in _NEED_PASSES)

    def ops_to_not_decompose(self, ep: ExportedProgram) -> tuple[list[torch._ops.OpOverload], None]:
        """Linear layers stay whole; weights of a language model's are always constants."""
        return [torch.ops.aten.linear.default], None


@register_node_visitor
class PlannedLinearVisitor(NodeVisitor):  # type: ignore[misc]  # executorch ships no types
    """Writes a planned linear as XNNPACK's fully-connected node, with the plan's integers."""

    target = f"{NAMESPACE}.planned_linear.default"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._quantized_inputs: dict[torch.fx.Node, int] = {}

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
        layer = planned_layer(name)
        self.define_tensor(source, xnn_graph, vals_to_ids)
        input_id = vals_to_ids[source]
        if layer.scheme.activations == "dynamic-int8":
            if source not in self._quantized_inputs:  # query, key and value share one conversion
                self._quantized_inputs[source] = _quantize_per_token(xnn_graph, input_id, debug_handle)
            input_id = self._quantized_inputs[source]
        filter_id = self._define_weight(xnn_graph, name, layer.load())
        bias_id = XNN_INVALID_VALUE_ID
        if layer.bias is not None:
            bias = np.ascontiguousarray(layer.bias.detach().numpy(), dtype=np.float32)
            index = _add_constant(self._named_data_store, xnn_graph, f"{name}.bias", bias)
            bias_id = _append_value(xnn_graph, XNNDatatype.xnn_datatype_fp32, bias.shape, index)
        self.define_tensor(node, xnn_graph, vals_to_ids)
        output_id = vals_to_ids[node]
        if layer.bias is not None and layer.scheme.activations == "float":
            # The float-activation kernels (f32-qc8w, f32-qc4w) multiply the bias by the weights' scale
            # too (seen: an input of zeros gives bias * scale), so it is added behind them.
            product = _append_value(xnn_graph, XNNDatatype.xnn_datatype_fp32, _dims(xnn_graph, output_id), 0)
            _append_linear(xnn_graph, input_id, filter_id, product, debug_handle)
            _append_node(xnn_graph, XNNAdd(product, bias_id, output_id, 0), debug_handle)
        else:
            _append_linear(xnn_graph, input_id, filter_id, output_id, debug_handle, bias_id)

    def _define_weight(self, graph: XNNGraph, name: str, quantized: QuantizedTensor) -> int:
        """XNNPACK's number for the weight tensor (out, in)."""
        four_bits = quantized.scheme.bits == 4
        # convert_to_qc4w in node_visitor.py: code + 8, even element in the low nibble, as pack_int4
        packed: NDArray[Any] = pack_int4(quantized.values) if four_bits else quantized.values
        index = _add_constant(self._named_data_store, graph, f"{name}.weight", packed)
        scales = quantized.row_scales()  # (out, groups)
        quantization: PerChannelGroupQuant | PerChannelQuant
        if isinstance(quantized.scheme.group, int):
            datatype = XNNDatatype.xnn_datatype_qbint4
            bf16 = (scales.view(np.uint32) >> np.uint32(16)).astype(np.uint16)  # exact: numerics rounded them
            quantization = PerChannelGroupQuant(
                scale=[],
                channel_dim=0,
                group_size=quantized.scheme.group,
                scale_buffer_idx=_add_constant(self._named_data_store, graph, f"{name}.scales", bf16),
                num_scales=scales.size,
            )
        else:
            datatype = XNNDatatype.xnn_datatype_qcint4 if four_bits else XNNDatatype.xnn_datatype_qcint8
            quantization = PerChannelQuant(
                scale=[],
                channel_dim=0,
                scale_buffer_idx=_add_constant(self._named_data_store, graph, f"{name}.scales", scales),
                num_scales=scales.size,
            )
        return _append_value(graph, datatype, quantized.values.shape, index, quantization)


@register_node_visitor
class MeanLastVisitor(NodeVisitor):  # type: ignore[misc]  # executorch ships no types
    """Writes the mean over the last axis as a fully-connected node with n weights of 1/n."""

    target = f"{NAMESPACE}.mean_last.default"

    def define_node(
        self,
        node: torch.fx.Node,
        xnn_graph: XNNGraph,
        vals_to_ids: dict[torch.fx.Node, int],
        debug_handle: int,
    ) -> None:
        """Append the node."""
        source = node.args[0]
        assert isinstance(source, torch.fx.Node)
        self.define_tensor(source, xnn_graph, vals_to_ids)
        self.define_tensor(node, xnn_graph, vals_to_ids)
        size = int(source.meta["val"].shape[-1])
        weights = np.full((1, size), 1 / size, np.float32)
        index = _add_constant(self._named_data_store, xnn_graph, f"mean_of_{size}", weights)
        filter_id = _append_value(xnn_graph, XNNDatatype.xnn_datatype_fp32, weights.shape, index)
        _append_linear(xnn_graph, vals_to_ids[source], filter_id, vals_to_ids[node], debug_handle)


@register_node_visitor
class SliceLastVisitor(NodeVisitor):  # type: ignore[misc]  # executorch ships no types
    """Writes a slice of the last axis; a size of 0 leaves the other axes whole (static-slice.c)."""

    target = f"{NAMESPACE}.slice_last.default"

    def define_node(
        self,
        node: torch.fx.Node,
        xnn_graph: XNNGraph,
        vals_to_ids: dict[torch.fx.Node, int],
        debug_handle: int,
    ) -> None:
        """Append the node."""
        source, start, size = node.args
        assert isinstance(source, torch.fx.Node)
        self.define_tensor(source, xnn_graph, vals_to_ids)
        self.define_tensor(node, xnn_graph, vals_to_ids)
        others = [0] * (node.meta["val"].dim() - 1)
        piece = XNNStaticSlice(
            num_dims=len(others) + 1,
            offsets=[*others, start],
            sizes=[*others, size],
            input_id=vals_to_ids[source],
            output_id=vals_to_ids[node],
            flags=0,
        )
        _append_node(xnn_graph, piece, debug_handle)


def _add_constant(store: NamedDataStore, graph: XNNGraph, name: str, array: NDArray[Any]) -> int:
    """Store the bytes under a key that carries the name; the constant's number in the graph."""
    data = np.ascontiguousarray(array).tobytes()
    key = f"{name}:{hashlib.sha256(data).hexdigest()}"
    graph.constant_data.append(ConstantDataOffset(offset=UINT64_MAX, size=len(data), named_key=key))
    store.add_named_data(key, data, CONSTANT_TENSOR_ALIGNMENT)
    return len(graph.constant_data) - 1


def _append_linear(
    graph: XNNGraph,
    input_id: int,
    filter_id: int,
    output_id: int,
    debug_handle: int,
    bias_id: int = XNN_INVALID_VALUE_ID,
) -> None:
    node = XNNFullyConnected(
        input1_id=input_id, filter_id=filter_id, bias_id=bias_id, output_id=output_id, flags=0
    )
    _append_node(graph, node, debug_handle)


def _append_node(graph: XNNGraph, node: Any, debug_handle: int) -> None:
    graph.xnodes.append(XNode(xnode_union=node, debug_handle=debug_handle, output_min_max=None))


def _dims(graph: XNNGraph, number: int) -> list[int]:
    """Upper bounds of a tensor's axes."""
    return [int(size) for size in get_tensor_value(graph.xvalues[number]).dims]


def _quantize_per_token(graph: XNNGraph, input_id: int, debug_handle: int) -> int:
    """Append the conversion float32 -> int8 with a scale and zero point per token; its value's number."""
    dims = _dims(graph, input_id)
    result = _append_value(
        graph, XNNDatatype.xnn_datatype_qdint8, dims, 0, PerTokenDynamicQuant(num_nonbatch_dims=1)
    )
    _append_node(graph, XNNConvert(input_id=input_id, output_id=result, flags=0), debug_handle)
    return result


def _append_value(
    graph: XNNGraph,
    datatype: XNNDatatype,
    dims: Any,
    constant_index: int,
    quantization: Any = None,
) -> int:
    """Append an internal tensor; its number."""
    number = len(graph.xvalues)
    tensor = XNNTensorValue(
        datatype=datatype,
        num_dims=len(dims),
        dims=list(dims),
        constant_buffer_idx=constant_index,
        id_out=number,
        **_INTERNAL,
    )
    value = tensor if quantization is None else XNNQuantizedTensorValue(tensor, quantization)
    graph.xvalues.append(XValue(xvalue_union=value))
    return number
