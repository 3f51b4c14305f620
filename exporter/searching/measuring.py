"""KL divergence to the float model with some layers as integers and all others float, by running it. PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from exporter.blockwise.blocks import Blocks
from exporter.models.causal_lm import CausalLM, CausalLMSkeleton
from exporter.models.reference import hold_integers, hold_weights, streamed_float_model
from exporter.numerics import QuantizedTensor
from exporter.parity import ComparisonResult, LogitComparison

_LOGIT_ELEMENTS = 1 << 25  # of a block of logits, 128 MB
_KEPT = 400_000_000  # bytes of the models' weights that stay mapped


class Measuring:
    """The float model's hidden states on some windows, in front of every block, and trials against its last."""

    def __init__(
        self, model: CausalLM, skeleton: CausalLMSkeleton, tokens: NDArray[np.int64], folder: Path
    ) -> None:
        """Trials may change every planned layer of the skeleton. `tokens` (n, length); the second half of
        each window is scored. States lie in `folder`."""
        built = [
            streamed_float_model(skeleton, lambda planned: model.weight(planned.info), _KEPT)
            for _ in range(2)
        ]
        self.planned = list(skeleton.layers)
        self.vocabulary = int(model.config.vocab_size)
        self.exact, self.trial = (Blocks(each, self.planned) for each in built)
        self.tokens = torch.from_numpy(tokens)
        self.folder = folder
        for blocks in (self.exact, self.trial):
            blocks.record(self.tokens[:1])
        states = self.exact.first_states(self.tokens)
        for block in range(len(self.exact.blocks)):
            np.save(self._states(block), states.numpy())
            with torch.no_grad():
                states = self.exact.run(block, states)
        self.last = states

    def _states(self, block: int) -> Path:
        return self.folder / f"float.{block}.npy"

    def kl(self, integers: Mapping[str, Callable[[], QuantizedTensor]]) -> ComparisonResult:
        """With the named layers as these integers."""
        for name, load in integers.items():
            hold_integers(self.trial.model.get_submodule(name), load)
        try:
            return self._compared(self._trial_states(list(integers)))
        finally:
            for name in integers:
                hold_weights(self.trial.model.get_submodule(name))

    def _trial_states(self, changed: list[str]) -> torch.Tensor:
        """Behind the last block; what lies before the first changed one is the float model's."""
        count = len(self.trial.blocks)
        changes = [block for block in range(count) if self.trial.layers_of(block, changed)]
        tables = [name for name in self.trial.outside(changed) if name in self._tables]
        first = 0 if tables else min(changes, default=count)
        if first == count:
            return self.last
        states = (
            self.trial.first_states(self.tokens) if tables else torch.from_numpy(np.load(self._states(first)))
        )
        with torch.no_grad():
            for block in range(first, count):
                states = self.trial.run(block, states)
        return states

    @property
    def _tables(self) -> set[str]:
        from exporter.models.reference import StreamedEmbedding

        return {
            name
            for name in self.planned
            if isinstance(self.trial.model.get_submodule(name), StreamedEmbedding)
        }

    def _compared(self, states: torch.Tensor) -> ComparisonResult:
        comparison = LogitComparison()
        length = self.tokens.shape[1]
        scored = slice(length // 2, length - 1)
        rows = max(16, _LOGIT_ELEMENTS // self.vocabulary)
        for window in range(len(states)):
            targets = self.tokens[window, length // 2 + 1 :].numpy()
            ours, theirs = self.last[window, scored], states[window, scored]
            for start in range(0, len(ours), rows):
                part = slice(start, start + rows)
                comparison.update(
                    _logits(self.exact, ours[part]), _logits(self.trial, theirs[part]), targets[part]
                )
        return comparison.result()


def _logits(blocks: Blocks, states: torch.Tensor) -> NDArray[np.float32]:
    """(n, hidden) behind the last block -> (n, vocabulary), by the model's own forward."""
    tokens = torch.zeros((1, len(states)), dtype=torch.int64)
    with torch.no_grad(), blocks.passed(states[None]):
        found: NDArray[np.float32] = blocks.model(tokens, use_cache=False).logits[0].numpy()
    return found
