"""A model in a runtime of another process: one interface for both runtimes and every processor.

Language models are driven as the app drives them: the whole prompt, then a token at a time, logits of the last one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from exporter.backends.ort.genai import CONFIG
from exporter.backends.ort.windows import slots_of
from exporter.replay.protocol import Empty, Input, Kept, Remote

Row = NDArray[np.float32]


class Text(Protocol):
    """A language model, batch 1."""

    def reset(self) -> None:
        """Forget every token."""

    def feed(self, tokens: Sequence[int]) -> Row:
        """Append tokens; the last one's logits."""


class Answering(Text, Protocol):
    """An encoder-decoder model, batch 1."""

    def listen(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        """Run the encoder, inputs by name; forgets every token."""


class Program(Protocol):
    """A program that keeps nothing from one call to the next."""

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Inputs by name, batch 1 -> the output that is judged, the last of the program."""


class OrtText:
    """model.onnx or model.ort of a language model."""

    def __init__(self, remote: Remote, method: str, folder: Path) -> None:
        decoder = json.loads((folder / CONFIG).read_text("utf-8"))["model"]["decoder"]
        self._remote, self._method, self._length = remote, method, 0
        names = decoder["inputs"], decoder["outputs"]
        layers = range(decoder["num_hidden_layers"])
        self._present = {
            names[0][f"past_{part}_names"] % layer: names[1][f"present_{part}_names"] % layer
            for layer in layers
            for part in ("key", "value")
        }
        slots = slots_of(folder)
        self._empty = {name: Empty(slots.get(name, 0)) for name in self._present}

    def reset(self) -> None:
        """Forget every token."""
        self._length = 0

    def feed(self, tokens: Sequence[int]) -> Row:
        """Append tokens; the last one's logits."""
        kept = {name: Kept(f"{self._method}.{present}") for name, present in self._present.items()}
        past: Mapping[str, Input] = kept if self._length else self._empty
        self._length += len(tokens)
        inputs = {
            "input_ids": np.asarray([list(tokens)], np.int64),
            "attention_mask": np.ones((1, self._length), np.int64),
            **past,
        }
        (logits,) = self._remote.call(self._method, inputs, ["logits"])
        return np.asarray(logits[0, -1], np.float32)


class EtText:
    """model.pte of a language model."""

    _method = "forward"

    def __init__(self, remote: Remote) -> None:
        self._remote, self._position = remote, 0
        (piece,) = remote.call("get_max_seq_len", {}, ["0"])
        self._piece = int(piece)

    def reset(self) -> None:
        """Forget every token: a place is written again before it is read."""
        self._position = 0

    def feed(self, tokens: Sequence[int]) -> Row:
        """Append tokens; the last one's logits."""
        for start in range(0, len(tokens), self._piece):
            piece = np.asarray([list(tokens[start : start + self._piece])], np.int64)
            given = self._given(piece, np.asarray([self._position], np.int64))
            (logits,) = self._remote.call(
                self._method, {str(place): value for place, value in enumerate(given)}, ["0"]
            )
            self._position += piece.shape[1]
        return np.asarray(logits.reshape(-1, logits.shape[-1])[-1], np.float32)

    def _given(self, ids: NDArray[Any], position: NDArray[Any]) -> list[Input]:
        return [ids, position]


class OrtAnswering:
    """encoder.onnx and decoder.onnx; `programs`: the manifest's."""

    def __init__(self, remote: Remote, programs: Mapping[str, Any]) -> None:
        self._remote = remote
        self._inputs = [(name, dtype) for name, dtype, _ in programs["encoder"]["inputs"]]
        names = [name for name, _, _ in programs["decoder"]["inputs"]]
        self._own = [name for name in names if "_self_" in name]
        self._cross = [name for name in names if "_cross_" in name]
        self._mask = "encoder_attention_mask" if "encoder_attention_mask" in names else None
        self._given: dict[str, Input] = {}
        self._past: dict[str, Input] = {}

    def listen(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        """Run the encoder."""
        feeds: dict[str, Input] = {name: inputs[name].astype(dtype) for name, dtype in self._inputs}
        self._remote.call("encoder", feeds, [])
        self._given = {name: Kept(f"encoder.{_present(name)}") for name in self._cross}
        if self._mask:
            self._given[self._mask] = feeds["attention_mask"]
        self.reset()

    def reset(self) -> None:
        """Forget every token."""
        self._past = {name: Empty(0) for name in self._own}

    def feed(self, tokens: Sequence[int]) -> Row:
        """Append tokens; the last one's logits."""
        ids = np.asarray([list(tokens)], np.int64)
        (logits,) = self._remote.call("decoder", {"input_ids": ids, **self._past, **self._given}, ["logits"])
        self._past = {name: Kept(f"decoder.{_present(name)}") for name in self._own}
        return np.asarray(logits[0, -1], np.float32)


class EtAnswering(EtText):
    """model.pte with the methods of ExecuTorch's own runner for speech; `programs`: the manifest's."""

    _method = "text_decoder"

    def __init__(self, remote: Remote, programs: Mapping[str, Any]) -> None:
        super().__init__(remote)
        ports = programs["encoder"]["inputs"]
        self._inputs = [(name, dtype) for name, dtype, _ in ports if name != "attention_mask"]

    def listen(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        """Run the encoder."""
        feeds: dict[str, Input] = {
            str(place): inputs[name].astype(dtype) for place, (name, dtype) in enumerate(self._inputs)
        }
        self._remote.call("encoder", feeds, [])
        self.reset()

    def _given(self, ids: NDArray[Any], position: NDArray[Any]) -> list[Input]:
        return [ids, Kept("encoder.0"), position]


class Allowed:
    """An encoder-decoder model that never chooses some tokens, others not as the first behind the prompt."""

    def __init__(
        self, model: Answering, prompt: Sequence[int], never: Sequence[int], never_first: Sequence[int]
    ) -> None:
        self._model, self._prompt = model, list(prompt)
        self._never, self._never_first = list(never), list(never_first)

    def reset(self) -> None:
        """Forget every token."""
        self._model.reset()

    def feed(self, tokens: Sequence[int]) -> Row:
        """Append tokens; the last one's logits, those of tokens that are not allowed endlessly small."""
        row = self._model.feed(tokens).copy()
        row[self._never] = -np.inf
        if list(tokens) == self._prompt:
            row[self._never_first] = -np.inf
        return row


class OrtProgram:
    """One graph of an encoder; `signature`: the manifest's."""

    def __init__(self, remote: Remote, method: str, signature: Mapping[str, Any]) -> None:
        self._remote, self._method = remote, method
        self._inputs = [(name, dtype) for name, dtype, _ in signature["inputs"]]
        self._output = signature["outputs"][-1][0]

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Inputs by name, batch 1 -> the last output."""
        feeds: dict[str, Input] = {name: inputs[name].astype(dtype) for name, dtype in self._inputs}
        (found,) = self._remote.call(self._method, feeds, [self._output])
        return found


class EtProgram:
    """One method of an encoder's model.pte; `signature`: the manifest's."""

    def __init__(self, remote: Remote, method: str, signature: Mapping[str, Any]) -> None:
        self._remote, self._method = remote, method
        self._inputs = [(name, dtype) for name, dtype, _ in signature["inputs"]]
        self._output = str(len(signature["outputs"]) - 1)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Inputs by name, batch 1 -> the last output."""
        feeds: dict[str, Input] = {
            str(place): inputs[name].astype(dtype) for place, (name, dtype) in enumerate(self._inputs)
        }
        (found,) = self._remote.call(self._method, feeds, [self._output])
        return found


def _present(name: str) -> str:
    """The output that becomes the input past_…"""
    return "present_" + name.removeprefix("past_")
