"""ExecuTorch's delegate for Qualcomm's HTP: a .pte for each chip, and run by Qualcomm's simulator.

The integers are in the traced program already, as quantise and dequantise nodes. ExecuTorch's passes gather their
scales from there; its own quantiser takes no part. compile_program and run_program are jobs of
exporter.backends.npu.worker.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.ao.quantization.fx._decomposed  # registers the operators of a saved program

from exporter.backends.npu.cases import Arrays, read_program, run_cases
from exporter.backends.npu.contexts import check_chip
from exporter.errors import ArtifactError, LoweringError
from exporter.socs import SOCS
from exporter.static.naming import operator_name
from exporter.static.tidying import constant, constants_of, set_constant

if TYPE_CHECKING:
    from torch.export import ExportedProgram

DELEGATE = "QnnBackend"
# Methods of a program, as ExecuTorch's own exports of language models for this delegate call them.
_LANGUAGE = {"forward": "kv_forward", "prefill": "prefill_forward"}
_OUTSIDE = ("executorch_call_delegate", "getitem")  # what may stand beside the one delegate


def program_name(soc: str) -> str:
    """File of one chip's program."""
    return f"model.{soc}.pte"


def methods(roles: Iterable[str]) -> dict[str, str]:
    """Role -> method of the .pte: `forward` where it is alone."""
    found = list(roles)
    return {role: _LANGUAGE[role] if len(found) > 1 else role for role in found}


def compile_program(programs: dict[str, str], folder: str, socs: list[str], share: bool) -> dict[str, Any]:
    """Lower saved programs (torch.export.save, by role) for each chip; seconds and bytes by chip.

    `share`: with each weight once, whatever number of programs has it. Raises LoweringError.
    """
    found: dict[str, Any] = {}
    names = methods(programs)
    for name in socs:
        start = time.perf_counter()
        loaded = {
            names[role]: _blocks_as_affine(_wide_as_int32(torch.export.load(path)))
            for role, path in programs.items()
        }
        content = _lowered(loaded, name, share)
        path = Path(folder) / program_name(name)
        path.write_bytes(content)
        found[name] = {"seconds": time.perf_counter() - start, "bytes": len(content)}
    return found


def run_program(model: str, inputs: str, outputs: str, role: str) -> dict[str, Any]:
    """Run a .pte on every row of `inputs`, a .npz of arrays by position, (cases, …); writes `outputs`."""
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(Path(model))
    name = role if role in program.method_names else _LANGUAGE[role]
    method = program.load_method(name)
    assert method is not None

    def run(given: Arrays) -> Arrays:
        found = method.execute([torch.from_numpy(array) for array in given])
        return [tensor.numpy().copy() for tensor in found]  # the runtime reuses its outputs' memory

    return run_cases(inputs, outputs, run)


def check_program(path: Path, soc: str, roles: Iterable[str] = ("forward",)) -> None:
    """Raise ArtifactError where a node is outside the delegate, a method is missing, or it is for another chip."""
    program = read_program(path)
    plans = program.execution_plan
    wanted, found = sorted(methods(roles).values()), sorted(plan.name for plan in plans)
    if found != wanted:
        raise ArtifactError(
            f"{path}: has the methods {', '.join(found)}, and the recipe asks for {', '.join(wanted)}; export again"
        )
    operators = sorted({operator.name for plan in plans for operator in plan.operators})
    if operators:
        raise ArtifactError(
            f"{path}: {', '.join(operators)} are not on the NPU; a phone would run them on its CPU. Export again"
        )
    delegates = [delegate for plan in plans for delegate in plan.delegates]
    others = sorted({delegate.id for delegate in delegates} - {DELEGATE})
    if others or not delegates:
        raise ArtifactError(
            f"{path}: has delegates {', '.join(others) or 'none'}, and {DELEGATE} is wanted; export again"
        )
    for content in contents(path):
        check_chip(content, soc, path)


def contents(path: Path) -> list[bytes]:
    """The contexts of a compiled program; one that several methods share, once."""
    program = read_program(path)
    places = {delegate.processed.index for plan in program.execution_plan for delegate in plan.delegates}
    held = (bytes(program.backend_delegate_data[place].data) for place in sorted(places))
    return [_stripped(payload) for payload in dict.fromkeys(held)]


def _stripped(payload: bytes) -> bytes:
    """The context behind ExecuTorch's own header, whose first words are magic number, 0 and sizes."""
    from executorch.backends.qualcomm.python import PyQnnManagerAdaptor

    found: bytes = bytes(PyQnnManagerAdaptor.StripProtocol(payload))
    return found or payload


