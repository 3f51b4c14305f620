"""PyTorch's side of a comparison: hidden states of the whole text, and logits of any of its rows from them.

What a language model gives for 1,280 positions is 1.3 GB of logits at a vocabulary of 262,144, but a few
MB of hidden states in front of the output layer. So the states are kept, and the rest of the model (output
layer and whatever follows it) runs again over the rows that are compared, a block at a time.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from exporter.evaluate import Window
from exporter.models.activations import CACHE_ROUNDING, CacheRounding
from exporter.models.reference import round_activations, rounded_cache

Logits = NDArray[np.float32]
_DISTURBANCE = 1e-6  # of the embeddings, relative: a few float32 roundings
# float32 products over the same numbers, in blocks of another height: a few roundings of the largest logit
_REPLAY_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Variant:
    """How the dequantised model computes."""

    rounds: bool = False  # activations, as the schemes say
    cache: str = "float32"  # Target.kv_cache, and whose where runtimes differ
    disturbed: bool = False

    @property
    def calm(self) -> Variant:
        """The same, not disturbed."""
        return replace(self, disturbed=False)

    @property
    def exact(self) -> bool:
        """Nothing is rounded on the way, so that another order of summation changes the last bits only."""
        return not self.rounds and self.cache == "float32"

    @property
    def name(self) -> str:
        """For the report."""
        if self.disturbed:
            return f"the same, embeddings disturbed by {_DISTURBANCE:g}"
        parts = ["dequantised"]
        parts += ["int8 activations"] if self.rounds else []
        parts += [f"{self.cache} KV cache"] if self.cache != "float32" else []
        return ", ".join(parts)


class Reference:
    """One model and, per window, its hidden states at the scored rows."""

    def __init__(
        self,
        model: torch.nn.Module,
        batch_tokens: int,
        caches: Mapping[str, CacheRounding] = CACHE_ROUNDING,
    ) -> None:
        self.model = model
        self.caches = caches  # what a KV cache rounds, by Variant.cache; float32 does not
        self.batch_tokens = batch_tokens  # that go through a layer at once
        self._states: dict[tuple[Variant | None, int], torch.Tensor] = {}
        self._texts: dict[int, Window] = {}
        self._replays: bool | None = None  # whether the rest of the model can run by itself; None: not tried

    def collect(self, variant: Variant | None, windows: Sequence[Window]) -> Iterator[int]:
        """Run the windows; yields how many are done. `variant` None: the float model."""
        base = _base(self.model)
        for first, group in _batches(windows, self.batch_tokens):
            tokens = torch.tensor([window.tokens for window in group])
            with self._mode(variant), torch.no_grad():
                if self._replays is None:
                    self._replays = self._can_replay(tokens[:1])
                states = base(input_ids=tokens, use_cache=False)[0] if self._replays else None
            for offset, window in enumerate(group):
                self._texts[first + offset] = window
                if states is not None:
                    self._states[variant, first + offset] = states[offset, window.rows].clone()
            yield first + len(group)

    def logits(self, variant: Variant | None, window: int, rows: NDArray[np.int64]) -> Logits:
        """(n, vocabulary) logits of these scored rows of a window that was run."""
        text = self._texts[window]
        with self._mode(variant), torch.no_grad():
            if self._replays:
                return self._rest(self._states[variant, window][torch.from_numpy(rows)])
            # the whole model again: slower, for models of another build
            read = text.tokens[: text.first_scored + int(rows.max()) + 1]
            out = self.model(torch.tensor([read]), use_cache=False)
            found: Logits = out.logits[0].float().numpy()[text.first_scored + rows]
            return found

    def states(self, window: int) -> torch.Tensor | None:
        """(scored rows, hidden) of the float model for a window that was run; None where it keeps none."""
        return self._states.get((None, window))

    def restore(self, windows: Sequence[Window], states: Sequence[torch.Tensor]) -> bool:
        """In place of collect() for the float model: what states() gave before. False where it cannot use them."""
        with self._mode(None), torch.no_grad():
            self._replays = self._can_replay(torch.tensor([windows[0].tokens]))
        if self._replays:
            self._texts |= dict(enumerate(windows))
            self._states |= {(None, index): rows for index, rows in enumerate(states)}
        return self._replays

    def outputs(self, tokens: Sequence[int], names: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Outputs of the named layers for one piece of text, (tokens, out) each."""
        found: dict[str, NDArray[np.float32]] = {}
        with _hooks(self.model, names, found), self._mode(Variant()), torch.no_grad():
            self.model(torch.tensor([list(tokens)]), use_cache=False)
        return found

    @contextmanager
    def _mode(self, variant: Variant | None) -> Iterator[None]:
        variant = variant or Variant()
        round_activations(self.model, variant.rounds)
        with rounded_cache(self.caches.get(variant.cache)), _disturbed(self.model, variant.disturbed):
            yield

    def _rest(self, states: torch.Tensor) -> Logits:
        """(n, hidden) -> (n, vocabulary): the model's own forward, whose body gives these states."""
        name = str(self.model.base_model_prefix)
        body = getattr(self.model, name)
        setattr(self.model, name, _Stored(states[None]))
        try:
            ids = torch.zeros((1, len(states)), dtype=torch.int64)
            out = self.model(input_ids=ids, use_cache=False)
        finally:
            setattr(self.model, name, body)
        logits: Logits = out.logits[0].float().numpy()
        return logits

    def _can_replay(self, tokens: torch.Tensor) -> bool:
        """Whether body and rest give what the whole gives, on a few tokens."""
        tokens = tokens[:, :8]
        if _base(self.model) is self.model:
            return False
        whole = self.model(tokens, use_cache=False).logits[0].float().numpy()
        try:
            again = self._rest(_base(self.model)(input_ids=tokens, use_cache=False)[0][0])
        except (AttributeError, TypeError, KeyError, IndexError, ValueError, RuntimeError):
            return False  # the model reads more of its body than the last hidden states
        return again.shape == whole.shape and bool(
            np.abs(again - whole).max() <= _REPLAY_TOLERANCE * np.abs(whole).max()
        )


