"""A traced program of fixed shapes before its values get codes: nothing that asserts, converts in vain or is known."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument

from exporter.static.naming import operator_name, value_names

_ARITHMETIC = ("add", "sub", "mul", "div")


def tidied(program: ExportedProgram) -> ExportedProgram:
    """In place. What depends on no input is computed, numbers become constant tensors, and dead nodes go."""
    _drop_assertions(program)
    _fold(program)
    _lift_numbers(program)
    _spell_out_strides(program)
    program.graph.eliminate_dead_code()
    _drop_unused_constants(program)
    program.graph.lint()
    program.graph_module.recompile()
    return program


def flatten_products(program: ExportedProgram) -> None:
    """In place: a matrix product with a weight takes rows, (n, in), whatever axes stood before; one Gemm in ONNX."""
    graph = program.graph
    flat: dict[torch.fx.Node, torch.fx.Node] = {}
    for node in list(graph.nodes):
        if node.op != "call_function" or operator_name(node) != "linear":
            continue
        source, value = node.args[0], node.meta["val"]
        if value.ndim == 2:
            continue
        view = torch.ops.aten.view.default
        if source not in flat:
            rows = source.meta["val"].flatten(0, -2)
            with graph.inserting_after(source if source.op != "placeholder" else _last_placeholder(graph)):
                flat[source] = graph.call_function(view, (source, list(rows.shape)))
            flat[source].meta["val"] = rows
        with graph.inserting_after(node):
            back = graph.call_function(view, (node, list(value.shape)))
        node.replace_all_uses_with(back, delete_user_cb=lambda user, back=back: user is not back)
        node.args = (flat[source], *node.args[1:])
        back.meta["val"], node.meta["val"] = value, value.flatten(0, -2)
    graph.lint()
    program.graph_module.recompile()


def split_biases(program: ExportedProgram, layers: Collection[str]) -> None:
    """In place: the bias of these linear layers is added by an operator of its own.

    onnxruntime-qnn 2.5.0 drops the bias of a product with blocks without a word (docs/npu.md).
    """
    graph, names = program.graph, value_names(program, layers)
    for node, name in names.items():
        if operator_name(node) != "linear" or name.partition("@")[0] not in layers:
            continue
        bias = node.args[2] if len(node.args) > 2 else None
        node.args = node.args[:2]
        if bias is None:
            continue
        with graph.inserting_after(node):
            total = graph.call_function(torch.ops.aten.add.Tensor, (node, node))
        node.replace_all_uses_with(total)
        total.args = (node, bias)
        total.meta.update(node.meta)
    graph.lint()
    program.graph_module.recompile()


def _last_placeholder(graph: torch.fx.Graph) -> torch.fx.Node:
    *_, last = (node for node in graph.nodes if node.op == "placeholder")
    found: torch.fx.Node = last
    return found


def constants_of(program: ExportedProgram) -> dict[str, str]:
    """Placeholder of a parameter, buffer or other constant -> its name in the program's state."""
    signature = program.graph_signature
    return {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }


def constant(program: ExportedProgram, name: str) -> torch.Tensor:
    """Its value."""
    found: torch.Tensor = program.state_dict[name] if name in program.state_dict else program.constants[name]
    return found.detach()


def set_constant(program: ExportedProgram, node: torch.fx.Node, value: torch.Tensor) -> None:
    """Give a constant's placeholder another value, of any type."""
    name = constants_of(program)[node.name]
    program.constants.pop(name, None)
    program.state_dict[name] = value
    node.meta["val"] = _fake(program, value)
    specs = program.graph_signature.input_specs
    place = next(i for i, spec in enumerate(specs) if spec.arg.name == node.name)
    node._rename(_placeholder_name(name))
    specs[place] = InputSpec(InputKind.BUFFER, TensorArgument(node.name), name, persistent=True)


