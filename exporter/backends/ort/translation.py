"""torch.export program -> onnx-ir graph, as translated.

torch.onnx.export retraces the program to decompose operators that have no ONNX translation, and a
second time to insert casts where PyTorch promotes types: four fifths of its time for a graph in which
nothing is left to decompose. A program whose every operator has a translation is therefore handed to
the translating half alone, and only nodes that a promotion rule names are looked at. These are private
functions of torch.onnx (its version is pinned); any other program takes the public way.
"""

from __future__ import annotations

import logging
import operator
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
import torch
import torch.ao.quantization.fx._decomposed  # registers its operators
from onnxscript import FLOAT, INT8, opset21
from onnxscript.version_converter import convert_version
from torch._dispatch.python import enable_python_dispatcher
from torch.fx import traceback as fx_traceback
from torch.onnx._internal.exporter import _core, _fx_passes, _ir_passes, _registration
from torch.onnx._internal.fx.passes import type_promotion

from exporter.backends.ort.tracing import Traced
from exporter.errors import LoweringError

# The youngest opset that the oldest runtime we support (1.20) implements in full.
OPSET = 21


def _dequantize_blocks(
    values: INT8,
    scales: FLOAT,
    zero_points: INT8 | None,
    quant_min: int,
    quant_max: int,
    dtype: int,
    group_size: int,
    output_dtype: int,
) -> FLOAT:
    """quantized_decomposed.dequantize_per_channel_group of a symmetric weight, which torch.onnx has not."""
    if zero_points is not None:
        raise LoweringError("blocks of a static layer have no zero points; this is a mistake of qexport")
    return opset21.DequantizeLinear(values, scales, axis=1, block_size=group_size)


_OWN: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.quantized_decomposed.dequantize_per_channel_group.default: _dequantize_blocks
}


def to_onnx(traced: Traced) -> ir.Model:
    """The traced program in ONNX operators. Raises LoweringError for an operator without translation."""
    registry = _registration.ONNXRegistry.from_torchlib(opset_version=OPSET)
    for target, function in _OWN.items():
        registry.register_op(target, function)
    with _quiet(), torch.no_grad():
        try:
            module = traced.program.graph_module
            if writes(module):  # torch.onnx's retrace makes a function of it
                return _by_torch(traced)
            tidy(module)
            return _by_torch(traced) if untranslated(module, registry) else _direct(traced, registry)
        except Exception as problem:  # whatever a translation function raises
            cause = problem.__cause__ or problem
            first = str(cause).strip().splitlines() or [type(cause).__name__]
            raise LoweringError(
                f"torch.onnx cannot translate the traced model: {first[0]} (--debug shows where)"
            ) from problem


def writes(module: torch.fx.GraphModule) -> bool:
    """Whether an operator writes into one of its inputs."""
    schemas = (getattr(node.target, "_schema", None) for node in _calls(module))
    return any(schema is not None and schema.is_mutable for schema in schemas)


def untranslated(module: torch.fx.GraphModule, registry: Any) -> set[str]:
    """Operators that torch.onnx knows no translation of, unless it decomposes them."""
    targets = {node.target for node in _calls(module)} - {operator.getitem}
    return {str(target) for target in targets if not registry.is_registered(target)}


def tidy(module: torch.fx.GraphModule) -> None:
    """In place, where no operator writes into its input: no assertions, no conversions to the type at
    hand (transformers asks for many), nothing that nobody reads."""
    _fx_passes.remove_assertion_nodes(module)
    for node in _calls(module):
        source = node.args[0] if node.args else None
        packet = getattr(node.target, "overloadpacket", None)
        if packet is not torch.ops.aten.to or not isinstance(source, torch.fx.Node):
            continue
        dtype = node.meta["val"].dtype
        if source.meta["val"].dtype != dtype or any(user.op == "output" for user in node.users):
            node.target, node.args, node.kwargs = torch.ops.aten._to_copy.default, (source,), {"dtype": dtype}
        else:
            node.replace_all_uses_with(source)
    for part in _parts(module):
        part.graph.eliminate_dead_code()


def _parts(module: torch.fx.GraphModule) -> list[torch.fx.GraphModule]:
    return [part for part in module.modules() if isinstance(part, torch.fx.GraphModule)]


def _calls(module: torch.fx.GraphModule) -> list[torch.fx.Node]:
    return [node for part in _parts(module) for node in part.graph.nodes if node.op == "call_function"]


def _direct(traced: Traced, registry: Any) -> ir.Model:
    """Translate node by node."""
    program = traced.program
    for part in _parts(program.graph_module):
        _promote_types(part)
    model: ir.Model = _core._exported_program_to_onnx_program(program, registry=registry).model
    convert_version(model, OPSET)
    _ir_passes.rename_inputs(model, traced.inputs)
    _ir_passes.rename_outputs(model, traced.outputs)
    return model


def _promote_types(module: torch.fx.GraphModule) -> None:
    """torch.onnx's InsertTypePromotion without running every node again: each has its value's type."""
    table = type_promotion.TypePromotionTable()
    pass_ = type_promotion.InsertTypePromotion(module, table)
    interpreter = pass_.interpreter
    nodes = list(module.graph.nodes)
    interpreter.env.update({node: node.meta.get("val") for node in nodes})
    mode = pass_.fake_mode
    assert mode is not None  # every program of torch.export carries one
    with mode, enable_python_dispatcher(), fx_traceback.preserve_node_meta():
        for node in nodes:
            rule = type_promotion.get_type_promotion_rule(node, table)
            if rule is not None:
                with interpreter._set_current_node(node):
                    interpreter._maybe_promote_node(node, rule)


def _by_torch(traced: Traced) -> ir.Model:
    """Through torch.onnx.export."""
    program = torch.onnx.export(
        traced.program,
        opset_version=OPSET,
        dynamo=True,
        optimize=False,
        verbose=False,
        custom_translation_table=_OWN,
        input_names=list(traced.inputs),
        output_names=list(traced.outputs),
    )
    assert program is not None  # None only with dynamo=False
    return program.model


@contextmanager
def _quiet() -> Iterator[None]:
    """torch.onnx logs a line for each missing optional library; none concerns us."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)
