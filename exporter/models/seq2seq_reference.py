"""An encoder-decoder model in PyTorch behind the verbs of a runtime (backends.base.Seq2SeqRunner)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from exporter.models.reference import StreamedLinear
from exporter.models.seq2seq import MASK, Sizes, decode, record
from exporter.models.seq2seq_cache import GrowingStates, States


class TorchSeq2Seq:
    """The reference; `disturb`: relative noise on what its first quantised layer sees, for the noise floor."""

    full_logits = True

    def __init__(self, net: torch.nn.Module, sizes: Sizes, disturb: float = 0.0) -> None:
        self.net, self.sizes, self.disturb = net, sizes, disturb
        self._cross: list[States] = []
        self._mask: torch.Tensor | None = None
        self._past: list[States] = []

    def encode(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        """See Seq2SeqRunner."""
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in inputs.items()}
        hooks = self._disturbing() if self.disturb else []
        with torch.no_grad():
            states = record(self.net, tensors)[1]
        for hook in hooks:
            hook.remove()
        self._cross = [states[layer] for layer in sorted(states)]
        self._mask = tensors.get(MASK)
        self.reset()

    def reset(self) -> None:
        """See Seq2SeqRunner."""
        empty = torch.zeros(1, self.sizes.heads, 0, self.sizes.head_size)
        self._past = [(empty, empty)] * self.sizes.layers

    def forward(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """See Seq2SeqRunner."""
        own = GrowingStates(self._past)
        with torch.no_grad():
            logits = decode(
                self.net, torch.tensor([list(tokens)]), own, self._cross, self.sizes.hidden, self._mask
            )
        self._past = [own.present[layer] for layer in range(self.sizes.layers)]
        rows: NDArray[np.float32] = logits[0].numpy()
        return rows

    def _disturbing(self) -> list[Any]:
        """Hooks that add noise to the input of the first quantised layer that runs."""
        generator = torch.Generator().manual_seed(0)
        done: list[bool] = []

        def add(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
            if done:
                return None
            done.append(True)
            noise = torch.randn(args[0].shape, generator=generator)
            return (args[0] * (1 + self.disturb * noise),)

        layers = [module for module in self.net.modules() if isinstance(module, StreamedLinear)]
        return [module.register_forward_pre_hook(add) for module in layers]
