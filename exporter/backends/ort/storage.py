"""model.onnx and model.onnx.data: deterministic bytes, each tensor once, ready to be memory mapped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import onnx_ir as ir

from exporter.backends.base import Progress

MODEL = "model.onnx"
DATA = "model.onnx.data"
# Large tensors start on a page so that a mapping shares nothing with its neighbour; small ones only
# need the alignment of a vector register, or padding would cost more than the tensors.
PAGE = 4096
_VECTOR = 64
_PAGED_FROM = 1 << 16
# Smaller tensors stay in model.onnx: shape inference and constant folding want to see them.
_INLINE_BELOW = 1024


def write(model: ir.Model, folder: Path, external: set[str], progress: Progress, name: str = MODEL) -> None:
    """Write one model with its weights outside. `external` names the initializers of quantised layers,
    which go outside whatever their size, so that a plan can count them."""
    write_all({name: (model, external)}, folder, progress)


def write_all(models: Mapping[str, tuple[ir.Model, set[str]]], folder: Path, progress: Progress) -> None:
    """Write models by file name, all weights in one file; see write.

    Initializers that share memory (a tied table seen by two operators, or by two models) share their place.
    """
    found = [
        (value, external) for model, external in models.values() for value in _in_order_of_use(model.graph)
    ]
    total = sum(value.const_value.nbytes for value, _ in found if value.const_value is not None)
    places: dict[tuple[int, int], int] = {}
    written = 0
    with (folder / DATA).open("wb") as file:
        for value, external in found:
            tensor = value.const_value
            if tensor is None or value.name is None:
                continue
            if tensor.nbytes < _INLINE_BELOW and value.name not in external:
                continue
            key = _memory(tensor)
            offset = places.get(key) if key is not None else None
            if offset is None:
                offset = _append(file, tensor)
                if key is not None:
                    places[key] = offset
            value.const_value = ir.ExternalTensor(
                DATA,
                offset,
                tensor.nbytes,
                tensor.dtype,
                shape=ir.Shape(tensor.shape.numpy()),
                name=value.name,
                base_dir=folder,
            )
            written += tensor.nbytes
            progress("writing weights", written / max(total, 1))
    for name, (model, _) in models.items():
        ir.save(model, folder / name)


def _in_order_of_use(graph: ir.Graph) -> Iterator[ir.Value]:
    """Initializers as the nodes meet them: reading the file forward follows the computation."""
    seen: set[str] = set()
    values = [value for node in graph for value in node.inputs if value is not None]
    for value in (*values, *graph.outputs, *graph.initializers.values()):
        if value.name is not None and value.name in graph.initializers and value.name not in seen:
            seen.add(value.name)
            yield value


def _memory(tensor: ir.TensorProtocol) -> tuple[int, int] | None:
    """Where a torch tensor's bytes lie, or None for another kind of tensor."""
    raw = tensor.raw
    pointer = getattr(raw, "data_ptr", None)
    return None if pointer is None else (int(pointer()), tensor.nbytes)


def _append(file: BinaryIO, tensor: ir.TensorProtocol) -> int:
    """Write a tensor's bytes at the next aligned place; returns the offset."""
    step = PAGE if tensor.nbytes >= _PAGED_FROM else _VECTOR
    offset = -(-file.tell() // step) * step
    file.write(b"\0" * (offset - file.tell()))
    file.write(tensor.tobytes())
    return offset
