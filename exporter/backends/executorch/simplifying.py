"""Rewrites of a traced language model so that XNNPACK takes a whole block into one delegate.

Between two attentions a transformer block has a few operators that ExecuTorch's partitioner turns
down when the number of tokens is dynamic. Each of them cuts the delegate in two, and both the time of
lowering and the calls at run time grow with the number of delegates. The rewrites keep the meaning.
"""

from __future__ import annotations

import torch

_aten = torch.ops.aten
_qexport = torch.ops.qexport


def simplify(program: torch.export.ExportedProgram) -> None:
    """Rewrite the program's graph in place."""
    graph = program.graph
    for node in list(graph.nodes):
        if node.op == "call_function":
            _rewrite(graph, node)
    graph.eliminate_dead_code()
    program.graph_module.recompile()


def _rewrite(graph: torch.fx.Graph, node: torch.fx.Node) -> None:
    target = node.target
    if target == _aten._assert_tensor_metadata.default:
        graph.erase_node(node)  # checks nothing that tracing has not fixed
    elif target in (_aten.to.dtype, _aten.to.device, _aten.to.dtype_layout) and _same_type(node):
        node.replace_all_uses_with(node.all_input_nodes[0])
        graph.erase_node(node)
    elif target == _aten.transpose.int and _undoes_previous(node):
        node.replace_all_uses_with(node.all_input_nodes[0].all_input_nodes[0])
        graph.erase_node(node)
    elif target in (_aten.view.default, _aten.reshape.default, _aten.unsqueeze.default) and _is_float(node):
        shape = _shape_with_one_unknown(node)
        if shape is not None:
            _replace(graph, node, _aten.reshape.default, (node.args[0], shape))
    elif target == _aten.mean.dim and _is_mean_over_last(node):
        _replace(graph, node, _qexport.mean_last.default, (node.args[0],))
    elif target == _aten.slice.Tensor and _is_float(node):
        piece = _piece_of_last(node)
        if piece is not None:
            _replace(graph, node, _qexport.slice_last.default, (node.args[0], *piece))


def _replace(
    graph: torch.fx.Graph, node: torch.fx.Node, target: torch._ops.OpOverload, args: tuple[object, ...]
) -> None:
    with graph.inserting_before(node):
        new = graph.call_function(target, args)  # type: ignore[arg-type]  # fx's Argument is recursive
    new.meta = node.meta
    node.replace_all_uses_with(new)
    graph.erase_node(node)


def _value(node: torch.fx.Node) -> torch.Tensor:
    value: torch.Tensor = node.meta["val"]
    return value


def _is_float(node: torch.fx.Node) -> bool:
    return _value(node).dtype == torch.float32


def _same_type(node: torch.fx.Node) -> bool:
    before, after = _value(node.all_input_nodes[0]), _value(node)
    return before.dtype == after.dtype and before.device == after.device


def _undoes_previous(node: torch.fx.Node) -> bool:
    """transpose(transpose(x, a, b), a, b), axes counted from the front or the back."""
    source = node.all_input_nodes[0]
    if source.target != _aten.transpose.int:
        return False
    rank = _value(node).dim()
    return {int(axis) % rank for axis in node.args[1:]} == {int(axis) % rank for axis in source.args[1:]}  # type: ignore[arg-type]


def _shape_with_one_unknown(node: torch.fx.Node) -> list[int] | None:
    """The output's shape with -1 for the dynamic axis; None where two axes are dynamic."""
    shape = [size if isinstance(size, int) else -1 for size in _value(node).shape]
    return shape if shape.count(-1) <= 1 else None


def _is_mean_over_last(node: torch.fx.Node) -> bool:
    axes, keep = node.args[1], node.args[2] if len(node.args) > 2 else False
    rank = _value(node.all_input_nodes[0]).dim()
    static = isinstance(_value(node.all_input_nodes[0]).shape[-1], int)
    return bool(keep) and axes in ([-1], [rank - 1]) and not node.kwargs and _is_float(node) and static


def _piece_of_last(node: torch.fx.Node) -> tuple[int, int] | None:
    """(start, size) where the slice cuts a static last axis with step 1."""
    before = _value(node.all_input_nodes[0])
    length = before.shape[-1]
    defaults = (node.args[0], 0, None, None, 1)
    axis, start, end, step = (*node.args, *defaults[len(node.args) :])[1:]
    if step != 1 or int(axis) % before.dim() != before.dim() - 1 or not isinstance(length, int):  # type: ignore[arg-type]
        return None
    first, last, _ = slice(start, end).indices(length)
    return first, last - first
