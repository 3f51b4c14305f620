"""Operators that XNNPACK has no single one for, as several that it has: layer norms and 1-D convolutions.

Runs before `simplify`, which brings the rest into form. Numbers stay the same but for the order of additions.
"""

from __future__ import annotations

from typing import Any

import torch

_aten = torch.ops.aten
_qexport = torch.ops.qexport
_IDENTITY = (_aten.dropout.default, _aten.dropout_.default, _aten.contiguous.default, _aten.clone.default)


def rewrite(program: torch.export.ExportedProgram) -> None:
    """Rewrite the program's graph in place."""
    graph = program.graph
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target in _IDENTITY and _is_identity(node):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif node.target == _aten.layer_norm.default and _is_over_last(node):
            _replace(node, _layer_norm(graph, node))
        elif node.target == _aten.permute.default and (axes := _exchanged_axes(node.args[1])):
            with graph.inserting_before(node):
                _replace(node, _call(graph, _aten.transpose.int, node.args[0], axes[0], axes[1]))
        elif node.target in (_aten.conv1d.default, _aten.conv1d.padding) and _is_plain_conv1d(node):
            _replace(node, _conv1d(graph, node))
    graph.eliminate_dead_code()
    program.graph_module.recompile()


def _is_identity(node: torch.fx.Node) -> bool:
    is_dropout = node.target in (_aten.dropout.default, _aten.dropout_.default)
    return not (is_dropout and node.args[2]) and not any(user.op == "output" for user in node.users)


def _is_over_last(node: torch.fx.Node) -> bool:
    value = _value(node)
    shape = node.args[1]
    return value.dtype == torch.float32 and isinstance(shape, list | tuple) and len(shape) == 1


def _layer_norm(graph: torch.fx.Graph, node: torch.fx.Node) -> torch.fx.Node:
    """(x - mean) / sqrt(variance + eps) * weight + bias, over the last axis."""
    defaults: list[Any] = [None, None, None, None, 1e-5]
    x, _, weight, bias, eps = [*node.args, *defaults[len(node.args) :]][:5]
    with graph.inserting_before(node):
        centred = _call(graph, _aten.sub.Tensor, x, _call(graph, _qexport.mean_last.default, x))
        square = _call(graph, _aten.mul.Tensor, centred, centred)
        variance = _call(graph, _qexport.mean_last.default, square)
        factor = _call(graph, _aten.rsqrt.default, _call(graph, _aten.add.Tensor, variance, eps))
        result = _call(graph, _aten.mul.Tensor, centred, factor)
        if weight is not None:
            result = _call(graph, _aten.mul.Tensor, result, weight)
        if bias is not None:
            result = _call(graph, _aten.add.Tensor, result, bias)
    return result


def _is_plain_conv1d(node: torch.fx.Node) -> bool:
    """Of a static length, one group, no gaps; the length must divide into strides."""
    _, weight, _, stride, padding, dilation, groups = _conv_arguments(node)
    value = _value(node.args[0])
    static = all(isinstance(size, int) for size in value.shape[1:])
    return (
        static
        and value.dtype == torch.float32
        and groups == 1
        and dilation == 1
        and isinstance(padding, int)
        and stride <= _value(weight).shape[2]
    )


def _conv_arguments(node: torch.fx.Node) -> tuple[Any, ...]:
    """Input, weight, bias, stride, padding, dilation, groups, numbers for lists of one."""
    defaults: list[Any] = [None, None, None, 1, 0, 1, 1]
    values = [*node.args, *defaults[len(node.args) :]]
    return tuple(value[0] if isinstance(value, list | tuple) else value for value in values)


def _conv1d(graph: torch.fx.Graph, node: torch.fx.Node) -> torch.fx.Node:
    """A linear layer over `kernel` neighbours: (batch, channels, length) -> (batch, out channels, steps).

    Rows t * stride + k for each tap k are a slice, its `stride` neighbours folded into the channels, and the
    first of them.
    """
    x, weight, bias, stride, padding, _, _ = _conv_arguments(node)
    _, channels, length = _value(x).shape
    out, _, kernel = _value(weight).shape
    steps = (length + 2 * padding - kernel) // stride + 1
    behind = (steps - 1) * stride + kernel - 1 + stride - length - padding  # rows of zeros for the last fold
    behind = max(behind, 0)
    with graph.inserting_before(node):
        rows = _call(graph, _aten.transpose.int, x, 1, 2)  # (batch, length, channels)
        rows = _padded(graph, rows, padding, behind)
        taps = []
        for tap in range(kernel):
            piece = _call(graph, _qexport.slice_axis.default, rows, 1, tap, steps * stride)
            if stride > 1:
                piece = _call(graph, _aten.reshape.default, piece, [-1, steps, stride * channels])
                piece = _call(graph, _qexport.slice_axis.default, piece, 2, 0, channels)
            taps.append(piece)
        window = _call(graph, _aten.cat.default, taps, 2)  # (batch, steps, kernel * channels)
        order = _call(graph, _aten.transpose.int, weight, 1, 2)
        flat = _call(graph, _aten.reshape.default, order, [out, kernel * channels])
        result = _call(graph, _aten.linear.default, window, flat, bias)
        return _call(graph, _aten.transpose.int, result, 1, 2)


def _padded(graph: torch.fx.Graph, rows: torch.fx.Node, before: int, behind: int) -> torch.fx.Node:
    """(batch, length, channels) with rows of zeros at both ends; rows times zero, for want of a constant."""
    pieces = [rows]
    for count, place in ((before, 0), (behind, len(pieces) + 1)):
        if count:
            some = _call(graph, _qexport.slice_axis.default, rows, 1, 0, count)
            pieces.insert(place, _call(graph, _aten.mul.Tensor, some, 0.0))
    return rows if len(pieces) == 1 else _call(graph, _aten.cat.default, pieces, 1)


def _exchanged_axes(order: Any) -> tuple[int, int] | None:
    """The two axes that a permutation exchanges, None for any other permutation."""
    moved = [axis for axis, source in enumerate(order) if source % len(order) != axis]
    return (moved[0], moved[1]) if len(moved) == 2 else None


def _call(graph: torch.fx.Graph, target: Any, *args: Any) -> torch.fx.Node:
    """A new node where the graph inserts, with the shape of its value."""
    node = graph.call_function(target, args)
    node.meta["val"] = target(*torch.fx.node.map_arg(args, lambda source: source.meta["val"]))
    return node


def _replace(node: torch.fx.Node, other: torch.fx.Node) -> None:
    node.replace_all_uses_with(other)
    node.graph.erase_node(node)


def _value(node: Any) -> torch.Tensor:
    value: torch.Tensor = node.meta["val"]
    return value
