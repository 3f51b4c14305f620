"""How much each token of a layer's output counts for what the model says, from gradients of the float model. PyTorch.

To second order, the KL divergence that a layer's error dW adds is half the mean of (g . dW x)^2 over tokens, g being
the gradient of log p(y) by the layer's output and y drawn from the model's own distribution (Fisher information). With
g's direction left out, that weighs a token's x xT by |g|^2. (Kim et al., "GuidedQuant: Large Language Model
Quantization via Exploiting End Loss Guidance", ICML 2025, equation 8, with one group of outputs.) A lookup takes row
r's error as it is, so it is the gradients' own moments, E[g gT], that say which numbers of a row count.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from exporter.blockwise.blocks import Blocks
from exporter.blockwise.moments import InputMoments
from exporter.errors import QexportError, SourceError
from exporter.models.gradients import tell_all
from exporter.models.reference import StreamedEmbedding, StreamedLinear

VERSION = 2  # of what measured() gives for the same windows
_SEED = 0  # of the tokens that are drawn
_LOGIT_ELEMENTS = 1 << 24  # of a block of logits, 64 MB
_LEAST = (
    0.01  # of the mean that every token counts: those that hardly do keep the moments from being singular
)
_TABLE = "table:"


@dataclass
class Sensitivity:
    """Of the calibration windows."""

    tokens: dict[str, NDArray[np.float32]] = field(
        default_factory=dict
    )  # linear layer -> (windows, length) |g|^2
    # embedding -> mean of g gT at the lookups, and of |g|^2 x xT where it is an output layer too
    tables: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def weights(self, name: str) -> NDArray[np.float32]:
        """(windows, length), mean 1: how much a token counts for a layer.

        A window's first tokens may weigh as much as all others: attention rests on them, and the loss does too (cut
        at 20 times the mean of the others, SmolLM2's KL rose by 5 %).
        """
        squares = self.tokens[name]
        mean = float(squares.mean())
        found = squares / mean + _LEAST if mean else np.ones_like(squares)
        return np.asarray(found / found.mean(), np.float32)

    def save(self, path: Path) -> None:
        """Whole or not at all."""
        draft = path.with_suffix(f".{os.getpid()}.partial")
        with draft.open("wb") as stream:
            arrays: dict[str, Any] = {**self.tokens, **{_TABLE + n: held for n, held in self.tables.items()}}
            np.savez(stream, **arrays)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(draft, path)

    @classmethod
    def load(cls, path: Path) -> Sensitivity:
        """What save() wrote."""
        found = cls()
        with np.load(path) as held:
            for name in held.files:
                if name.startswith(_TABLE):
                    found.tables[name.removeprefix(_TABLE)] = held[name]
                else:
                    found.tokens[name] = held[name]
        return found


def measured(
    model: torch.nn.Module,
    layers: Collection[str],
    tokens: torch.Tensor,
    progress: Callable[[str, float], None],
) -> Sensitivity:
    """One forward and backward pass over (windows, length) tokens. `model`: streamed, in float, and not used again.
    `layers`: paths of its planned layers that are asked about."""
    found = Sensitivity({name: np.zeros(tokens.shape, np.float32) for name in layers})
    blocks = Blocks(model, layers)
    blocks.record(tokens[:1])
    place = [0]  # of the window
    at: dict[
        str, int
    ] = {}  # layer -> tokens of this window that it has told of: the output layer tells in parts

    def linear(name: str, taken: torch.Tensor, gradient: torch.Tensor) -> None:
        start = at.get(name, 0)
        at[name] = start + len(gradient)
        squares = gradient.square().sum(dim=1)
        found.tokens[name][place[0], start : at[name]] = squares.numpy()
        if name in tied:
            add(tied[name], (taken * squares[:, None]).T @ taken)

    def table(name: str, index: torch.Tensor, gradient: torch.Tensor) -> None:
        add(name, gradient.T @ gradient)

    def add(name: str, moments: torch.Tensor) -> None:
        found.tables[name] = found.tables.get(name, 0) + moments.double().numpy() / tokens.numel()

    tables = {name for name in layers if isinstance(model.get_submodule(name), StreamedEmbedding)}
    for name in tables:
        del found.tokens[name]
    tied = {}  # output layer -> the table whose weight it has
    for name in layers:
        module = model.get_submodule(name)
        if isinstance(module, StreamedLinear) and module.planned.info.tied_to in tables:
            tied[name] = str(module.planned.info.tied_to)
    tell_all(model, {name: partial(table if name in tables else linear, name) for name in layers})
    generator = torch.Generator().manual_seed(_SEED)
    rows = max(16, _LOGIT_ELEMENTS // int(model.config.vocab_size))  # type: ignore[union-attr,arg-type]
    for number in range(len(tokens)):
        progress(f"gradients of text {number + 1} of {len(tokens)}", number / len(tokens))
        place[0] = number
        at.clear()
        sampled_backward(blocks, tokens[number][None], rows, generator)
    return found


def sampled_backward(blocks: Blocks, tokens: torch.Tensor, rows: int, generator: torch.Generator) -> None:
    """Gradients of the log likelihood of tokens drawn from the model's own distribution; `tokens` (1, length), whose
    logits are made `rows` at a time. Raises QexportError, SourceError for states or weights that are not finite."""
    states = blocks.first_states(tokens, grad=True)
    if not states.requires_grad:  # a table that is not asked about
        states.requires_grad_(True)
    for block in range(len(blocks.blocks)):
        before, states = states, blocks.run(block, states)
        if not bool(torch.isfinite(states).all()):
            _not_finite(blocks, block, before)
    ends = states.detach().requires_grad_(True)
    for start in range(0, tokens.shape[1], rows):
        logits = blocks.logits(ends[:, start : start + rows])
        with torch.no_grad():
            gradient = torch.softmax(logits.detach(), dim=-1)
            drawn = torch.multinomial(gradient, 1, generator=generator)
            gradient.neg_()
            gradient.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=gradient.dtype))
        logits.backward(gradient)  # type: ignore[no-untyped-call]
    states.backward(ends.grad)  # type: ignore[no-untyped-call]


def _not_finite(blocks: Blocks, block: int, states: torch.Tensor) -> None:
    """Raises SourceError naming a weight, else QexportError naming a layer by what it takes, else the block."""
    path = f"{blocks.path}.{block}"
    layers = {
        f"{path}.{name}": module
        for name, module in blocks.blocks[block].named_modules()
        if isinstance(module, StreamedLinear)
    }
    for name, module in layers.items():
        for start, _, weight in module.source.blocks(*module.planned.info.shape):
            wrong = (~torch.isfinite(weight)).nonzero()
            if len(wrong):
                row, column = (int(index) for index in wrong[0])
                value = float(weight[row, column])
                raise SourceError(
                    f"layer {name}: weight[{start + row}, {column}] is {value}; the checkpoint cannot be quantised"
                )
    with InputMoments().watching(layers), torch.no_grad():
        blocks.run(block, states)
    raise QexportError(
        f"{path}: what it gives on the calibration text is not finite; look at the checkpoint, or take method: mse"
    )
