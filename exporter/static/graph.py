"""The one pass that puts integers between the layers of a traced program; both runtimes lower what it leaves.

Behind every value that is held as integers stands a quantize node, before every reader a dequantize node of
its own (torch.ops.quantized_decomposed). A clamp whose bounds are the ends of its producer's codes is taken out:
rounding to those codes clamps.
"""

from __future__ import annotations

import torch
import torch.ao.quantization.fx._decomposed
from torch.export import ExportedProgram
from torch.export.graph_signature import TensorArgument

from exporter.errors import LoweringError
from exporter.static.naming import is_lookup, operator_name
from exporter.static.params import StaticPlan, ValueParams
from exporter.static.placing import Placement, clamp_bounds
from exporter.static.tidying import constant, constants_of, set_constant

_TYPES = {
    "int8": torch.int8,
    "uint8": torch.uint8,
    "int16": torch.int16,
    "uint16": torch.uint16,
    "int32": torch.int32,
}
# Ends of a range are rounded once to float32, and their scale once more.
_RELATIVE = 2.0**-21


def functional(program: ExportedProgram) -> ExportedProgram:
    """The same program with no operator that writes into its input; a copy only where there is one."""
    schemas = (getattr(node.target, "_schema", None) for node in program.graph.nodes)
    if not any(schema is not None and schema.is_mutable for schema in schemas):
        return program
    changed: ExportedProgram = program.run_decompositions({})
    return changed


def insert(program: ExportedProgram, placement: Placement, plan: StaticPlan) -> None:
    """Rewrite the program in place. Raises LoweringError where the plan has no range for a value."""
    graph = program.graph
    for clamp, producer in placement.clamps.items():
        _check_clamp(clamp, _params(plan, placement.integer[producer]))
        source = clamp.args[0]
        assert isinstance(source, torch.fx.Node)
        clamp.replace_all_uses_with(source)
        graph.erase_node(clamp)
    for node, passed in placement.through.items():
        if node not in placement.pads:  # between a dequantize node and its reader nothing may stand
            node.replace_all_uses_with(passed)
            graph.erase_node(node)
    for node in placement.integer:
        if node.op == "call_function" and operator_name(node) == "adaptive_avg_pool2d":  # to one place
            node.target, node.args = torch.ops.aten.mean.dim, (node.args[0], [2, 3], True)
    last_input = [node for node in graph.nodes if node.op == "placeholder"][-1]
    for node, name in placement.integer.items():
        params = _params(plan, name)
        after = last_input if node.op == "placeholder" else node
        readers = _readers(node, placement)
        table = _table_params(node)
        with graph.inserting_after(after):
            held = _quantize(graph, node, table or params)
        if table is not None:  # a row has its table's codes; from there on those of all values
            with graph.inserting_after(held):
                row = _dequantize(graph, held, node, table)
            with graph.inserting_after(row):
                held = _quantize(graph, row, params)
        shared: torch.fx.Node | None = None  # what is float takes one dequantised value
        for reader, entry in readers:
            if reader in placement.takers[node]:
                with graph.inserting_before(entry):
                    found = _dequantize(graph, held, node, params)
            else:
                if shared is None:
                    with graph.inserting_after(held):
                        shared = _dequantize(graph, held, node, params)
                found = shared
            entry.replace_input_with(node, found)
    _name_outputs(program)
    graph.eliminate_dead_code()
    graph.lint()
    program.graph_module.recompile()


def _table_params(node: torch.fx.Node) -> ValueParams | None:
    """Scale and codes of the table that a row is taken out of, where the table has its own."""
    table = node.args[0] if is_lookup(node) else None
    if not isinstance(table, torch.fx.Node) or operator_name(table) != "dequantize_per_tensor":
        return None
    scale, zero_point, low, high = table.args[1:5]
    return ValueParams(scale, zero_point, low, high)  # type: ignore[arg-type]  # numbers, as StaticTable gave them


def fold_constants(program: ExportedProgram) -> None:
    """In place: a constant that is quantised in the graph becomes its codes."""
    names = constants_of(program)
    for node in list(program.graph.nodes):
        if node.op != "call_function" or operator_name(node) != "quantize_per_tensor":
            continue
        held = node.args[0]
        if held.name in names:
            codes = node.target(constant(program, names[held.name]), *node.args[1:])
            set_constant(program, held, codes)
            node.replace_all_uses_with(held)
            program.graph.erase_node(node)
    program.graph_module.recompile()


def _readers(node: torch.fx.Node, placement: Placement) -> list[tuple[torch.fx.Node, torch.fx.Node]]:
    """(who reads the value in the end, the node that has it as input): the same but for a layer's padding."""
    found = []
    for user in list(node.users):
        end = user
        while end in placement.pads:
            end = next(iter(end.users))
        found.append((end, user))
    return found


def _params(plan: StaticPlan, name: str) -> ValueParams:
    if name not in plan.values:
        raise LoweringError(
            f"value {name}: was not met when ranges were measured, so that this trace is of another model; run the "
            "recipe again"
        )
    return plan.values[name]


def _check_clamp(clamp: torch.fx.Node, params: ValueParams) -> None:
    """The codes hold nothing beyond the clamp, so that rounding to them clamps."""
    bounds = clamp_bounds(clamp)
    assert bounds is not None
    if params.smallest < bounds[0] or params.largest > bounds[1] * (1 + _RELATIVE):
        raise LoweringError(
            f"{operator_name(clamp)} clamps to {bounds[0]:g} to {bounds[1]:g}, and the codes of its value reach from "
            f"{params.smallest:g} to {params.largest:g}; this is a mistake of qexport, please report it"
        )


def _quantize(graph: torch.fx.Graph, node: torch.fx.Node, params: ValueParams) -> torch.fx.Node:
    dtype = _TYPES[params.dtype]
    arguments = (node, params.scale, params.zero_point, params.low, params.high, dtype)
    made = graph.call_function(torch.ops.quantized_decomposed.quantize_per_tensor.default, arguments)
    return _described(made, node, dtype)


def _dequantize(
    graph: torch.fx.Graph, held: torch.fx.Node, value: torch.fx.Node, params: ValueParams
) -> torch.fx.Node:
    arguments = (held, params.scale, params.zero_point, params.low, params.high, _TYPES[params.dtype])
    made = graph.call_function(torch.ops.quantized_decomposed.dequantize_per_tensor.default, arguments)
    return _described(made, value, torch.float32)


def _described(made: torch.fx.Node, value: torch.fx.Node, dtype: torch.dtype) -> torch.fx.Node:
    """Give a new node the shape, and the module that made it, of the value that it holds."""
    made.meta.update({k: v for k, v in value.meta.items() if k in ("nn_module_stack", "stack_trace")})
    made.meta["val"] = value.meta["val"].to(dtype)
    return made


def _name_outputs(program: ExportedProgram) -> None:
    """The signature names the nodes that are the outputs."""
    output = next(node for node in program.graph.nodes if node.op == "output")
    for spec, node in zip(program.graph_signature.output_specs, output.args[0], strict=True):
        if isinstance(spec.arg, TensorArgument):
            spec.arg.name = node.name
