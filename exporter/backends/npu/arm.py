"""ExecuTorch's delegates for Arm's NPUs: TOSA, which a reference model runs here, and Ethos-U, which Vela compiles.

The integers are in the traced program already; Arm's quantiser takes no part. compile_program and run_tosa are jobs of
exporter.backends.npu.worker.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.ao.quantization.fx._decomposed  # registers the operators of a saved program

from exporter.backends.npu.cases import Arrays, read_program, run_cases
from exporter.errors import ArtifactError, LoweringError
from exporter.static.naming import operator_name

if TYPE_CHECKING:
    from torch.export import ExportedProgram

PROGRAM, GRAPH, PORTS = "model.pte", "model.tosa", "ports.json"
_TOSA = "TOSA-1.0+INT+int16+int4"
_BORDER = ("quantize_per_tensor.default", "dequantize_per_tensor.default", "_to_dim_order_copy.default")
_DELEGATES = {"tosa": "TOSABackend", "ethos-u": "EthosUBackend"}
_REPORT = "vela"  # folder, within that of the job, into which Vela writes
_FIGURES = {  # of Vela's summary: our name -> its column, and what to multiply it with
    "milliseconds": ("inference_time", 1e3),
    "sram_bytes": ("sram_memory_used", 1024.0),
    "weights_bytes": ("total_npu_encoded_weights", 1.0),
    "cycles": ("cycles_total", 1.0),
}


def compile_program(program: str, folder: str, variant: str | None) -> dict[str, Any]:
    """Lower a saved program; `variant` of Ethos-U, None for TOSA alone. Facts. Raises LoweringError."""
    start = time.perf_counter()
    loaded = _marked(torch.export.load(program))
    edge, payload, ports = _lowered(loaded, None)
    place = Path(folder)
    (place / GRAPH).write_bytes(payload)
    (place / PORTS).write_text(json.dumps(ports, indent=1))
    report: dict[str, Any] = {}
    if variant is not None:
        edge, payload, _ = _lowered(_marked(torch.export.load(program)), variant)
        report = _vela_report()
    content = edge.to_executorch().buffer
    (place / PROGRAM).write_bytes(content)
    return {
        "seconds": time.perf_counter() - start,
        "bytes": len(content),
        "payload": len(payload),
        "vela": report,
    }


def run_tosa(folder: str, inputs: str, outputs: str) -> dict[str, Any]:
    """Run model.tosa in Arm's reference model on every row of `inputs`, a .npz by position; writes `outputs`."""
    import tosa_reference_model

    place = Path(folder)
    graph, ports = (place / GRAPH).read_bytes(), json.loads((place / PORTS).read_text())

    def run(arrays: Arrays) -> Arrays:
        given = [_codes(arrays[port["place"]], port) for port in ports["inputs"]]
        found, status = tosa_reference_model.run(
            graph, given, verbosity="LOW", initialize_variable_tensor_from_numpy=True
        )
        if status != tosa_reference_model.GraphStatus.TOSA_VALID:
            raise LoweringError(f"Arm's reference model: the graph is not valid TOSA ({status})")
        return [_values(found[port["place"]], port) for port in ports["outputs"]]

    return run_cases(inputs, outputs, run)


def check_program(path: Path, unit: str) -> None:
    """Raise ArtifactError where a .pte has anything but one delegate of that kind between its borders."""
    plans = read_program(path).execution_plan
    allowed = (
        "quantized_decomposed::quantize_per_tensor",
        "quantized_decomposed::dequantize_per_tensor",
        "dim_order_ops",
    )
    outside = sorted({o.name for plan in plans for o in plan.operators if not o.name.startswith(allowed)})
    if outside:
        raise ArtifactError(
            f"{path}: {', '.join(outside)} are not on the NPU; the CPU would run them. Export again"
        )
    found = sorted({delegate.id for plan in plans for delegate in plan.delegates})
    if found != [_DELEGATES[unit]]:
        raise ArtifactError(
            f"{path}: has delegates {', '.join(found) or 'none'}, and {_DELEGATES[unit]} is wanted; export again"
        )


def _marked(program: ExportedProgram) -> ExportedProgram:
    """In place: Arm's partitioner takes operators that its quantiser has marked."""
    from executorch.backends.arm.common.annotation_meta import ArmAnnotationInfo

    mark = dict(ArmAnnotationInfo(quantized=True))
    for node in program.graph.nodes:
        if node.op == "call_function" and "quantize" not in operator_name(node):
            node.meta.setdefault("custom", {})[ArmAnnotationInfo.CUSTOM_META_KEY] = mark
    return program


