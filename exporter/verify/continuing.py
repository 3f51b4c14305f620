"""Greedy continuations of prompts: one by one through a runtime's cache, or all at once in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from exporter.backends.base import TextRunner
from exporter.verify.references import accepts

Logits = NDArray[np.float32]
Tokens = tuple[int, ...]


def greedy(
    runner: TextRunner, prompt: Sequence[int], count: int, ends: frozenset[int], draft: Tokens = ()
) -> tuple[Tokens, Logits]:
    """The `count` most likely tokens after the prompt, stopping at an end token; and the (vocabulary,)
    logits that the first was chosen from.

    Tokens go one by one through the cache, or, where a runtime gives logits for every token, a `draft`
    that another model wrote goes with the prompt: it is followed as far as this model agrees, and the
    result is this model's own either way.
    """
    runner.reset()
    if runner.full_logits and draft:
        rows = runner.forward([*prompt, *draft[:-1]])[len(prompt) - 1 :]
        likely = rows.argmax(axis=1).tolist()
        first = rows[0].copy()
        agreed = next((i for i, token in enumerate(draft) if likely[i] != token), None)
        tokens = list(draft) if agreed is None else [*draft[:agreed], int(likely[agreed])]
        if agreed is not None and len(tokens) < count and tokens[-1] not in ends:
            runner.reset()  # the cache holds tokens that this model did not choose
            tokens.append(int(runner.forward([*prompt, *tokens])[-1].argmax()))
    else:
        first = runner.forward(prompt)[-1].copy()
        tokens = [int(first.argmax())]
    while len(tokens) < count and not ends & set(tokens):
        tokens.append(int(runner.forward(tokens[-1:])[-1].argmax()))
    return _cut(tuple(tokens), count, ends), first


def greedy_together(
    model: torch.nn.Module, prompts: Sequence[Sequence[int]], count: int, ends: frozenset[int]
) -> list[tuple[Tokens, Logits]]:
    """What greedy() gives for each prompt, of a transformers model, in `count` steps for all of them.

    Shorter prompts are padded on the left and masked, as transformers' own generate() does.
    """
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    written: list[list[int]] = [[] for _ in prompts]
    first: Logits | None = None
    cache: Any = None
    for _ in range(count):
        options: dict[str, Any] = {}
        if accepts(model, "position_ids"):
            positions = (mask.cumsum(dim=1) - 1).clamp_(min=0)
            options["position_ids"] = positions[:, -ids.shape[1] :]
        if accepts(model, "logits_to_keep"):
            options["logits_to_keep"] = 1
        with torch.no_grad():
            out = model(ids, attention_mask=mask, past_key_values=cache, use_cache=True, **options)
        cache = out.past_key_values
        last: Logits = out.logits[:, -1].float().numpy()
        first = last.copy() if first is None else first
        chosen = last.argmax(axis=1)
        for tokens, token in zip(written, chosen.tolist(), strict=True):
            tokens.append(token)
        if all(ends & set(tokens) for tokens in written):
            break
        ids = torch.from_numpy(chosen)[:, None]
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    assert first is not None
    return [(_cut(tuple(tokens), count, ends), row) for tokens, row in zip(written, first, strict=True)]


def _cut(tokens: Tokens, count: int, ends: frozenset[int]) -> Tokens:
    """At most `count`, up to and with the first end token."""
    end = next((i + 1 for i, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[: min(end, count)]
