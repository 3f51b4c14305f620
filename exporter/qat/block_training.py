"""A language model trained one block after the other, each by what it gives beside what the float model gives. PyTorch.

A block is fed with what the blocks before it give, trained already, and its integers and scales are moved until it ends
near the float model, which was fed with its own: so each block also makes up for those before it. (Li et al., "BRECQ:
Pushing the Limit of Post-Training Quantization by Block Reconstruction", ICLR 2021, section 3.2; weights and scales of
a block at once: Chen et al., "EfficientQAT", 2024, section 3.2.) A token tells as much here as a hidden state has
numbers, where the loss of the whole model is one number a token. All tokens count alike: weighed by gradients, as gptq
weighs them, so few decide that unseen text gained less (docs/design.md).

What a block was trained to stays only where held-out windows lose less by it, and all of it only where the model's
distributions on them do. Memory is that of one block; hidden states lie on disk, and a run that was killed goes on with
the block that it was in and gives the same integers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from exporter.blockwise.blocks import Blocks
from exporter.blockwise.quantising import Work, write_states
from exporter.errors import TraceError
from exporter.models.causal_lm import CausalLM, CausalLMSkeleton
from exporter.models.reference import (
    StreamedLinear,
    dequantized_rows,
    hold_integers,
    hold_weights,
    round_activations,
    streamed_float_model,
)
from exporter.models.rotating import rotate
from exporter.qat.fake_quant import FixedLinear, TrainedLinear, TrainedWeight, parameters
from exporter.qat.training import Settings, adam, divergence, order_of, rate_at
from exporter.quantizing import QuantizedStore

_BATCH = 16  # windows that go through a block together where nothing is trained
_LOGIT_ELEMENTS = 1 << 24  # of a block of logits, 64 MB
Progress = Callable[[str, float], None]
States = NDArray[np.float32]  # (windows, length, hidden)


class BlockTraining:
    """The way through the blocks of one model."""

    def __init__(
        self,
        model: CausalLM,
        skeleton: CausalLMSkeleton,
        layers: Sequence[str],
        windows: NDArray[np.int64],
        held_out: int,
        settings: Settings,
        places: tuple[QuantizedStore, Path],
        trains_weights: bool = True,
    ) -> None:
        """`skeleton`: whose integers are where training begins. `layers`: the trained ones, all in blocks. `windows`
        (n, length), of which the last `held_out` are not trained on. `places`: where the integers go, and the folder of
        hidden states. `settings.steps` of each block, each sees a window; windows that none sees are left out."""
        self.model, self.skeleton, self.settings = model, skeleton, settings
        self.layers, self.trains_weights = list(layers), trains_weights
        self.store, self.folder = places
        self.net = streamed_float_model(skeleton, lambda planned: model.weight(planned.info), 0)
        self.blocks = Blocks(self.net, list(skeleton.layers))
        seen = min(settings.steps, len(windows) - held_out)  # each step sees one
        self.tokens = torch.from_numpy(np.concatenate([windows[:seen], windows[-held_out:]]))
        self.trained = seen
        self.work = Work.opened(self.folder, {"losses": [], "seen": False})
        for name in self.layers:  # of blocks that an earlier run has trained
            self.store.expect(name, skeleton.layers[name].scheme)

    def run(self, progress: Progress) -> Mapping[str, Any]:
        """Every trained layer's integers into the store. Gives each block's held-out loss after training as a share of
        that before, the KL of the whole model on held-out windows before and after, and whether the second is less."""
        self.blocks.record(self.tokens[:1])
        self._first()
        count = len(self.blocks.blocks)
        for block in range(len(self.work.done["losses"]), count):
            self._block(block, partial(_told, progress, block, count))
        held_out = {"before": self._divergence("begun"), "after": self._divergence("trained")}
        kept = held_out["after"] < held_out["before"]
        if not kept:
            for name in self.layers:
                self.store.save(name, self.skeleton.layers[name].load())
        return {"blocks": self.work.done["losses"], "held_out": held_out, "kept": kept}

    # -- hidden states ----------------------------------------------------------------------------------------------

    def _path(self, kind: str, block: int) -> Path:
        """What a block is given: `float` in the float model, `trained` behind trained blocks, `begun` behind blocks as
        they were, the last for held-out windows alone."""
        return self.folder / f"{kind}.{block}.npy"

    def _states(self, kind: str, block: int) -> States:
        found: States = np.load(self._path(kind, block), mmap_mode="r")
        return found

    def _first(self) -> None:
        """What the first block is given."""
        if self.work.done["seen"]:
            return
        outside = self.blocks.outside(list(self.skeleton.layers))
        for kind, tokens in (
            ("float", self.tokens),
            ("trained", self.tokens),
            ("begun", self.tokens[self.trained :]),
        ):
            self._hold(outside, kind)
            parts = (
                self.blocks.first_states(tokens[at : at + _BATCH]) for at in range(0, len(tokens), _BATCH)
            )
            write_states(self._path(kind, 0), len(tokens), parts)
        self.work.done["seen"] = True
        self.work.save()

    def _hold(self, names: Sequence[str], kind: str) -> None:
        """Let layers compute as the model of that kind does."""
        for name in names:
            module, planned = self.net.get_submodule(name), self.skeleton.layers[name]
            if kind == "float":
                hold_weights(module)
            elif kind == "trained" and name in self.layers:
                hold_integers(module, partial(self.store.load, name))
            else:
                hold_integers(module, planned.load)
            round_activations(module, kind != "float")

    def _advance(self, block: int, names: Sequence[str], kind: str) -> None:
        """States of a kind through the block."""
        self._hold(names, kind)
        held = self._states(kind, block)
        with torch.no_grad():
            parts = (
                self.blocks.run(block, _taken(held, at, at + _BATCH)) for at in range(0, len(held), _BATCH)
            )
            write_states(self._path(kind, block + 1), len(held), parts)

    # -- a block ----------------------------------------------------------------------------------------------------

    def _block(self, block: int, progress: Callable[[str], None]) -> None:
        progress("")
        names = self.blocks.layers_of(block, list(self.skeleton.layers))
        self._advance(block, names, "float")
        held = {name: self._begun(name) for name in names if name in self.layers}
        share = self._train(block, names, held, progress) if held else 1.0
        for name, weight in held.items():
            self.store.save(name, weight.tensor() if share < 1 else self.skeleton.layers[name].load())
        for kind in ("trained", "begun"):
            self._advance(block, names, kind)
        self.work.done["losses"].append(min(share, 1.0))
        self.work.save()
        for kind in ("float", "trained", "begun"):
            self._path(kind, block).unlink()

    def _begun(self, name: str) -> TrainedWeight:
        planned = self.skeleton.layers[name]
        weight = rotate(torch.from_numpy(np.array(self.model.weight(planned.info))), planned.scheme.rotate)
        return TrainedWeight(weight, planned.load(), self.trains_weights)

    def _train(
        self,
        block: int,
        names: Sequence[str],
        held: Mapping[str, TrainedWeight],
        progress: Callable[[str], None],
    ) -> float:
        """The held-out windows' loss afterwards as a share of what it was."""
        goal, given = self._states("float", block + 1), self._states("trained", block)
        settings = self.settings
        with self._student(names, held):

            def lost(rows: slice) -> torch.Tensor:
                off = self.blocks.run(block, _taken(given, rows.start, rows.stop)) - _taken(
                    goal, rows.start, rows.stop
                )
                return off.square().sum()

            def judged() -> float:
                with torch.no_grad():
                    ats = range(self.trained, len(self.tokens), _BATCH)
                    return float(sum(float(lost(slice(at, at + _BATCH))) for at in ats))

            before = judged()
            scale = (len(self.tokens) - self.trained) / before if before else 1.0
            optimiser = adam((pair for weight in held.values() for pair in parameters(weight)), settings)
            for step, window in enumerate(order_of(settings.seed + block, self.trained, settings.steps)):
                rate_at(optimiser, step, settings)
                for weight in held.values():
                    weight.begin()
                (lost(slice(window, window + 1)) * scale).backward()  # type: ignore[no-untyped-call]
                for weight in held.values():
                    weight.end()
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
                if (step + 1) % 10 == 0:
                    progress(f", step {step + 1} of {settings.steps}")
            return judged() / before if before else 1.0

    @contextmanager
    def _student(self, names: Sequence[str], held: Mapping[str, TrainedWeight]) -> Iterator[None]:
        """Inside, a block's layers let gradients through, and those in `held` learn."""
        modules = [self.net.get_submodule(name) for name in names]
        for name, module in zip(names, modules, strict=True):
            planned = self.skeleton.layers[name]
            if type(module).forward is not StreamedLinear.forward:
                raise TraceError(
                    f"layer {name}: {type(module).__name__} has a forward of its own, which training by block does not "
                    "follow; set qat.by: model"
                )
            made: torch.nn.Module = (
                TrainedLinear(planned, held[name])
                if name in held
                else FixedLinear(planned, dequantized_rows(planned.load(), slice(None)))
            )
            module.forward = made.forward
        try:
            yield
        finally:
            for module in modules:
                del module.forward

    # -- the whole ----------------------------------------------------------------------------------------------------

    def _divergence(self, kind: str) -> float:
        """Mean KL to the float model on the held-out windows, whose states all blocks are behind."""
        last = len(self.blocks.blocks)
        outside = self.blocks.outside(list(self.skeleton.layers))
        goal, found = self._states("float", last)[self.trained :], self._states(kind, last)
        found = found[-len(goal) :]
        rows = max(16, _LOGIT_ELEMENTS // int(self.model.config.vocab_size))
        total = 0.0
        for window, at in product(range(len(goal)), range(0, goal.shape[1], rows)):
            said = []
            for each, states in (("float", goal), (kind, found)):
                self._hold(outside, each)
                part = torch.from_numpy(np.array(states[window, at : at + rows]))
                said.append(self.blocks.logits(part[None]))
            total += float(divergence(*said).sum())
        return total / float(len(goal) * goal.shape[1])


def _told(progress: Progress, block: int, count: int, what: str) -> None:
    progress(f"block {block + 1} of {count}{what}", block / count)


def _taken(states: States, start: int, stop: int) -> torch.Tensor:
    return torch.from_numpy(np.array(states[start:stop]))