def _lowered(program: ExportedProgram, variant: str | None) -> tuple[Any, bytes, dict[str, Any]]:
    """The edge program with one delegate, its payload, and how its inputs and outputs become codes."""
    import executorch.kernels.quantized  # noqa: F401  registers what the borders become
    from executorch.backends.arm.ethosu import EthosUCompileSpec, EthosUPartitioner
    from executorch.backends.arm.tosa.compile_spec import TosaCompileSpec
    from executorch.backends.arm.tosa.partitioner import TOSAPartitioner
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    if variant is None:
        partitioner: Any = TOSAPartitioner(TosaCompileSpec(_TOSA))
    else:
        spec = EthosUCompileSpec(
            variant, extra_flags=["--verbose-performance"]
        )  # which writes a row per operator
        partitioner = EthosUPartitioner(spec.dump_intermediate_artifacts_to(_REPORT))
    edge = to_edge_transform_and_lower(
        program, partitioner=[partitioner], compile_config=EdgeCompileConfig(_check_ir_validity=False)
    )
    nodes = [node for node in edge.exported_program().graph.nodes if node.op == "call_function"]
    calls = [node for node in nodes if "delegate" in str(node.target)]
    outside = sorted(
        {
            str(getattr(node.target, "__name__", node.target))
            for node in nodes
            if node not in calls and operator_name(node) != "getitem" and not _at_border(node)
        }
    )
    if outside or len(calls) != 1:
        what = ", ".join(outside) or f"{len(calls)} pieces of the graph"
        raise LoweringError(
            f"{what} are not on the NPU, and the CPU may not run them; change the model, or take another target"
        )
    module = getattr(edge.exported_program().graph_module, calls[0].args[0].target)
    return edge, module.processed_bytes, _ports(edge.exported_program(), calls[0])


def _at_border(node: torch.fx.Node) -> bool:
    """A conversion of an input or an output of the whole program."""
    name = str(getattr(node.target, "__name__", node.target))
    if not name.endswith(_BORDER):
        return False
    source = node.args[0]
    assert isinstance(source, torch.fx.Node)
    return (
        source.op == "placeholder"
        or all(user.op == "output" for user in node.users)
        or (source.op == "call_function" and _at_border(source))
    )


def _ports(program: ExportedProgram, call: torch.fx.Node) -> dict[str, Any]:
    """For each input and output of the delegate: its place in the program; scale and zero point where it has codes."""
    places = {name: place for place, name in enumerate(program.graph_signature.user_inputs)}
    inputs = []
    for argument in call.args[1:]:
        port: dict[str, Any] = {}
        source = argument
        assert isinstance(source, torch.fx.Node)
        while source.op != "placeholder":
            if operator_name(source).startswith("quantize_per_tensor") or "quantize_per_tensor" in str(
                source.target
            ):
                scale, zero, low, high, dtype = source.args[1:6]
                port |= {"scale": scale, "zero": zero, "low": low, "high": high, "dtype": _short(dtype)}
            source = source.args[0]
            assert isinstance(source, torch.fx.Node)
        port.setdefault("dtype", _short(call_type(argument)))
        inputs.append({"place": places[source.name], **port})
    output = next(node for node in program.graph.nodes if node.op == "output")
    outputs = []
    for node in output.args[0]:
        port = {}
        if "dequantize_per_tensor" in str(node.target):
            port = {"scale": node.args[1], "zero": node.args[2]}
        source = node
        while operator_name(source) != "getitem":
            source = source.args[0]
        outputs.append({"place": source.args[1], **port})
    return {"inputs": inputs, "outputs": outputs}


def call_type(argument: Any) -> torch.dtype:
    """Type of what a delegate is given."""
    found: torch.dtype = argument.meta["val"].dtype
    return found


def _short(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _codes(value: np.ndarray, port: Mapping[str, Any]) -> np.ndarray:
    """As quantize_per_tensor computes them."""
    if "scale" not in port:
        return value.astype(port["dtype"])
    inverse = np.float32(1.0 / np.float32(port["scale"]))
    codes = np.rint(value.astype(np.float32) * inverse) + port["zero"]
    found: np.ndarray = np.clip(codes, port["low"], port["high"]).astype(port["dtype"])
    return found


def _values(codes: np.ndarray, port: Mapping[str, Any]) -> np.ndarray:
    if "scale" not in port:
        return codes
    found: np.ndarray = (codes.astype(np.int64) - port["zero"]).astype(np.float32) * np.float32(port["scale"])
    return found


def _vela_report() -> dict[str, float]:
    """Vela's own estimates, and how many operators run where. Raises LoweringError where one is left to the CPU."""
    place = Path(_REPORT) / "output"
    (summary,) = csv.DictReader(next(place.glob("*_summary_*.csv")).read_text().splitlines())
    layers = list(csv.DictReader(next(place.glob("*_per-layer.csv")).read_text().splitlines()))
    on_cpu = [row["Original Operator"] for row in layers if row["Target"] != "NPU"]
    if on_cpu:
        raise LoweringError(
            f"Vela leaves {', '.join(sorted(set(on_cpu)))} to the CPU; change the model, or take another target"
        )
    found = {name: float(summary[column]) * factor for name, (column, factor) in _FIGURES.items()}
    return {**found, "npu_operators": float(len(layers))}
