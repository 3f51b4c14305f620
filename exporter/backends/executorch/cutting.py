"""Cut a traced language model into pieces that XNNPACK runs whole, and what stays outside.

Everything between two attentions becomes one piece: a node's level counts the outside nodes (attention,
table look-up) that must have run before it, and a level is a piece. While ExecuTorch's own passes run, a
piece is one node, `qexport::piece`, so that no pass interprets what is inside.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.export import ExportedProgram

from exporter.backends.executorch.delegates import DelegateGraph, can_delegate, write_node
from exporter.errors import LoweringError

_aten = torch.ops.aten
Axis = int | tuple[int, int]  # a size, or (number of an input, axis of that input)


@dataclass(frozen=True)
class Piece:
    """One delegate: its graph as XNNPACK reads it, and the shapes of what it gives."""

    graph: DelegateGraph
    shapes: tuple[tuple[Axis, ...], ...]  # of the outputs

    def outputs(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Tensors without content, of the outputs' shapes."""
        return [
            inputs[0].new_empty(
                [axis if isinstance(axis, int) else inputs[axis[0]].shape[axis[1]] for axis in shape]
            )
            for shape in self.shapes
        ]


_pieces: list[Piece] = []


@contextmanager
def known_pieces(pieces: Sequence[Piece]) -> Iterator[None]:
    """Let `qexport::piece` find the shapes of its outputs by number."""
    _pieces.extend(pieces)
    try:
        yield
    finally:
        _pieces.clear()


@torch.library.custom_op("qexport::piece", mutates_args=())
def piece(inputs: list[torch.Tensor], number: int) -> list[torch.Tensor]:
    """Stands for a delegate while ExecuTorch's passes run; it computes nothing."""
    raise LoweringError("qexport::piece stands for a delegate and cannot be run")


@piece.register_fake
def _(inputs: list[torch.Tensor], number: int) -> list[torch.Tensor]:
    return _pieces[number].outputs(inputs)


def cut(program: ExportedProgram) -> list[Piece]:
    """Put a `qexport::piece` in the place of whatever XNNPACK runs; the pieces, by number."""
    constants = _constants(program)
    levels = _levels(program.graph, constants)
    inside: dict[int, list[torch.fx.Node]] = {}
    for node, (level, delegated) in levels.items():
        if delegated:
            inside.setdefault(level, []).append(node)
    pieces: list[Piece] = []
    replaced: dict[torch.fx.Node, tuple[int, int]] = {}  # node -> (level, output of its piece)
    borders: dict[int, tuple[list[torch.fx.Node], int]] = {}  # level -> inputs, piece
    for level, nodes in sorted(inside.items()):
        inputs = _inputs(nodes, constants)
        outputs = [node for node in nodes if any(user not in set(nodes) for user in node.users)]
        borders[level] = (inputs, len(pieces))
        replaced |= {node: (level, index) for index, node in enumerate(outputs)}
        pieces.append(_piece(constants, nodes, inputs, outputs))
    _rewrite(program, levels, replaced, borders)
    return pieces


@dataclass(frozen=True)
class Constant:
    """A parameter or buffer, or what is computed from them alone."""

    name: str
    tensor: torch.Tensor


Constants = Mapping[torch.fx.Node, Constant]


def _constants(program: ExportedProgram) -> dict[torch.fx.Node, Constant]:
    """What never changes, by node. KV buffers are written to, so they are not among it."""
    signature = program.graph_signature
    names = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    found: dict[torch.fx.Node, Constant] = {}
    for node in program.graph.nodes:
        if node.name in names:
            name = names[node.name]
            tensor = program.state_dict.get(name, program.constants.get(name))
            if tensor is not None and not any(map(_is_cache_operator, node.users)):
                found[node] = Constant(name, tensor.detach())
        elif can_delegate(node, found) and all(source in found for source in node.all_input_nodes):
            # such as 1 + weight of a norm: computed once, here
            args = torch.fx.node.map_arg(node.args, lambda source: found[source].tensor)
            name = "+".join(found[source].name for source in node.all_input_nodes)
            found[node] = Constant(f"{name}.{node.name}", node.target(*args, **node.kwargs))
    return found


def _is_cache_operator(node: torch.fx.Node) -> bool:
    return str(node.target).startswith("llama.")


def _levels(graph: torch.fx.Graph, constants: Constants) -> dict[torch.fx.Node, tuple[int, bool]]:
    """Each node's level, and whether XNNPACK runs it."""
    levels: dict[torch.fx.Node, tuple[int, bool]] = {}
    touched: dict[torch.fx.Node, int] = {}  # KV buffer -> level of what last read or wrote it
    for node in graph.nodes:
        if node.op != "call_function" or node in constants:
            continue
        delegated = can_delegate(node, constants) and not _is_free_outside(node, levels)
        level = 0
        for source in node.all_input_nodes:
            if source in levels:
                before, is_inside = levels[source]
                level = max(level, before + (delegated and not is_inside))
            elif source in touched:
                # what was written outside at that level is read by a piece of the next one
                level = max(level, touched[source] + delegated)
        levels[node] = (level, delegated)
        if _is_cache_operator(node):  # what writes and reads a buffer keeps its order
            touched |= {
                source: level
                for source in node.all_input_nodes
                if source.op == "placeholder" and source not in constants
            }
    return levels


