"""Skeleton -> the files of an ONNX Runtime folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from exporter.backends.base import Progress, Target
from exporter.backends.ort import cache, capabilities, genai, passes, storage, windows
from exporter.backends.ort.names import LAST_TOKEN, LOGITS_RANGE
from exporter.backends.ort.ort_format import ORT_FORMAT, write_ort
from exporter.backends.ort.passes import naming
from exporter.backends.ort.passes.integers import name_integers, settle_integers
from exporter.backends.ort.tracing import trace_module, trace_text, with_codes
from exporter.backends.ort.translation import OPSET, to_onnx
from exporter.models.skeleton import described_examples

if TYPE_CHECKING:
    from exporter.models.skeleton import Skeleton


def lower(skeleton: Skeleton, target: Target, folder: Path, progress: Progress) -> Mapping[str, object]:
    """Write model.onnx, its data, and what onnxruntime-genai needs beside them.

    Raises TraceError, LoweringError.
    """
    progress("tracing", 0.0)
    is_text = skeleton.task == "text-generation"
    traced = trace_text(skeleton, target.max_context) if is_text else trace_module(skeleton)
    progress("translating to ONNX", 0.4)
    schemes = {name: planned.scheme for name, planned in skeleton.layers.items()}
    traced = with_codes(traced, skeleton)
    model = to_onnx(traced)
    static = [name for name, scheme in schemes.items() if scheme.is_static]
    if static:
        name_integers(model, static)
    outcomes = passes.run(model, traced.context)
    if static:
        outcomes["integers"] = settle_integers(model).facts()
    if traced.context is not None:
        _give_default(model.graph, LOGITS_RANGE, LAST_TOKEN)
    external = naming.name_all(model, traced.dimensions)
    used = naming.operators(model)
    seen = [
        node.attributes[windows.WINDOW].as_int() for node in model.graph if windows.WINDOW in node.attributes
    ]
    slots = None if traced.context is None else capabilities.window_slots(target, traced.context, seen)
    min_runtime = _min_runtime(skeleton, target, bool(seen), slots is not None)
    storage.write(model, folder, external, lambda what, share: progress(what, 0.8 + 0.15 * share))
    if traced.context is not None:
        genai.write(skeleton, folder, traced.context)
    facts: dict[str, object] = {
        "operators": used,
        "min_runtime": min_runtime,
        "opset": OPSET,
        "nodes": len(list(model.graph)),
        "passes": outcomes,
    }
    if not is_text:
        facts["programs"] = {"model": described_examples(skeleton)}
    if traced.context is not None and target.kv_cache == "int8":
        progress("measuring keys and values", 0.95)
        facts["kv_cache"] = cache.to_int8(folder, skeleton.calibration, traced.context)
    if slots is not None:
        facts["sliding_window"] = windows.shorten(folder, slots)
    if target.ort_format:
        progress("converting to ORT format", 0.95)
        write_ort(folder, folder / ORT_FORMAT)
        facts["ort_format"] = (
            f"{ORT_FORMAT} holds its weights inside and needs no {storage.DATA}; ONNX Runtime's writer orders"
            " its tables anew each time, so the file's hash changes from run to run"
        )
    progress("done", 1.0)
    return facts


def _give_default(graph: ir.Graph, name: str, value: Sequence[int]) -> None:
    """Make an input optional: an initializer of the same name is what a caller gets who leaves it out."""
    entry = next(x for x in graph.inputs if x.name == name)
    entry.const_value = ir.tensor(np.asarray(value, np.int64), name=name)
    graph.register_initializer(entry)


def _min_runtime(skeleton: Skeleton, target: Target, slides: bool, shortened: bool) -> str:
    """Oldest ONNX Runtime that computes this graph right; a plan has refused targets that allow an older one.

    `slides`: attention has sliding windows; `shortened`: their KV buffers are as short as the window.
    """
    oldest = capabilities.required_cache_runtime(target)
    for planned in skeleton.layers.values():
        oldest = max(oldest, capabilities.required_runtime(planned.info, planned.scheme)[0])
    if slides:
        oldest = max(oldest, capabilities.SLIDING_WINDOW_RUNTIME)
    if shortened:
        oldest = max(oldest, capabilities.WINDOW_CACHE_RUNTIME)
    return capabilities.show_version(oldest)
