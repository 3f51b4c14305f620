"""Models with a task as the modules of one's own that they are for an NPU: what calibrates and is judged, and on what.

Nothing here imports torch before a weight or a trace is asked for: a plan must not wait for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from exporter.errors import QexportError
from exporter.layers import LayerInfo, ModelLayers
from exporter.models.causal_lm import CausalLM, own_text
from exporter.models.pretrained import Pretrained
from exporter.models.python_module import PythonModule
from exporter.numerics import FloatArray
from exporter.signatures import Port
from exporter.tasks import SPECS

if TYPE_CHECKING:
    import torch

_OWN_SENTENCES = 64
_OWN_STEPS = 256  # more than the extremes of a range need (exporter.static.observers)
_EVERY = 6  # steps of a text between two samples, so that neighbours, which are alike, are not both taken
_FIRST = 8  # steps before the first sample: what follows the first token has another range than all the rest


class ModuleOfTask(PythonModule):
    """What a task's model has that a function of a person's own has not."""

    holder = "net."

    def __init__(self, model: Pretrained) -> None:
        self.inner = model

    def identity(self) -> dict[str, object]:
        """Of the model's files."""
        assert self.inner is not None
        return self.inner.identity()

    def weight(self, layer: LayerInfo) -> FloatArray:
        """(out, in) float32 weight of one layer."""
        assert self.inner is not None
        return self.inner.weight(layer)