def _wide_as_int32(program: ExportedProgram) -> ExportedProgram:
    """In place: 16-bit codes from 0 on as ExecuTorch's passes for Qualcomm hold them, int32 with their bounds."""
    for node in program.graph.nodes:
        if (
            node.op == "call_function"
            and operator_name(node)
            in (
                "quantize_per_tensor",
                "dequantize_per_tensor",
            )
            and node.args[5] == torch.uint16
        ):
            node.args = (*node.args[:5], torch.int32)
            if operator_name(node) == "quantize_per_tensor":
                node.meta["val"] = node.meta["val"].to(torch.int32)
    names = constants_of(program)
    for node in list(program.graph.nodes):
        if node.op == "placeholder" and node.name in names:
            value = constant(program, names[node.name])
            if value.dtype == torch.uint16:
                set_constant(program, node, value.to(torch.int32))
    program.graph_module.recompile()
    return program


def _blocks_as_affine(program: ExportedProgram) -> ExportedProgram:
    """In place: weights in blocks by the operator that ExecuTorch's builders for Qualcomm read them from.

    They find steps and scales of rows again from the scales of blocks (exporter.blocks says why that is exact).
    """
    import torchao.quantization.quant_primitives  # noqa: F401  # registers the operator

    for node in program.graph.nodes:
        if node.op == "call_function" and operator_name(node) == "dequantize_per_channel_group":
            values, scales, _, low, high, dtype, block, _ = node.args
            node.target = torch.ops.torchao.dequantize_affine.default
            node.args = (values, [1, block], scales, None, dtype, low, high)
    program.graph_module.recompile()
    return program


def _has_blocks(program: ExportedProgram) -> bool:
    """Whether ExecuTorch's pass must make convolutions of its linear layers: as QNN's FullyConnected, a product with
    blocks computes something else for some shapes (docs/npu.md)."""
    return any(
        node.op == "call_function" and operator_name(node) == "dequantize_affine"
        for node in program.graph.nodes
    )


def _lowered(programs: Mapping[str, ExportedProgram], soc: str, share: bool) -> bytes:
    """The .pte of one chip; programs by method."""
    from executorch.backends.qualcomm._passes.qnn_pass_manager import get_qnn_pass_manager_cls
    from executorch.backends.qualcomm.partition.qnn_partitioner import (
        QnnPartitioner,
        generate_qnn_executorch_option,
    )
    from executorch.backends.qualcomm.serialization.qc_schema import QcomChipset
    from executorch.backends.qualcomm.serialization.qc_schema_serialize import flatbuffer_to_option
    from executorch.backends.qualcomm.utils.qnn_manager_lifecycle import QnnManagerContext
    from executorch.backends.qualcomm.utils.utils import (
        generate_htp_compiler_spec,
        generate_qnn_executorch_compiler_spec,
        qnn_edge_config,
    )
    from executorch.exir import to_edge_transform_and_lower

    specs = generate_qnn_executorch_compiler_spec(
        QcomChipset(SOCS[soc].number), generate_htp_compiler_spec(use_fp16=False, use_weight_sharing=share)
    )
    options = flatbuffer_to_option(generate_qnn_executorch_option(specs))
    ready, transforms = {}, {}
    for method, program in programs.items():
        passes = get_qnn_pass_manager_cls(options.backend_options.backend_type)()
        ready[method] = passes.transform_for_export_pipeline(program)
        transforms[method] = passes.get_to_edge_transform_passes(
            program,
            passes_job=None,
            dep_table=None,
            compiler_specs=specs,
            skip_node_id_set=None,
            skip_node_op_set=None,
            convert_linear_to_conv2d=_has_blocks(program),
        )
    with QnnManagerContext(dict.fromkeys(programs, specs)):
        edge = to_edge_transform_and_lower(
            ready,
            transform_passes=transforms,
            partitioner={method: [QnnPartitioner(specs)] for method in programs},
            compile_config=qnn_edge_config(),
        )
    outside = sorted(
        {
            str(getattr(node.target, "__name__", node.target))
            for method in programs
            for node in edge.exported_program(method).graph.nodes
            if node.op == "call_function"
        }
        - set(_OUTSIDE)
    )
    if outside:
        raise LoweringError(
            f"{', '.join(outside)} have no kernel on {soc}, and the CPU may not run them; change the model, or take "
            "another target"
        )
    found: bytes = edge.to_executorch().buffer
    return found
