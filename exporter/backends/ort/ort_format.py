"""model.ort: the model and its weights in one file that an app maps, by ONNX Runtime's own writer.

The writer of a newer ONNX Runtime spells out every attribute that an operator has by now, at its default.
An older one refuses a file with an attribute that it has never heard of ("Unrecognized attribute: causal"), though
the same model.onnx, which leaves it out, is right there. So what model.onnx does not say is taken out again:
in the flatbuffer's list of a node's attributes, which becomes shorter in place.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from exporter.backends.ort.storage import MODEL
from exporter.errors import LoweringError

ORT_FORMAT = "model.ort"
_ONNX = "ai.onnx"
_ATTRIBUTES = 24  # place of a node's attributes in its table: ort.fbs of ONNX Runtime, Node.attributes


def write_ort(folder: Path, target: Path, name: str = MODEL) -> list[str]:
    """Write a graph of the folder as `target`; its operators, as `domain::name`. Raises LoweringError."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(target)
    # extended, not all: the last level rewrites for the CPU at hand, and phones have another
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.add_session_config_entry("session.save_model_format", "ORT")
    options.log_severity_level = 3
    try:
        onnxruntime.InferenceSession(folder / name, options, providers=["CPUExecutionProvider"])
    except Exception as problem:  # onnxruntime's exceptions share no base but Exception
        raise LoweringError(f"ONNX Runtime cannot write {target.name}: {problem}") from problem
    _drop_unsaid(target, _said(folder / name))
    return operators(target)


def operators(path: Path) -> list[str]:
    """Operators of an .ort file, as `domain::name`, sorted."""
    return sorted({"::".join(_kind(node)) for node in _nodes(_graph(path.read_bytes()))})


def _said(path: Path) -> dict[tuple[str, str], set[str]]:
    """(domain, operator) -> attributes that some node of model.onnx has."""
    import onnx

    found: dict[tuple[str, str], set[str]] = {}
    for node in onnx.load(path, load_external_data=False).graph.node:
        names = {attribute.name for attribute in node.attribute}
        found.setdefault((node.domain or _ONNX, node.op_type), set()).update(names)
    return found


def _drop_unsaid(path: Path, said: Mapping[tuple[str, str], set[str]]) -> None:
    """Take attributes out that no node of its kind in model.onnx has; kinds that fusions made stay whole."""
    import mmap

    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        for node in _nodes(_graph(mapped)):
            kept = said.get(_kind(node))
            if kept is None:
                continue
            names = [node.Attributes(number).Name().decode() for number in range(node.AttributesLength())]
            left = [number for number, name in enumerate(names) if name in kept]
            if len(left) < len(names):
                _keep(mapped, node, left)


def _keep(mapped: Any, node: Any, left: list[int]) -> None:
    """Only these elements of a node's list of attributes: offsets count from the place where they stand."""
    start = node._tab.Vector(node._tab.Offset(_ATTRIBUTES))
    targets = [start + 4 * n + struct.unpack_from("<I", mapped, start + 4 * n)[0] for n in left]
    for place, target in enumerate(targets):
        struct.pack_into("<I", mapped, start + 4 * place, target - (start + 4 * place))
    struct.pack_into("<I", mapped, start - 4, len(left))


def _graph(content: Any) -> Any:
    """The file's graph, read where it lies. `fbs` are ONNX Runtime's own classes for it."""
    import onnxruntime.tools.ort_format_model  # noqa: F401  # makes ort_flatbuffers_py importable
    from ort_flatbuffers_py.fbs.InferenceSession import InferenceSession

    return InferenceSession.GetRootAs(content, 0).Model().Graph()


def _nodes(graph: Any) -> Iterator[Any]:
    return (graph.Nodes(number) for number in range(graph.NodesLength()))


def _kind(node: Any) -> tuple[str, str]:
    return node.Domain().decode() or _ONNX, node.OpType().decode()
