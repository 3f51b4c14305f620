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

# What is compiled; every integer can be read in it. A language model's prompt may have a graph of its own.
GRAPHS = {"forward": "graph.qdq.onnx", "prefill": "prefill.qdq.onnx"}
NAMES = "inputs.json"  # names of the inputs, in their order
_PROVIDER = "QNNExecutionProvider"
# The provider knows these alone and takes any other for v68 without a word; the chip's number says enough.
_KNOWN_ARCHS = (68, 69, 73, 75, 81)
_CONTEXT_NODE, _CONTENT, _EMBEDS, _PART = "EPContext", "ep_cache_context", "embed_mode", "partition_name"


def context_name(soc: str, role: str = "forward") -> str:
    """File of one chip's program."""
    return f"model.{soc}.onnx" if role == "forward" else f"model.{soc}.{role}.onnx"


def compile_contexts(graphs: dict[str, str], folder: str, socs: list[str], share: bool) -> dict[str, Any]:
    """Compile the graphs (by role) for each chip into `folder`; seconds and bytes by chip. Raises LoweringError.

    `share`: into one context with each weight once, a file beside those of the graphs, which name it.
    """
    found: dict[str, Any] = {}
    for name in socs:
        start = time.perf_counter()
        targets = [Path(folder) / context_name(name, role) for role in graphs]
        kept = []  # sessions that share one context: the last of them writes it
        for graph, target in zip(graphs.values(), targets, strict=True):
            sharing = "" if not share else "stop" if target == targets[-1] else "share"
            try:
                kept.append(_session(Path(graph), SOCS[name], target, sharing))
            except Exception as problem:  # onnxruntime's exceptions share no base but Exception
                raise LoweringError(
                    f"QNN's compiler refuses the graph for {name}: {_reason(problem)}"
                ) from problem
            if not target.is_file():
                raise LoweringError(f"QNN's compiler wrote nothing for {name}")
        written = {*targets, *(_outside_file(target) for target in targets)} - {None}
        size = sum(path.stat().st_size for path in written if path)
        found[name] = {"seconds": time.perf_counter() - start, "bytes": size}
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
    held = _outside_file(path)
    if held is not None and not held.is_file():
        raise ArtifactError(f"{held}: is missing, and {path.name} is compiled into it; export again")
    for node, content in zip(model.graph.node, contents(path), strict=True):
        check_chip(content, soc, held or path)
        part = next((a.s for a in node.attribute if a.name == _PART), b"")
        if part not in content:
            raise ArtifactError(
                f"{held or path}: holds no graph {part.decode()}, which {path.name} names; export again"
            )


def contents(path: Path) -> list[bytes]:
    """The contexts of a compiled program, from the file itself or the one that it names."""
    held = _outside_file(path)
    if held is not None:
        return [held.read_bytes()]
    nodes = onnx.load(path).graph.node
    return [next((a.s for a in node.attribute if a.name == _CONTENT), b"") for node in nodes]


def _outside_file(path: Path) -> Path | None:
    """The file that holds the context of a compiled program, where that is not in it."""
    for node in onnx.load(path).graph.node:
        attributes = {a.name: a for a in node.attribute}
        if _EMBEDS in attributes and attributes[_EMBEDS].i == 0:
            return path.parent / str(attributes[_CONTENT].s.decode())
    return None


def _session(model: Path, soc: Soc, context: Path | None, sharing: str = "") -> Any:
    """A session with nothing on the CPU; writes the compiled program where `context` says.

    `sharing`: "share" for one context with the sessions after it, "stop" for the last of them.
    """
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
        options.add_session_config_entry("ep.context_embed_mode", "0" if sharing else "1")
    if sharing:
        options.add_session_config_entry("ep.share_ep_contexts", "1")
    if sharing == "stop":
        options.add_session_config_entry("ep.stop_share_ep_contexts", "1")
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
