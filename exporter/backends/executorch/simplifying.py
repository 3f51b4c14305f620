"""Rewrites of a traced language model so that XNNPACK takes a whole block into one delegate, in few operators.

While a token is decoded, each operator of a delegate costs a microsecond or two for its shape and its start,
as much as its arithmetic. All rewrites keep the numbers, bit for bit but for the order of factors
and of a mean's terms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

_aten = torch.ops.aten
_qexport = torch.ops.qexport
_ELEMENTWISE = {
    *(_aten.add.Tensor, _aten.sub.Tensor, _aten.mul.Tensor, _aten.div.Tensor, _aten.pow.Tensor_Scalar),
    *(_aten.rsqrt.default, _aten.sigmoid.default, _aten.tanh.default, _aten.neg.default),
}
_MOVES = {_aten.reshape.default, _aten.transpose.int, _aten.cat.default}
_HEADS, _TOKENS = 1, 2  # axes that attention's inputs have exchanged


def simplify(program: torch.export.ExportedProgram) -> None:
    """Rewrite the program's graph in place."""
    graph = program.graph
    for step in (_rewrite, _sink_transpose, _cancel_transpose, _share, _fold_negation, _share):
        seen: dict[Any, torch.fx.Node] = {}
        for node in list(graph.nodes):
            if node.op == "call_function":
                step(graph, node, seen)
        graph.eliminate_dead_code()
    program.graph_module.recompile()


def _rewrite(graph: torch.fx.Graph, node: torch.fx.Node, seen: dict[Any, torch.fx.Node]) -> None:
    """Operators that change nothing go; composed ones become what XNNPACK has."""
    target = node.target
    if target == _aten._assert_tensor_metadata.default:
        graph.erase_node(node)  # checks nothing that tracing has not fixed
    elif (target in _CASTS and _same_type(node)) or (target == _aten.mul.Tensor and node.args[1] == 1.0):
        _replace(node, node.all_input_nodes[0])
    elif target in (_aten.view.default, _aten.reshape.default, _aten.unsqueeze.default) and _is_float(node):
        shape = _shape_with_one_unknown(_value(node).shape)
        if shape is not None:
            _replace(node, _before(graph, node, _aten.reshape.default, node.args[0], shape))
    elif target == _aten.mean.dim and _is_mean_over_last(node):
        _replace(node, _before(graph, node, _qexport.mean_last.default, node.args[0]))
    elif target == _aten.add.Tensor and _is_offset_of_mean(node):
        mean = node.all_input_nodes[0]
        _replace(node, _before(graph, node, _qexport.mean_last.default, mean.args[0], float(node.args[1])))  # type: ignore[arg-type]
    elif target == _aten.slice.Tensor and _is_float(node):
        piece = _static_piece(node)
        if piece is not None:
            _replace(node, _before(graph, node, _qexport.slice_axis.default, node.args[0], *piece))
    elif target == _aten.silu.default:
        gate = _before(graph, node, _aten.sigmoid.default, node.args[0])
        _replace(node, _before(graph, node, _aten.mul.Tensor, node.args[0], gate))
    elif target == _aten.gelu.default and node.kwargs.get("approximate") == "tanh":
        _replace(node, _gelu_tanh(graph, node))


def _gelu_tanh(graph: torch.fx.Graph, node: torch.fx.Node) -> torch.fx.Node:
    """x/2 (1 + tanh z) = x sigmoid(2 z), where z = sqrt(2/pi) (x + 0.044715 x^3) (torch.nn.functional.gelu)."""
    x, scale = node.args[0], 2 * math.sqrt(2 / math.pi)
    square = _before(graph, node, _aten.mul.Tensor, x, x)
    cubic = _before(graph, node, _aten.mul.Tensor, square, scale * 0.044715)
    inner = _before(graph, node, _aten.mul.Tensor, _before(graph, node, _aten.add.Tensor, cubic, scale), x)
    return _before(graph, node, _aten.mul.Tensor, x, _before(graph, node, _aten.sigmoid.default, inner))


