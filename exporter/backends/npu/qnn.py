"""ONNX Runtime's QNN provider: a graph compiled for one chip, and run by Qualcomm's simulator of it.

compile_contexts and run_context are jobs of exporter.backends.npu.worker.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import onnx

from exporter.backends.npu.cases import run_cases
from exporter.backends.npu.contexts import check_chip
from exporter.errors import ArtifactError, LoweringError, first_line
from exporter.socs import SOCS, Soc

GRAPH = "graph.qdq.onnx"  # what is compiled; every integer can be read in it
NAMES = "inputs.json"  # names of the inputs, in their order
_PROVIDER = "QNNExecutionProvider"
# The provider knows these alone and takes any other for v68 without a word; the chip's number says enough.
_KNOWN_ARCHS = (68, 69, 73, 75, 81)
_CONTEXT_NODE, _CONTENT = "EPContext", "ep_cache_context"


def context_name(soc: str) -> str:
    """File of one chip's program."""
    return f"model.{soc}.onnx"


def compile_contexts(graph: str, folder: str, socs: list[str]) -> dict[str, Any]:
    """Compile the graph for each chip into `folder`; seconds and bytes by chip. Raises LoweringError."""
    found: dict[str, Any] = {}
    for name in socs:
        target = Path(folder) / context_name(name)
        start = time.perf_counter()
        try:
            _session(Path(graph), SOCS[name], target)
        except Exception as problem:  # onnxruntime's exceptions share no base but Exception
            raise LoweringError(
                f"QNN's compiler refuses the graph for {name}: {_reason(problem)}"
            ) from problem
        if not target.is_file():
            raise LoweringError(f"QNN's compiler wrote nothing for {name}")
        found[name] = {"seconds": time.perf_counter() - start, "bytes": target.stat().st_size}
    return found


def run_context(model: str, soc: str, inputs: str, outputs: str) -> dict[str, Any]:
    """Run a compiled program on every row of `inputs`, a .npz of arrays by position, (cases, …); writes `outputs`."""
    session = _session(Path(model), SOCS[soc], None)
    names = [port.name for port in session.get_inputs()]
    order = json.loads((Path(model).parent / NAMES).read_text())
    return run_cases(
        inputs,
        outputs,
        lambda given: session.run(None, {n: a for n, a in zip(order, given, strict=True) if n in names}),
    )


def check_context(path: Path, soc: str) -> None:
    """Raise ArtifactError where any node is not in it, or it is for another chip."""
    model = onnx.load(path)
    outside = [node.op_type for node in model.graph.node if node.op_type != _CONTEXT_NODE]
    if outside:
        raise ArtifactError(
            f"{path}: {len(outside)} nodes are not on the NPU ({', '.join(sorted(set(outside)))}); a phone would run "
            "them on its CPU. Export again"
        )
    if not model.graph.node:
        raise ArtifactError(f"{path}: holds no compiled program; export again")
    for node in model.graph.node:
        content = next((a.s for a in node.attribute if a.name == _CONTENT), b"")
        check_chip(content, soc, path)


def _session(model: Path, soc: Soc, context: Path | None) -> Any:
    """A session with nothing on the CPU; writes the compiled program where `context` says."""
    import onnxruntime as ort
    import onnxruntime_qnn

    if not any(device.ep_name == _PROVIDER for device in ort.get_ep_devices()):
        ort.register_execution_provider_library(_PROVIDER, onnxruntime_qnn.get_library_path())
    devices = [device for device in ort.get_ep_devices() if device.ep_name == _PROVIDER]
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if context is not None:
        options.add_session_config_entry("ep.context_enable", "1")
        options.add_session_config_entry("ep.context_file_path", str(context))
        options.add_session_config_entry("ep.context_embed_mode", "1")
    settings = {
        "backend_path": onnxruntime_qnn.get_qnn_htp_path(),
        "soc_model": str(soc.number),
        "offload_graph_io_quantization": "0",
    }
    if soc.arch in _KNOWN_ARCHS:
        settings["htp_arch"] = str(soc.arch)
    options.add_provider_for_devices(devices[:1], settings)
    return ort.InferenceSession(model, options)


def _reason(problem: Exception) -> str:
    text = first_line(problem)
    if "explicitly disabled" in text:
        return "some of its operators have no kernel on that chip, and the CPU may not run them; see the log"
    return text
