"""The KV cache in int8: what text makes of keys and values, written as scales that never change.

GroupQueryAttention on CPU stores a key or value x as clip(rint(x / scale), -128, 127) and reads it as
code * scale, with one scale per head and channel (PER_CHANNEL; shape (1, kv heads, 1, head size)). It
cannot choose scales at run time, so the finished graph, its cache still float32, reads calibration
text first. Source: inputs k_scale and v_scale in onnxruntime's docs/ContribOperators.md, rounding in
onnxruntime/core/mlas/lib/qkv_quant.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from exporter.backends.ort.running import open_session, prefill_cache
from exporter.backends.ort.storage import MODEL
from exporter.errors import LoweringError

_ATTENTION = "GroupQueryAttention"
_PAST_KEY, _PAST_VALUE, _KEY_SCALE, _VALUE_SCALE = 3, 4, 12, 13  # inputs of GroupQueryAttention
_PRESENT_KEY, _PRESENT_VALUE = 1, 2  # outputs
_GRANULARITY = "PER_CHANNEL"
_LARGEST_CODE = 127.0
_SCALE = ".scale"  # after the name of a cache input

Array = NDArray[np.float32]


def to_int8(folder: Path, calibration: Sequence[Sequence[int]], context: int) -> dict[str, object]:
    """Turn the float32 cache of folder/model.onnx into int8; returns facts for the manifest.

    `calibration`: token windows, each read from an empty cache and cut at `context` tokens.
    Raises LoweringError where there is no text to measure on.
    """
    windows = [list(window)[:context] for window in calibration if len(window)]
    if not windows:
        raise LoweringError(
            "kv_cache int8 stores keys and values by scales that are measured on text, and the model comes"
            " with no calibration tokens; give it a tokenizer, or set kv_cache: float32"
        )
    model = onnx.load(folder / MODEL, load_external_data=False)
    nodes = [node for node in model.graph.node if node.op_type == _ATTENTION]
    largest = _largest(folder, nodes, windows)
    caches = set()
    for node in nodes:
        caches |= {node.input[_PAST_KEY], node.input[_PAST_VALUE]}
        caches |= {node.output[_PRESENT_KEY], node.output[_PRESENT_VALUE]}
        node.input.extend([""] * (_VALUE_SCALE + 1 - len(node.input)))
        for past, place in ((_PAST_KEY, _KEY_SCALE), (_PAST_VALUE, _VALUE_SCALE)):
            name = node.input[past] + _SCALE
            node.input[place] = name
            scale = scales_for(largest[node.input[past]])
            model.graph.initializer.append(onnx.numpy_helper.from_array(scale, name))
        new = {"k_quant_type": _GRANULARITY, "v_quant_type": _GRANULARITY, "kv_cache_bit_width": 8}
        node.attribute.extend(onnx.helper.make_attribute(key, value) for key, value in new.items())
    for value in (*model.graph.input, *model.graph.output):
        if value.name in caches:
            value.type.tensor_type.elem_type = onnx.TensorProto.INT8
    (folder / MODEL).write_bytes(model.SerializeToString(deterministic=True))
    return {"type": "int8", "scales": "per channel", "calibration_tokens": sum(map(len, windows))}


def scales(folder: Path) -> list[tuple[Array, Array]]:
    """Scales of keys and of values, per layer in network order, (1, kv heads, 1, head size) each; empty
    where the cache is not int8."""
    model = onnx.load(folder / MODEL, load_external_data=False)
    found = {x.name: x for x in model.graph.initializer if x.name.endswith(_SCALE)}
    return [
        (
            onnx.numpy_helper.to_array(found[node.input[_KEY_SCALE]]),
            onnx.numpy_helper.to_array(found[node.input[_VALUE_SCALE]]),
        )
        for node in model.graph.node
        if node.op_type == _ATTENTION and len(node.input) > _VALUE_SCALE and node.input[_KEY_SCALE] in found
    ]


def scales_for(largest: Array) -> Array:
    """(kv heads, head size) largest magnitudes -> (1, kv heads, 1, head size) scales.

    A channel that text never moves gets the scale of the layer's largest one, so that it is coarse
    rather than clipped when something moves it.
    """
    moved = np.where(largest > 0, largest, largest.max())
    moved = np.where(moved > 0, moved, _LARGEST_CODE)  # a layer of zeros: any scale will do
    return np.ascontiguousarray((moved / _LARGEST_CODE).astype(np.float32)[None, :, None, :])


def largest_key(keys: Array, rotated: bool) -> Array:
    """Bound of |keys| at any position, from (kv heads, tokens, head size) after rotary -> (kv heads, size).

    Positions turn channels i and i + size / 2 into one another, and text of some hundred tokens sees few
    of the angles of the slow ones. The length of the pair is the same at every angle and bounds both.
    `rotated` False: the graph turns keys (if it does) in a form that is not known here; whichever two
    channels of a head form a pair, its length is at most sqrt(2) times the head's largest.
    """
    if not rotated:
        widest = np.abs(keys).max(axis=(1, 2), keepdims=True)[:, 0] * np.float32(np.sqrt(2.0))
        return np.broadcast_to(widest, (keys.shape[0], keys.shape[2]))
    half = keys.shape[2] // 2
    length = np.hypot(keys[..., :half], keys[..., half:]).max(axis=1)
    return np.concatenate([length, length], axis=1)


def _largest(
    folder: Path, nodes: Sequence[onnx.NodeProto], windows: Sequence[Sequence[int]]
) -> dict[str, Array]:
    """Input name of each cache -> (kv heads, head size) largest magnitudes that the text gave it."""
    session = open_session(folder)
    names = [node.output[place] for node in nodes for place in (_PRESENT_KEY, _PRESENT_VALUE)]
    largest: dict[str, Array] = {}
    for window in windows:
        cache = dict(zip(names, prefill_cache(session, window, names), strict=True))
        for node in nodes:
            for name, seen in _of_node(node, cache):
                largest[name] = np.maximum(largest[name], seen) if name in largest else seen
    return largest


def _of_node(node: onnx.NodeProto, cache: dict[str, Array]) -> Iterator[tuple[str, Array]]:
    """Largest magnitudes of one layer's keys and values, (1, kv heads, tokens, head size) in the cache."""
    inside = any(attribute.name == "do_rotary" and attribute.i for attribute in node.attribute)
    yield node.input[_PAST_KEY], largest_key(cache[node.output[_PRESENT_KEY]][0], inside)
    yield node.input[_PAST_VALUE], np.abs(cache[node.output[_PRESENT_VALUE]][0]).max(axis=1)