def add_constant(program: ExportedProgram, name: str, value: torch.Tensor) -> torch.fx.Node:
    """A placeholder for a new constant, before the program's own inputs."""
    graph, signature = program.graph, program.graph_signature
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    first = next((n for n in placeholders if n.name in signature.user_inputs), placeholders[0])
    with graph.inserting_before(first):
        node: torch.fx.Node = graph.placeholder(_placeholder_name(name))
    node.meta["val"] = _fake(program, value)
    spec = InputSpec(InputKind.BUFFER, TensorArgument(node.name), name, persistent=True)
    signature.input_specs.insert(placeholders.index(first), spec)
    program.state_dict[name] = value
    return node


def _placeholder_name(buffer: str) -> str:
    """As torch.export names it: passes that trace once more look a constant up by that name."""
    return "b_" + re.sub(r"[^a-z0-9]", "_", buffer.lower())


def _fake(program: ExportedProgram, value: torch.Tensor) -> Any:
    modes = (getattr(n.meta.get("val"), "fake_mode", None) for n in program.graph.nodes)
    mode: Any = next(m for m in modes if m is not None)
    return mode.from_tensor(value, static_shapes=True)


def _drop_assertions(program: ExportedProgram) -> None:
    for node in list(program.graph.nodes):
        if node.op != "call_function":
            continue
        if operator_name(node).startswith("_assert"):
            program.graph.erase_node(node)
        elif operator_name(node) == "to" and node.args[0].meta["val"].dtype == node.meta["val"].dtype:
            node.replace_all_uses_with(node.args[0])
            program.graph.erase_node(node)


def _fold(program: ExportedProgram) -> None:
    """What is computed from constants alone becomes one; weights keep their dequantize nodes."""
    names = constants_of(program)
    known: dict[torch.fx.Node, Any] = {
        node: constant(program, names[node.name])
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in names
    }
    folded: list[torch.fx.Node] = []
    for node in program.graph.nodes:
        if node.op != "call_function" or operator_name(node).startswith("dequantize"):
            continue
        if all(source in known for source in node.all_input_nodes):
            args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
            with torch.no_grad():
                known[node] = node.target(*args, **kwargs)
            folded.append(node)
    for node in folded:
        if any(user not in known for user in node.users) and isinstance(known[node], torch.Tensor):
            held = add_constant(program, f"folded.{node.name}", known[node].detach().clone().contiguous())
            held.meta.update({k: v for k, v in node.meta.items() if k in ("nn_module_stack", "stack_trace")})
            node.replace_all_uses_with(held)


def _lift_numbers(program: ExportedProgram) -> None:
    """A number that is added to or multiplied with a tensor becomes a tensor of one element; division by one too."""
    for node in list(program.graph.nodes):
        value = node.meta.get("val")
        if node.op != "call_function" or operator_name(node) not in _ARITHMETIC:
            continue
        if not isinstance(value, torch.Tensor) or not value.dtype.is_floating_point:
            continue
        for place, number in enumerate(node.args[:2]):
            if not isinstance(number, int | float):
                continue
            divides = operator_name(node) == "div" and place == 1
            held = add_constant(
                program,
                f"number.{node.name}.{place}",
                torch.tensor([1.0 / number if divides else float(number)]),
            )
            node.args = (*node.args[:place], held, *node.args[place + 1 :])
            if divides:
                node.target = torch.ops.aten.mul.Tensor


def _spell_out_strides(program: ExportedProgram) -> None:
    """A pooling without a stride has that of its window; ExecuTorch's builders for Qualcomm want it said."""
    for node in program.graph.nodes:
        pools = node.op == "call_function" and operator_name(node) in ("max_pool2d", "avg_pool2d")
        if pools and (len(node.args) < 3 or not node.args[2]):
            node.args = (*node.args[:2], node.args[1], *node.args[3:])


def _drop_unused_constants(program: ExportedProgram) -> None:
    names = constants_of(program)
    signature = program.graph_signature
    for node in list(program.graph.nodes):
        if node.op == "placeholder" and node.name in names and not node.users:
            program.graph.erase_node(node)
            signature.input_specs[:] = [s for s in signature.input_specs if s.arg.name != node.name]
            program.state_dict.pop(names[node.name], None)
            program.constants.pop(names[node.name], None)
