"""A model of the Hugging Face layout as one module of fixed shapes, as an NPU takes it: batch 1, a length for all.

Texts are padded on the right to that length. `attention_mask` goes in as float32, 1 for a token and 0 for padding:
an NPU computes the bias of the scores from it in the same codes as everything else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from importlib import resources
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from exporter.layers import LayerInfo, ModelLayers
from exporter.models.folding import Folding
from exporter.models.masks import MaskFunction, attend
from exporter.models.pretrained import Pretrained
from exporter.models.programs import IDS, LENGTH, MASK, TYPES, Wanted
from exporter.models.python_module import PythonModule
from exporter.models.sentence import embed
from exporter.numerics import FloatArray
from exporter.signatures import Port
from exporter.tasks import SPECS

ATTENTION = "qexport_fixed"
# Added to the score of a padded token. The range of scores is cut below what the softmax can tell from nothing.
HIDDEN = 128.0
_OWN_SENTENCES = 64

_BIAS: ContextVar[torch.Tensor | None] = ContextVar("qexport_fixed_bias", default=None)


class FixedEncoder(torch.nn.Module):
    """Inputs in the order of `names`, (1, length) each -> the task's one output."""

    def __init__(self, net: torch.nn.Module, names: tuple[str, ...], wanted: Wanted) -> None:
        super().__init__()
        self.net = net
        self.names, self.wanted = names, wanted

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Token ids int32, the mask float32."""
        given = dict(zip(self.names, inputs, strict=True))
        mask = given.pop(MASK, None)
        bias = None if mask is None else ((mask - 1.0) * HIDDEN)[:, None, None, :]
        if IDS in given:
            given[MASK] = torch.ones(given[IDS].shape, dtype=torch.int64)
        with hiding(bias):
            states: torch.Tensor = self.net(**given)[self.wanted.output]
        if self.wanted.sentence is None:
            return states
        return embed(self.net, self.wanted.sentence, states, mask)


@contextmanager
def hiding(bias: torch.Tensor | None) -> Iterator[None]:
    """Inside, this is added to every attention's scores: (1, 1, 1 or n, keys)."""
    token = _BIAS.set(bias)
    try:
        yield
    finally:
        _BIAS.reset(token)


def _score_bias(
    batch_size: Any,
    q_length: Any,
    kv_length: Any,
    mask_function: MaskFunction,
    attention_mask: torch.Tensor | None = None,
    q_offset: Any = 0,
    kv_offset: Any = 0,
    **_: Any,
) -> torch.Tensor | None:
    """The bias of padding, and of what a function of positions hides."""
    from torch.utils._python_dispatch import _disable_current_modes

    with _disable_current_modes():
        query, key = torch.arange(int(q_length))[:, None], torch.arange(int(kv_length))[None, :]
        seen = mask_function(torch.tensor(0), torch.tensor(0), query + q_offset, key + kv_offset)
        seen = torch.as_tensor(seen).expand(int(q_length), int(kv_length))
        constant = None if bool(seen.all()) else (~seen).to(torch.float32) * -HIDDEN
    bias = _BIAS.get()
    if constant is None:
        return bias
    return constant if bias is None else bias + constant


def register() -> str:
    """Register with transformers; the name to build a model with."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(ATTENTION, attend)
    AttentionMaskInterface.register(ATTENTION, _score_bias)
    return ATTENTION


class FixedModel(PythonModule):
    """A model with a task, as the module of one's own that it is for an NPU."""

    holder = "net."

    def __init__(self, model: Pretrained, length: int) -> None:
        self.model, self.length = model, length
        self.inner = model

    @property
    def input_names(self) -> tuple[str, ...]:
        """Of the inputs, in their order."""
        return tuple(port.name for port in self.model.program.signature.inputs)

    @cached_property
    def built(self) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...], None]:
        """(module with the checkpoint's weights, example inputs of the fixed shapes, None)."""
        net = self.model.built(lambda name, module: None, register())
        wanted = Wanted(SPECS[self.model.task].output, self.model.sentence)
        module = FixedEncoder(net, self.input_names, wanted).eval().requires_grad_(False)
        inputs = tuple(self._example(port) for port in self.model.program.signature.inputs)
        self.folding = Folding()
        return module, inputs, None

    def layers(self) -> ModelLayers:
        """Layers from the configuration alone; no weight is read."""
        return self.model.layers()

    def identity(self) -> dict[str, object]:
        """Of the model's files."""
        return self.model.identity()

    def weight(self, layer: LayerInfo) -> FloatArray:
        """(out, in) float32 weight of one layer."""
        return self.model.weight(layer)

    @property
    def takes_text(self) -> bool:
        """Whether its samples are texts."""
        return SPECS[self.model.task].medium == "text"

    def own_samples(self) -> Iterator[tuple[torch.Tensor, ...]]:
        """Sentences of the package's own text; a model of pictures has its example inputs alone."""
        if not self.takes_text:
            yield self.built[1]
            return
        text = (resources.files("exporter") / "data" / "calibration_text.txt").read_text(encoding="utf-8")
        for line in re.split(r"(?<=[.!?])\s+", text)[:_OWN_SENTENCES]:
            if line.strip():
                yield self.of_text(line.strip())

    def of_text(self, text: str) -> tuple[torch.Tensor, ...]:
        """What the model's own processor makes of a text, of the fixed length."""
        found = dict(self.model.processor.prepare(text))
        found.setdefault(MASK, np.ones_like(found[IDS]))
        return self.fixed(found)

    def fixed(self, inputs: Mapping[str, NDArray[Any]]) -> tuple[torch.Tensor, ...]:
        """One example, (1, n) each, padded on the right to the length; beyond it is cut off."""
        found = []
        for port, example in zip(self.model.program.signature.inputs, self.built[1], strict=True):
            array = np.asarray(inputs[port.name])
            if LENGTH in port.shape:
                array = array[:, : self.length]
                array = np.pad(array, ((0, 0), (0, self.length - array.shape[1])))
            found.append(torch.from_numpy(array).to(example.dtype))
        return tuple(found)

    def _example(self, port: Port) -> torch.Tensor:
        shape = [
            self.length if axis == LENGTH else 1 if isinstance(axis, str) else axis for axis in port.shape
        ]
        if port.name in (IDS, TYPES):
            return torch.full(shape, int(port.name == IDS), dtype=torch.int32)
        return torch.ones(shape)
