"""A .pte of several methods: each traced program cut into XNNPACK's pieces, all in one file."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from executorch.exir import EdgeCompileConfig, EdgeProgramManager, ExecutorchBackendConfig
from executorch.exir.passes import MemoryPlanningPass
from torch.export import ExportedProgram

from exporter.backends.base import Progress
from exporter.backends.executorch.assembling import assemble
from exporter.backends.executorch.cutting import cut
from exporter.backends.executorch.finishing import finish
from exporter.backends.executorch.lowering import KERNEL_LIBRARIES, lowering_errors
from exporter.backends.executorch.rewriting import rewrite
from exporter.backends.executorch.running import missing_kernels
from exporter.backends.executorch.simplifying import simplify
from exporter.errors import LoweringError


def lower_method(program: ExportedProgram) -> ExportedProgram:
    """The program with XNNPACK's delegates in it. Raises LoweringError."""
    rewrite(program)
    simplify(program)
    with lowering_errors():
        found: ExportedProgram = assemble(program, cut(program), {}).exported_program()
        return found


def write_methods(
    lowered: Mapping[str, ExportedProgram],
    constants: Mapping[str, Any],
    path: Path,
    progress: Progress,
) -> dict[str, object]:
    """Write the methods, and methods that only give a constant; facts for the manifest. Raises LoweringError."""
    progress("planning memory", 0.8)
    with lowering_errors():
        config = EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True)
        finished = EdgeProgramManager(dict(lowered), dict(constants), config).to_executorch(
            ExecutorchBackendConfig(memory_planning_pass=MemoryPlanningPass(alloc_graph_input=False))
        )
    plans = [plan for plan in finished.executorch_program.execution_plan if plan.name in lowered]
    operators = sorted({f"{op.name}.{op.overload}".removesuffix(".") for p in plans for op in p.operators})
    missing = missing_kernels(operators)
    if missing:
        raise LoweringError(
            f"ExecuTorch's runtime has no kernel for {', '.join(missing)}; change the model, or take the "
            "onnxruntime target"
        )
    progress("writing the program", 0.9)
    with path.open("wb") as file:
        finished.write_to_file(file)
    finish(path)
    progress("writing the program", 1.0)
    return {
        "operators": operators,
        "delegates": {"XnnpackBackend": sum(len(plan.delegates) for plan in plans)},
        "methods": sorted(lowered),
        "kernel_libraries": list(KERNEL_LIBRARIES),
        "min_runtime": version("executorch"),
    }