def _is_free_outside(node: torch.fx.Node, levels: Mapping[torch.fx.Node, tuple[int, bool]]) -> bool:
    """A reshape behind an outside node costs nothing there (a view), inside it would be a copy."""
    if node.target != _aten.reshape.default:
        return False
    source = node.all_input_nodes[0]
    return (source in levels and not levels[source][1]) or all(
        _is_cache_operator(user) for user in node.users
    )


def _inputs(nodes: Sequence[torch.fx.Node], constants: Constants) -> list[torch.fx.Node]:
    """What flows into a piece, in the order of first use."""
    own = set(nodes)
    found: dict[torch.fx.Node, None] = {}
    for node in nodes:
        found |= dict.fromkeys(
            source for source in node.all_input_nodes if source not in own and source not in constants
        )
    return list(found)


def _piece(
    constants: Constants,
    nodes: Sequence[torch.fx.Node],
    inputs: Sequence[torch.fx.Node],
    outputs: Sequence[torch.fx.Node],
) -> Piece:
    graph = DelegateGraph(inputs, outputs)
    for node in nodes:
        for source in node.all_input_nodes:
            if source in constants and source not in graph.numbers:
                found = constants[source]
                graph.numbers[source] = graph.constant(found.name, found.tensor.numpy())
        write_node(graph, node)
    return Piece(graph, tuple(_shape(node, inputs) for node in outputs))


def _shape(node: torch.fx.Node, inputs: Sequence[torch.fx.Node]) -> tuple[Axis, ...]:
    """The node's shape, a dynamic size as an axis of an input."""
    sizes: dict[str, tuple[int, int]] = {}
    for index, source in enumerate(inputs):
        for axis, size in enumerate(source.meta["val"].shape):
            if not isinstance(size, int):
                sizes.setdefault(str(size), (index, axis))
    shape: list[Axis] = []
    for size in node.meta["val"].shape:
        if isinstance(size, int):
            shape.append(size)
        elif str(size) in sizes:
            shape.append(sizes[str(size)])
        else:
            raise LoweringError(
                f"{node.name}: a tensor's length is {size}, which is no length of the delegate's inputs; take the "
                "onnxruntime target for this model"
            )
    return tuple(shape)


def _rewrite(
    program: ExportedProgram,
    levels: Mapping[torch.fx.Node, tuple[int, bool]],
    replaced: Mapping[torch.fx.Node, tuple[int, int]],
    borders: Mapping[int, tuple[list[torch.fx.Node], int]],
) -> None:
    """The graph in the order of levels: a piece, then the outside nodes of its level."""
    old = program.graph
    new = torch.fx.Graph()
    copies: dict[torch.fx.Node, torch.fx.Node] = {}
    for node in old.nodes:
        if node.op == "placeholder" or (node.op == "call_function" and node not in levels):
            copies[node] = new.node_copy(
                node, copies.__getitem__
            )  # a computed constant may be used outside too
    outside: dict[int, list[torch.fx.Node]] = {}
    for node, (level, delegated) in levels.items():
        if not delegated:
            outside.setdefault(level, []).append(node)
    results = {(level, index): node for node, (level, index) in replaced.items()}
    for level in range(max([*outside, *borders]) + 1):
        if level in borders:
            inputs, number = borders[level]
            call = new.call_function(
                torch.ops.qexport.piece.default, ([copies[node] for node in inputs], number)
            )
            index = 0
            values = []
            while (level, index) in results:
                node = results[level, index]
                copies[node] = new.call_function(operator.getitem, (call, index))
                copies[node].meta = {"val": node.meta["val"]}
                values.append(node.meta["val"])
                index += 1
            call.meta["val"] = values
        for node in outside.get(level, []):
            copies[node] = new.node_copy(node, copies.__getitem__)
    (output,) = (node for node in old.nodes if node.op == "output")
    new.node_copy(output, copies.__getitem__)
    _rename_outputs(program, output, copies)
    new.eliminate_dead_code()
    program.graph_module.graph = new
    program.graph_module.recompile()


def _rename_outputs(
    program: ExportedProgram, output: torch.fx.Node, copies: Mapping[torch.fx.Node, torch.fx.Node]
) -> None:
    """The signature names the program's outputs by node."""
    names = {old.name: copies[old].name for old in output.all_input_nodes}
    for spec in program.graph_signature.output_specs:
        if hasattr(spec.arg, "name") and spec.arg.name in names:
            spec.arg.name = names[spec.arg.name]