def _sink_transpose(graph: torch.fx.Graph, node: torch.fx.Node, seen: dict[Any, torch.fx.Node]) -> None:
    """f(transpose(x)) -> transpose(f(x)) for heads and tokens, so that it meets attention's own and both go."""
    inputs = node.all_input_nodes
    if not any(map(_is_transpose, inputs)) or not _is_along_last(node):
        return
    moved: dict[torch.fx.Node, torch.fx.Node] = {}
    for source in inputs:
        other = source.args[0] if _is_transpose(source) else _exchanged(graph, source, seen)
        if not isinstance(other, torch.fx.Node):
            return
        moved[source] = other
    args = torch.fx.node.map_arg(node.args, moved.__getitem__)
    below = _before(graph, node, node.target, *args, **node.kwargs)
    _replace(node, _before(graph, node, _aten.transpose.int, below, _HEADS, _TOKENS))


def _exchanged(
    graph: torch.fx.Graph, node: torch.fx.Node, seen: dict[Any, torch.fx.Node]
) -> torch.fx.Node | None:
    """The same tensor with heads and tokens exchanged, where that needs no copy; None where it does."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or value.dim() not in (0, 1, 4):
        return None
    if value.dim() < 4:
        return node
    shape = [value.shape[0], value.shape[_TOKENS], value.shape[_HEADS], value.shape[3]]
    sizes = _shape_with_one_unknown(shape)
    if sizes is None or 1 not in (sizes[_HEADS], sizes[_TOKENS]):
        return None
    if node not in seen:
        with graph.inserting_after(node):
            seen[node] = _call(graph, _aten.reshape.default, node, sizes)
    return seen[node]


def _is_along_last(node: torch.fx.Node) -> bool:
    """Whether the operator does the same whatever the order of the other axes."""
    if node.target in _ELEMENTWISE or node.target == _qexport.mean_last.default:
        return True
    axis = node.args[1] if len(node.args) > 1 else 0
    last = _value(node).dim() - 1 if isinstance(node.meta.get("val"), torch.Tensor) else None
    return node.target in (_qexport.slice_axis.default, _aten.cat.default) and axis in (-1, last)


def _cancel_transpose(graph: torch.fx.Graph, node: torch.fx.Node, seen: dict[Any, torch.fx.Node]) -> None:
    """transpose(transpose(x)) -> x."""
    if _is_transpose(node) and _is_transpose(node.all_input_nodes[0]):
        _replace(node, node.all_input_nodes[0].all_input_nodes[0])


def _share(graph: torch.fx.Graph, node: torch.fx.Node, seen: dict[Any, torch.fx.Node]) -> None:
    """What was computed before is not computed again; the trace repeats the rotary tables in each layer, and queries,
    keys and values rotate one input each for itself."""
    if node.target not in _ELEMENTWISE | _MOVES | {_aten.linear.default}:
        return
    key = (node.target, _hashable(node.args), _hashable(tuple(sorted(node.kwargs.items()))))
    if key in seen:
        _replace(node, seen[key])
    else:
        seen[key] = node


def _fold_negation(graph: torch.fx.Graph, node: torch.fx.Node, seen: dict[Any, torch.fx.Node]) -> None:
    """cat(-a, b) * s -> cat(a, b) * cat(-s1, s2): rotary embeddings, whose s is one for all layers."""
    if node.target != _aten.mul.Tensor or len(node.all_input_nodes) != 2:
        return
    rotated, factor = node.all_input_nodes
    last = _value(node).dim() - 1
    if rotated.target != _aten.cat.default or rotated.args[1:] not in ((-1,), (last,)):
        return
    pieces = rotated.all_input_nodes
    if len(pieces) != 2 or pieces[0].target != _aten.neg.default:
        return
    (first,), second = pieces[0].all_input_nodes, pieces[1]
    half = _value(first).shape[-1]
    size = _value(factor).shape[-1]
    if not isinstance(half, int) or size != half + _value(second).shape[-1]:
        return
    if (factor, half) not in seen:
        axis = _value(factor).dim() - 1
        with graph.inserting_after(factor):
            low = _call(graph, _qexport.slice_axis.default, factor, axis, 0, half)
        with graph.inserting_after(low):
            high = _call(graph, _qexport.slice_axis.default, factor, axis, half, size - half)
        with graph.inserting_after(high):
            minus = _call(graph, _aten.neg.default, low)
        with graph.inserting_after(minus):
            seen[factor, half] = _call(graph, _aten.cat.default, [minus, high], axis)
    plain = _before(graph, node, _aten.cat.default, [first, second], last)
    _replace(node, _before(graph, node, _aten.mul.Tensor, plain, seen[factor, half]))


_CASTS = (_aten.to.dtype, _aten.to.device, _aten.to.dtype_layout, _aten.type_as.default)


def _call(graph: torch.fx.Graph, target: Any, *args: Any, **kwargs: Any) -> torch.fx.Node:
    """A new node where the graph inserts, with the shape of its value."""
    node = graph.call_function(target, args, kwargs)
    values = torch.fx.node.map_arg((args, kwargs), lambda source: source.meta["val"])
    node.meta["val"] = target(*values[0], **values[1])
    return node


def _before(
    graph: torch.fx.Graph, place: torch.fx.Node, target: Any, *args: Any, **kwargs: Any
) -> torch.fx.Node:
    """A new node before another one."""
    with graph.inserting_before(place):
        return _call(graph, target, *args, **kwargs)


def _replace(node: torch.fx.Node, other: torch.fx.Node) -> None:
    node.replace_all_uses_with(other)
    node.graph.erase_node(node)


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value


def _value(node: torch.fx.Node) -> torch.Tensor:
    value: torch.Tensor = node.meta["val"]
    return value


def _is_float(node: torch.fx.Node) -> bool:
    return _value(node).dtype == torch.float32


def _same_type(node: torch.fx.Node) -> bool:
    before, after = _value(node.all_input_nodes[0]), _value(node)
    return before.dtype == after.dtype and before.device == after.device


def _is_transpose(node: torch.fx.Node) -> bool:
    """Exchanges heads and tokens, axes counted from the front or the back."""
    if node.target != _aten.transpose.int:
        return False
    rank = _value(node).dim()
    return rank == 4 and {int(axis) % rank for axis in node.args[1:]} == {_HEADS, _TOKENS}  # type: ignore[arg-type]


def _shape_with_one_unknown(sizes: Sequence[Any]) -> list[int] | None:
    """The shape with -1 for the dynamic axis; None where two axes are dynamic."""
    shape = [size if isinstance(size, int) else -1 for size in sizes]
    return shape if shape.count(-1) <= 1 else None


def _is_mean_over_last(node: torch.fx.Node) -> bool:
    axes, keep = node.args[1], node.args[2] if len(node.args) > 2 else False
    rank = _value(node.all_input_nodes[0]).dim()
    static = isinstance(_value(node.all_input_nodes[0]).shape[-1], int)
    return bool(keep) and axes in ([-1], [rank - 1]) and not node.kwargs and _is_float(node) and static


def _is_offset_of_mean(node: torch.fx.Node) -> bool:
    """A mean plus a number, as in a norm: XNNPACK adds it as the bias of the product that is the mean."""
    mean, offset = node.args[:2]
    return (
        isinstance(offset, float)
        and not node.kwargs
        and isinstance(mean, torch.fx.Node)
        and mean.target == _qexport.mean_last.default
        and len(mean.args) == 1
    )


def _static_piece(node: torch.fx.Node) -> tuple[int, int, int] | None:
    """(axis, start, size) where the slice cuts a static axis with step 1."""
    before = _value(node.all_input_nodes[0])
    defaults = (node.args[0], 0, None, None, 1)
    axis, start, end, step = (*node.args, *defaults[len(node.args) :])[1:]
    axis = int(axis) % before.dim()  # type: ignore[arg-type]
    length = before.shape[axis]
    if step != 1 or not isinstance(length, int):
        return None
    first, last, _ = slice(start, end).indices(length)
    return axis, first, last - first
