"""Run what lower wrote: a language model with its KV cache in NumPy, or any other module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from exporter.backends.base import ActivationMode
from exporter.backends.ort.names import CACHE_TYPES, EVERY_TOKEN, LOGITS_RANGE, PAST, PRESENT, members
from exporter.backends.ort.passes.row_products import PRODUCT
from exporter.backends.ort.storage import MODEL
from exporter.backends.ort.windows import slots_of
from exporter.errors import ArtifactError

_ACCURACY = "accuracy_level"


class OrtTextRunner:
    """A language model in ONNX Runtime, batch 1."""

    full_logits = True

    def __init__(
        self, session: onnxruntime.InferenceSession, max_context: int, slots: Mapping[str, int]
    ) -> None:
        self.max_context = max_context
        self._session = session
        self._past_names = [x.name for x in session.get_inputs() if x.name.startswith(PAST)]
        self._outputs = ["logits", *(PRESENT + name.removeprefix(PAST) for name in self._past_names)]
        self._empty = _empty_caches(session, slots)
        self._every_token = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(wanted)
            for name, wanted in _every_token(session).items()
        }
        self._length = 0
        self._cache: dict[str, Any] = {}
        self.reset()

    def reset(self) -> None:
        """Empty the KV cache."""
        self._length = 0
        self._cache = {name: onnxruntime.OrtValue.ortvalue_from_numpy(x) for name, x in self._empty.items()}
        self.mark()

    def mark(self) -> None:
        """See MarkedRunner: a step's cache is another value than the one before it, which is kept."""
        self._marked = self._length, self._cache

    def rewind(self) -> bool:
        """See MarkedRunner; always can."""
        self._length, self._cache = self._marked
        return True

    def forward(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Append tokens; logits (len(tokens), vocabulary). Raises ArtifactError beyond max_context."""
        total = self._length + len(tokens)
        if not len(tokens) or total > self.max_context:
            raise ArtifactError(
                f"{len(tokens)} tokens after {self._length} do not fit the context of {self.max_context};"
                " pass at least one token, and reset the cache before it is full"
            )
        feeds = {
            "input_ids": onnxruntime.OrtValue.ortvalue_from_numpy(np.asarray([list(tokens)], np.int64)),
            "attention_mask": onnxruntime.OrtValue.ortvalue_from_numpy(np.ones((1, total), np.int64)),
            **self._cache,
            **self._every_token,
        }
        logits, *present = self._session.run_with_ort_values(self._outputs, feeds)
        self._cache = dict(zip(self._past_names, present, strict=True))
        self._length = total
        rows: NDArray[np.float32] = logits.numpy()[0]
        return rows


class OrtModuleRunner:
    """Any other module in ONNX Runtime."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._names = [x.name for x in session.get_inputs()]

    def run(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Positional inputs -> outputs in traced order. Raises ArtifactError for the wrong number."""
        if len(inputs) != len(self._names):
            raise ArtifactError(
                f"{len(inputs)} inputs given, the model takes {len(self._names)}: {', '.join(self._names)}"
            )
        outputs: list[NDArray[Any]] = self._session.run(None, dict(zip(self._names, inputs, strict=True)))
        return outputs


def open_text(folder: Path, activations: ActivationMode = "as-shipped") -> OrtTextRunner:
    """Open a language model. Raises ArtifactError where it is missing or does not load."""
    session = open_session(folder, activations)
    return OrtTextRunner(session, _context(folder), slots_of(folder))


def open_module(folder: Path, activations: ActivationMode = "as-shipped") -> OrtModuleRunner:
    """Open any other model. Raises ArtifactError where it is missing or does not load."""
    return OrtModuleRunner(open_session(folder, activations))


def open_session(
    folder: Path,
    activations: ActivationMode = "as-shipped",
    extra_outputs: Sequence[str] = (),
    name: str = MODEL,
) -> onnxruntime.InferenceSession:
    """A session on one graph of the folder, its weights memory mapped.

    `float` sets every MatMulNBits' accuracy_level to 0 and takes the rounding away before integer products;
    `extra_outputs` are values of the graph to return besides its own outputs. Both change a copy of the small proto in
    memory, never the folder.
    """
    path = folder / name
    if not path.is_file():
        raise ArtifactError(f"{path}: not found; export with the target onnxruntime first")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False  # it would keep every size of logits that was ever asked for
    model: str | bytes = str(path)
    if activations == "float" or extra_outputs:
        model = _edited(path, activations, extra_outputs)
        # a model from memory has no folder of its own to look for its data in
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(folder.resolve())
        )
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as problem:  # onnxruntime's exceptions share no base but Exception
        raise ArtifactError(f"{path}: ONNX Runtime does not load it: {problem}") from problem


def layer_outputs(
    folder: Path, names: Sequence[str], tokens: Sequence[int]
) -> dict[str, NDArray[np.float32]]:
    """Outputs (len(tokens), out) of the named MatMulNBits layers on one prompt, with float activations,
    so that the first layer where the lowering error rises can be found.

    Raises ArtifactError for a name that is no quantised layer of the file.
    """
    model = onnx.load(folder / MODEL, load_external_data=False)
    places = {
        name: (node.output[0], own)
        for node in model.graph.node
        if node.op_type == "MatMulNBits" and node.domain == "com.microsoft"
        for name, own in members(node, _rows(node))
    }
    unknown = [name for name in names if name not in places]
    if unknown:
        raise ArtifactError(f"{folder / MODEL}: no quantised layer is called {', '.join(unknown)}")
    values = sorted({places[name][0] for name in names})
    own_outputs = {x.name for x in model.graph.output}
    session = open_session(folder, "float", [value for value in values if value not in own_outputs])
    feeds = _prompt(session, tokens, slots_of(folder)) | _every_token(session)
    found = dict(zip(values, session.run(values, feeds), strict=True))
    return {name: found[places[name][0]][0][..., places[name][1]] for name in names}


def prefill_cache(
    session: onnxruntime.InferenceSession, tokens: Sequence[int], names: Sequence[str]
) -> list[NDArray[np.float32]]:
    """The named outputs `present.*`, (1, kv heads, len(tokens), head size), after one prompt, of a graph
    whose every layer keeps all tokens."""
    found: list[NDArray[np.float32]] = session.run(list(names), _prompt(session, tokens, {}))
    return found


def _prompt(
    session: onnxruntime.InferenceSession, tokens: Sequence[int], slots: Mapping[str, int]
) -> dict[str, NDArray[Any]]:
    """Feeds for a prompt on an empty cache."""
    return {
        "input_ids": np.asarray([list(tokens)], np.int64),
        "attention_mask": np.ones((1, len(tokens)), np.int64),
        **_empty_caches(session, slots),
    }


def _every_token(session: onnxruntime.InferenceSession) -> dict[str, NDArray[Any]]:
    """The input that asks for the logits of every token, where the graph has it."""
    optional = [x.name for x in session.get_overridable_initializers()]
    return {LOGITS_RANGE: np.asarray(EVERY_TOKEN, np.int64)} if LOGITS_RANGE in optional else {}


def _rows(node: onnx.NodeProto) -> int:
    """Output features of a MatMulNBits node."""
    return next(int(attribute.i) for attribute in node.attribute if attribute.name == "N")


def _empty_caches(session: onnxruntime.InferenceSession, slots: Mapping[str, int]) -> dict[str, NDArray[Any]]:
    """A cache of no tokens, batch 1; `slots`: windows.slots_of the folder, buffers that do not grow."""
    return {
        x.name: np.zeros((1, x.shape[1], slots.get(x.name, 0), x.shape[3]), CACHE_TYPES[x.type])
        for x in session.get_inputs()
        if x.name.startswith(PAST)
    }


def _edited(path: Path, activations: ActivationMode, extra_outputs: Sequence[str]) -> bytes:
    """The model's proto with float activations and more outputs; its weights stay where they are."""
    model = onnx.load(path, load_external_data=False)
    if activations == "float":
        for node in model.graph.node:
            for attribute in node.attribute:
                if node.op_type == "MatMulNBits" and attribute.name == _ACCURACY:
                    attribute.i = 0
        _take_float_rows(model.graph)
    for name in extra_outputs:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    serialized: bytes = model.SerializeToString()
    return serialized


def _take_float_rows(graph: onnx.GraphProto) -> None:
    """What passes/row_products.py wrote, with the tokens as they are and dequantised weights."""
    made = {name: node for node in graph.node for name in node.output}
    readers = {name: node for node in graph.node for name in node.input}
    for number, node in reversed(list(enumerate(graph.node))):
        if node.op_type != PRODUCT:
            continue
        codes, weight, _, scales = node.input[:4]
        scaling = readers[node.output[0]]
        column = made[readers[scaling.output[0]].input[0]]
        if column.op_type == "Concat":  # with the bias's ones
            column = made[column.input[0]]
        offset = made[column.input[0]]  # of the codes from zero, for each token: nothing here
        one = offset.input[1]
        offset.CopyFrom(onnx.helper.make_node("Sub", [one, one], list(offset.output)))
        scaling.CopyFrom(onnx.helper.make_node("Identity", [node.output[0]], list(scaling.output)))
        # as Cast and Mul: ONNX Runtime makes a rounding product of DequantizeLinear and MatMul
        whole, wide = f"{node.name}.whole", f"{node.name}.dequantised"
        graph.node.insert(number, onnx.helper.make_node("Mul", [whole, scales], [wide]))
        graph.node.insert(number, onnx.helper.make_node("Cast", [weight], [whole], to=onnx.TensorProto.FLOAT))
        rows = made[codes].input[0]
        node.CopyFrom(onnx.helper.make_node("MatMul", [rows, wide], list(node.output), name=node.name))


def _context(folder: Path) -> int:
    """Context length from genai_config.json beside the model."""
    import json

    from exporter.backends.ort.genai import CONFIG

    path = folder / CONFIG
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["model"]["context_length"])
    except (OSError, ValueError, KeyError) as problem:
        raise ArtifactError(f"{path}: no context length can be read ({problem})") from problem
