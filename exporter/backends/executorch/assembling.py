"""From a cut program to ExecuTorch's: its own edge passes on the few outside nodes, delegates put in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from executorch.exir import EdgeCompileConfig, EdgeProgramManager, to_edge
from executorch.exir.delegate import executorch_call_delegate
from executorch.exir.lowered_backend_module import LoweredBackendModule
from torch.export import ExportedProgram

from exporter.backends.executorch.cutting import Piece, known_pieces

_BACKEND = "XnnpackBackend"


def assemble(
    program: ExportedProgram, pieces: Sequence[Piece], methods: dict[str, Any]
) -> EdgeProgramManager:
    """The edge program with a call of a delegate in place of every `qexport::piece`."""
    config = EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True)
    with known_pieces(pieces):
        edge = to_edge(program, constant_methods=methods, compile_config=config)
    lowered = edge.exported_program()
    for node in list(lowered.graph.nodes):
        if node.op == "call_function" and "qexport.piece" in str(node.target):
            _put_delegate(lowered.graph_module, node, pieces[node.args[1]])
    lowered.graph_module.recompile()
    return EdgeProgramManager(lowered, methods, config)


def _put_delegate(module: torch.fx.GraphModule, node: torch.fx.Node, piece: Piece) -> None:
    """Replace the node by what to_backend leaves behind: the lowered module and its call."""
    payload, constants = piece.graph.to_bytes(), piece.graph.store.get_named_data_store_output()
    name = f"lowered_module_{node.args[1]}"
    delegate = LoweredBackendModule(_Shapes(piece), _BACKEND, payload, [], constants)
    module.add_submodule(name, delegate)
    with module.graph.inserting_before(node):
        source = module.graph.get_attr(name)
        call = module.graph.call_function(executorch_call_delegate, (source, *node.args[0]))  # type: ignore[misc]
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    module.graph.erase_node(node)


class _Shapes:
    """What later passes ask of a delegate's original program: the shapes of its outputs, and no nodes."""

    def __init__(self, piece: Piece) -> None:
        self._piece = piece
        self.graph = torch.fx.Graph()
        self.graph.output([None] * len(piece.shapes))

    def module(self) -> Callable[..., list[torch.Tensor]]:
        """Computes nothing but shapes."""
        return lambda *inputs: self._piece.outputs(inputs)
