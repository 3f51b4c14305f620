"""Names of the values in an exported program: by the module that makes them, the same in every trace of a model.

A layer's output is called after the layer. Any other value is called after the module whose forward makes
it, the operator and its number there: `blocks.3:add0`. What a wrapper puts before the model's own module
paths is left out, and so is what lies inside a layer's module: a layer with packed weights and the same layer
in float give the same names.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch.export import ExportedProgram

_OF_WEIGHTS = ("dequantize_per_channel", "dequantize_per_channel_group", "dequantize_per_tensor")
_PRODUCTS = ("conv1d", "conv2d", "conv3d", "convolution", "linear")


def operator_name(node: torch.fx.Node) -> str:
    """`conv2d` for aten.conv2d.default; in-place forms are called like the others."""
    packet = getattr(node.target, "overloadpacket", node.target)
    return str(getattr(packet, "__name__", packet)).rstrip("_")


def module_path(node: torch.fx.Node) -> str:
    """Path of the innermost module whose forward made the node; empty for the model itself."""
    stack = node.meta.get("nn_module_stack")
    return str(list(stack.values())[-1][0]) if stack else ""


def wrapper_prefix(graph: torch.fx.Graph, layers: Collection[str]) -> str:
    """What stands before the model's own paths: `net.` where a wrapper holds the model as `net`."""
    for node in graph.nodes:
        path = module_path(node) if node.op == "call_function" else ""
        if path in layers:
            return ""
        found = max((name for name in layers if path.endswith(f".{name}")), key=len, default=None)
        if found:
            return path[: -len(found)]
    return ""


def is_product(node: torch.fx.Node) -> bool:
    """Whether the node is a convolution or a matrix product with a weight."""
    return node.op == "call_function" and operator_name(node) in _PRODUCTS


def is_lookup(node: torch.fx.Node) -> bool:
    """Whether the node takes rows out of a table."""
    return node.op == "call_function" and operator_name(node) == "embedding"


def value_names(
    program: ExportedProgram, static: Collection[str], others: Collection[str] = ()
) -> dict[torch.fx.Node, str]:
    """Inputs and the results of every operator -> names.

    `static`: module paths of layers whose activations are static, `others`: of layers that a backend may have
    replaced by something else. A static layer that is called several times has `layer`, `layer@1` and so on.
    """
    prefix = wrapper_prefix(program.graph, {*static, *others})
    inputs = {name: number for number, name in enumerate(program.graph_signature.user_inputs)}
    names: dict[torch.fx.Node, str] = {}
    counts: dict[str, int] = {}
    for node in program.graph.nodes:
        if node.name in inputs:
            names[node] = f"input:{inputs[node.name]}"
        if node.op != "call_function" or operator_name(node) in _OF_WEIGHTS:
            continue
        path = f"{module_path(node)}.".removeprefix(prefix).removesuffix(".")
        key = f"{path}:{operator_name(node)}"
        number = counts.get(key, 0)
        counts[key] = number + 1
        if path in static and (is_product(node) or is_lookup(node)):
            names[node] = f"{path}@{number}" if number else path
        elif path in others:
            names = {held: name for held, name in names.items() if name != path}
            names[node] = path  # the last of its operators gives the layer's output
        else:
            names[node] = f"{key}{number}"
    return names