class _Stored(torch.nn.Module):
    """Takes the place of a model's body and gives hidden states that it gave before."""

    def __init__(self, states: torch.Tensor) -> None:
        super().__init__()
        self.states = states

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutputWithPast

        return BaseModelOutputWithPast(last_hidden_state=self.states)


def _base(model: torch.nn.Module) -> torch.nn.Module:
    """transformers' name for the body of a model; the model itself where it has none."""
    base: torch.nn.Module = model.base_model  # type: ignore[assignment]
    return base


def _batches(windows: Sequence[Window], most_tokens: int) -> Iterator[tuple[int, Sequence[Window]]]:
    """Runs of windows of one length, (index of the first, windows), of `most_tokens` together or one window."""
    start = 0
    while start < len(windows):
        length = len(windows[start].tokens)
        stop = start + 1
        while (
            stop < len(windows)
            and len(windows[stop].tokens) == length
            and (stop + 1 - start) * length <= most_tokens
        ):
            stop += 1
        yield start, windows[start:stop]
        start = stop


@contextmanager
def _disturbed(model: torch.nn.Module, on: bool) -> Iterator[None]:
    """Inside, what the embedding gives is scaled by 1 + 1e-6 x, x standard normal with a fixed seed."""
    if not on:
        yield
        return
    generator = torch.Generator().manual_seed(0)

    def hook(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return output * (1 + _DISTURBANCE * torch.randn(output.shape, generator=generator))

    handle = model.get_input_embeddings().register_forward_hook(hook)  # type: ignore[operator]
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _hooks(
    module: torch.nn.Module, names: Sequence[str], found: dict[str, NDArray[np.float32]]
) -> Iterator[None]:
    def keep(name: str) -> Any:
        def hook(layer: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
            found[name] = output.reshape(-1, output.shape[-1]).numpy().copy()

        return hook

    handles = [module.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def accepts(model: torch.nn.Module, argument: str) -> bool:
    """Whether the model's forward takes an argument of that name."""
    return argument in inspect.signature(model.forward).parameters