class FixedModel(ModuleOfTask):
    """A model with a task, as the module of one's own that it is for an NPU."""

    def __init__(self, model: Pretrained, length: int) -> None:
        super().__init__(model)
        self.model, self._asked = model, length

    @property
    def length(self) -> int:
        """Tokens of every text, no more than the model takes."""
        return min(self._asked, self.model.longest)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Of the inputs, in their order."""
        return tuple(port.name for port in self.model.program.signature.inputs)

    @cached_property
    def built(self) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...], None]:
        """(module with the checkpoint's weights, example inputs of the fixed shapes, None)."""
        from exporter.models.fixed import FixedEncoder, register
        from exporter.models.folding import Folding
        from exporter.models.programs import Wanted

        net = self.model.built(lambda name, module: None, register())
        wanted = Wanted(SPECS[self.model.task].output, self.model.sentence)
        module = FixedEncoder(net, self.input_names, wanted).eval().requires_grad_(False)
        inputs = tuple(self._example(port) for port in self.model.program.signature.inputs)
        self.folding = Folding()
        return module, inputs, None

    def layers(self) -> ModelLayers:
        """Layers from the configuration alone; no weight is read."""
        return self.model.layers()

    @property
    def takes_text(self) -> bool:
        """Whether its samples are texts."""
        return SPECS[self.model.task].medium == "text"

    def own_samples(self) -> Iterator[tuple[torch.Tensor, ...]]:
        """Sentences of the package's own text; a model of pictures has its example inputs alone."""
        if not self.takes_text:
            yield self.built[1]
            return
        for line in re.split(r"(?<=[.!?])\s+", own_text())[:_OWN_SENTENCES]:
            if line.strip():
                yield self.of_text(line.strip())

    def samples_of_text(self, text: str) -> Iterator[tuple[torch.Tensor, ...]]:
        """One, cut off where it is too long."""
        yield self.of_text(text)

    def of_text(self, text: str) -> tuple[torch.Tensor, ...]:
        """What the model's own processor makes of a text, of the fixed length."""
        from exporter.models.programs import IDS, MASK

        found = dict(self.model.processor.prepare(text))
        found.setdefault(MASK, np.ones_like(found[IDS]))
        return self.fixed(found)

    def fixed(self, inputs: Mapping[str, NDArray[Any]]) -> tuple[torch.Tensor, ...]:
        """One example, (1, n) each, padded on the right to the length; beyond it is cut off."""
        import torch

        from exporter.models.programs import LENGTH

        found = []
        for port, example in zip(self.model.program.signature.inputs, self.built[1], strict=True):
            array = np.asarray(inputs[port.name])
            if LENGTH in port.shape:
                array = array[:, : self.length]
                array = np.pad(array, ((0, 0), (0, self.length - array.shape[1])))
            found.append(torch.from_numpy(array).to(example.dtype))
        return tuple(found)

    def _example(self, port: Port) -> torch.Tensor:
        import torch

        from exporter.models.programs import IDS, LENGTH, TYPES

        shape = [
            self.length if axis == LENGTH else 1 if isinstance(axis, str) else axis for axis in port.shape
        ]
        if port.name in (IDS, TYPES):
            return torch.full(shape, int(port.name == IDS), dtype=torch.int32)
        return torch.ones(shape)


class FixedDecoderModel(ModuleOfTask):
    """A language model's decoder, as the module of one's own that it is for an NPU."""

    def __init__(self, model: CausalLM, past: int, new: int = 1, prefill: int | None = None) -> None:
        """`prefill`: also a program of so many new tokens, of the same network."""
        super().__init__(model)
        self.model, self.past, self.new = model, past, new
        self._begin, self._every = _FIRST, _EVERY
        self._positions = past + max(new, prefill or 0) + 1
        self.prefill: PrefillModel | None = PrefillModel(self, prefill) if prefill else None

    @property
    def input_names(self) -> tuple[str, ...]:
        """In their order."""
        pairs = [f"past_{part}_{i}" for i in range(self._layers) for part in ("key", "value")]
        return ("input_ids", "position", "attention_mask", *pairs)

    @cached_property
    def net(self) -> torch.nn.Module:
        """The network with the checkpoint's weights."""
        from exporter.models.fixed import register
        from exporter.models.fixed_decoder import RotaryTable, rms_norms_as_one

        net = self.model.built(lambda name, module: None, register())
        for name, module in list(net.named_modules()):
            if name.rpartition(".")[2] == "rotary_emb":
                net.set_submodule(name, RotaryTable(module, self._positions))
        rms_norms_as_one(net)
        return net

    @cached_property
    def built(self) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...], None]:
        """(module with the checkpoint's weights, example inputs, None)."""
        from exporter.models.fixed_decoder import FixedDecoder
        from exporter.models.folding import Folding

        module = FixedDecoder(self.net, self._layers, self.past, self.new).eval().requires_grad_(False)
        self.folding = Folding()
        return module, self.inputs([1] * self.new, 0, self.empty()), None

    def layers(self) -> ModelLayers:
        """Layers from the configuration alone; the state lies outside the graph."""
        found = self.model.layers()
        return ModelLayers(found.layers, found.other_parameters, found.description)

    def own_samples(self) -> Iterator[tuple[torch.Tensor, ...]]:
        """Steps of the package's own text."""
        yield from self._own_steps

    @cached_property
    def _own_steps(self) -> list[tuple[torch.Tensor, ...]]:
        """Kept: they are asked for several times."""
        return list(islice(self.samples_of_text(own_text()), _OWN_STEPS))

    def samples_of_text(self, text: str) -> Iterator[tuple[torch.Tensor, ...]]:
        """Steps of every window of the text; one shorter than a step is repeated."""
        ids = self.model.tokenizer().encode(text)
        if not ids:
            raise QexportError("calibration: an empty text has no tokens; take it out")
        fewest = self._begin + self.new
        ids = (ids * fewest)[: max(len(ids), fewest)]
        window = self.past + self.new
        for start in range(0, len(ids) - fewest + 1, window):
            yield from self._chosen(ids[start : start + window], self._every)

    def steps(self, text: str, every: int | None = None) -> Iterator[tuple[torch.Tensor, ...]]:
        """Inputs of every so many steps through the start of a text, as far as the past reaches."""
        ids = self.model.tokenizer().encode(text)[: self.past + self.new]
        yield from self._chosen(ids, every or self._every)

    def _chosen(self, ids: Sequence[int], every: int) -> Iterator[tuple[torch.Tensor, ...]]:
        """Every so many steps; before each, the float model's own keys and values, from one run over all tokens."""
        if len(ids) < self._begin + self.new:
            return
        states = self._states(ids)
        for first in range(self._begin, len(ids) - self.new + 1, self.new * every):
            past = self.empty()
            for buffer, state in zip(past, states, strict=True):
                buffer[:, :, :first] = state[:, :, :first]
            yield self.inputs(ids[first : first + self.new], first, past)

    def _states(self, ids: Sequence[int]) -> tuple[torch.Tensor, ...]:
        """Keys and values of these tokens, layer by layer."""
        import torch

        from exporter.models.fixed_decoder import FixedDecoder

        whole = FixedDecoder(self.net, self._layers, 0, len(ids))
        tokens, places = torch.tensor([list(ids)], dtype=torch.int32), torch.arange(len(ids))
        none = [buffer[:, :, :0] for buffer in self.empty()]
        with torch.no_grad():
            _, *states = whole(tokens, places, torch.ones(1, len(ids)), *none)
        return tuple(states)

    def inputs(
        self, ids: Sequence[int], first: int, past: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        """Of new tokens from place `first` on, beside buffers of keys and values that are filled up to there."""
        import torch

        mask = torch.zeros(1, self.past + self.new)
        mask[:, :first] = 1.0
        mask[:, self.past :] = 1.0
        place = torch.arange(first, first + self.new, dtype=torch.int32)
        return (torch.tensor([list(ids)], dtype=torch.int32), place, mask, *(each.clone() for each in past))

    def empty(self) -> list[torch.Tensor]:
        """Buffers of keys and values, of no token yet."""
        import torch

        found = []
        for cache in self.model.layers().cache:
            found += [torch.zeros(1, cache.kv_heads, self.past, cache.head_size) for _ in range(2)]
        return found

    @property
    def _layers(self) -> int:
        return len(self.model.layers().cache)


class PrefillModel(FixedDecoderModel):
    """The same network for several new tokens at once: how a prompt is taken in, piece by piece."""

    def __init__(self, decode: FixedDecoderModel, new: int) -> None:
        super().__init__(decode.model, decode.past, new)
        self._decode = decode
        self._begin, self._every = 0, 1  # a prompt begins with its first token

    @property
    def net(self) -> torch.nn.Module:
        """The decode step's own."""
        return self._decode.net
