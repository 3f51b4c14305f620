"""What an encoder-decoder model sees in place of transformers' EncoderDecoderCache while it is traced.

The keys and values of a cross attention depend on the encoder alone. So the encoder's program gives them, and the
decoder's takes them: recorded in the one (`Recording`), handed out in the other (`CrossStates`). Which attention a
call belongs to is known by the tensors: a cache remembers what it gave (`layer_of`), and no module is asked for
its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

import torch
from transformers.cache_utils import Cache, EncoderDecoderCache

States = tuple[torch.Tensor, torch.Tensor]  # keys and values, (batch, heads, tokens, head size) each


class _Layers(Cache):  # type: ignore[misc]  # transformers' annotations are partial
    """A cache without storage: subclasses say what a layer gets."""

    def __init__(self) -> None:
        super().__init__(layers=[])

    def get_seq_length(self, layer_idx: int = 0) -> Any:
        """Tokens that were there before this call."""
        return 0

    def get_query_offset(self, layer_idx: int = 0) -> Any:
        """Position of the first new token."""
        return self.get_seq_length(layer_idx)

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[Any, int]:
        """Length and offset of the keys that new tokens may see."""
        return self.get_seq_length(layer_idx) + query_length, 0


class Recording(_Layers):
    """Keeps what each layer computes and gives it back as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.states: dict[int, States] = {}

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any) -> States:
        """Record one layer."""
        self.states[layer_idx] = (key_states, value_states)
        return key_states, value_states


class StoredStates(_Layers):
    """Self attention with a past; remembers what it gave, by layer."""

    def __init__(self) -> None:
        super().__init__()
        self.given: dict[int, States] = {}

    def layer_of(self, key: torch.Tensor) -> int | None:
        """The layer whose keys these are, by identity."""
        return next((layer for layer, (own, _) in self.given.items() if own is key), None)


class GrowingStates(StoredStates):
    """Self attention with the past as an input: new keys and values go behind it.

    `past`: per layer (batch, heads, past, head size) twice. `present` holds past and new together, by layer; a
    backend whose attention operator appends by itself puts that operator's outputs there.
    """

    def __init__(self, past: Sequence[States]) -> None:
        super().__init__()
        self.past = past
        self.new: dict[int, States] = {}
        self.present: dict[int, States] = {}

    def get_seq_length(self, layer_idx: int = 0) -> Any:
        """Tokens in the past."""
        return self.past[0][0].shape[2]

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any) -> States:
        """Past and new of one layer."""
        key, value = self.past[layer_idx]
        found = (torch.cat([key, key_states], dim=2), torch.cat([value, value_states], dim=2))
        self.new[layer_idx] = (key_states, value_states)
        self.given[layer_idx] = self.present[layer_idx] = found
        return found


class CrossStates(_Layers):
    """Keys and values of every cross attention, as the encoder's program gave them."""

    def __init__(self, states: Sequence[States]) -> None:
        super().__init__()
        self.states = states
        # transformers reads layers[i].keys and .values where is_updated says True
        self.layers = [SimpleNamespace(keys=key, values=value) for key, value in states]

    def layer_of(self, key: torch.Tensor) -> int | None:
        """The layer whose keys these are, by identity."""
        return next((layer for layer, (own, _) in enumerate(self.states) if own is key), None)


class TracedCache(EncoderDecoderCache):  # type: ignore[misc]
    """Both caches of a decoder; `cross_known` False: cross attention is to be computed and recorded."""

    def __init__(self, self_attention: _Layers, cross_attention: _Layers, cross_known: bool) -> None:
        # not transformers' own, which asks each layer for its length
        self.self_attention_cache = self_attention
        self.cross_attention_cache = cross_attention
        self.is_updated = _Always(cross_known)


class _Always(dict[int, bool]):
    """One answer for every layer, whatever is written."""

    def __init__(self, answer: bool) -> None:
        super().__init__()
        self._answer = answer

    def get(self, key: int, default: Any = None) -> bool:
        return self._answer


_CACHE: ContextVar[TracedCache | None] = ContextVar("qexport_traced_cache", default=None)


@contextmanager
def traced_cache(cache: TracedCache) -> Iterator[TracedCache]:
    """Let attention functions see the cache that the model was given."""
    token = _CACHE.set(cache)
    try:
        yield cache
    finally:
        _CACHE.reset(token)


def current_cache() -> TracedCache | None:
    """The cache within traced_cache(), None outside."""
    return _CACHE.get()
