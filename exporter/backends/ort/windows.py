"""KV buffers as short as a sliding window: GroupQueryAttention with sliding_window_cache.

Such a layer drops old tokens by itself. Its buffers have `slots` places, at least the window: behind the
tokens that it still sees come a few, so that the buffers are moved up once in some steps only. Positions
stay absolute. Source: "Windowed KV Cache" in the operator's description, onnxruntime's
docs/ContribOperators.md. The finished graph is edited, because a cache in int8 is measured on whole
buffers before.
"""

from __future__ import annotations

import json
from pathlib import Path

import onnx

from exporter.backends.ort.capabilities import WINDOW_SLACK
from exporter.backends.ort.genai import CONFIG
from exporter.backends.ort.names import PAST
from exporter.backends.ort.storage import MODEL

WINDOW = "local_window_size"
_CACHES = (3, 4)  # inputs of GroupQueryAttention: keys and values
_PRESENTS = (1, 2)  # outputs
_SECTION = "sliding_window"  # of genai_config.json


def shorten(folder: Path, slots: int) -> dict[str, object]:
    """Let every layer of folder/model.onnx with a sliding window keep `slots` tokens; facts for the manifest."""
    model = onnx.load(folder / MODEL, load_external_data=False)
    layers, windows, caches = [], [], set()
    for node in model.graph.node:
        window = next((x.i for x in node.attribute if x.name == WINDOW), None)
        if window is None:
            continue
        node.attribute.append(onnx.helper.make_attribute("sliding_window_cache", 1))
        windows.append(int(window))
        layers.append(int(node.input[_CACHES[0]].removeprefix(PAST).split(".")[0]))
        caches |= {node.input[place] for place in _CACHES} | {node.output[place] for place in _PRESENTS}
    for value in (*model.graph.input, *model.graph.output):
        if value.name in caches:  # a size of its own: other layers' buffers are longer
            value.type.tensor_type.shape.dim[2].dim_param = "sliding_window_slots"
    (folder / MODEL).write_bytes(model.SerializeToString(deterministic=True))
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    config["model"]["decoder"][_SECTION] = {
        "window_size": max(windows),  # onnxruntime-genai adds WINDOW_SLACK to it on CPU
        "layers": layers,
        # both are for models whose graph does not know the window
        "slide_inputs": False,
        "slide_key_value_cache": False,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return {"layers": len(layers), "tokens_seen": max(windows), "tokens_kept": slots}


def slots_of(folder: Path) -> dict[str, int]:
    """Input name of each KV buffer that is as short as a window -> places that a caller allocates for it."""
    path = folder / CONFIG
    if not path.is_file():
        return {}
    decoder = json.loads(path.read_text(encoding="utf-8"))["model"]["decoder"]
    section = decoder.get(_SECTION)
    if section is None:
        return {}
    names = [decoder["inputs"][f"past_{part}_names"] for part in ("key", "value")]
    slots = int(section["window_size"]) + WINDOW_SLACK
    return {name % layer: slots for layer in section["layers"] for name in names}
