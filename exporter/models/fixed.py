"""A model of the Hugging Face layout as one module of fixed shapes, as an NPU takes it: batch 1, a length for all.

Texts are padded on the right to that length. `attention_mask` goes in as float32, 1 for a token and 0 for padding:
an NPU computes the bias of the scores from it in the same codes as everything else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

from exporter.models.masks import MaskFunction, attend
from exporter.models.programs import IDS, MASK, Wanted
from exporter.models.sentence import embed

ATTENTION = "qexport_fixed"
# Added to the score of a padded token. The range of scores is cut below what the softmax can tell from nothing.
HIDDEN = 128.0

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
