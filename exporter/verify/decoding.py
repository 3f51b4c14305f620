"""Greedy decoding of an encoder-decoder model by the rules of its generation_config.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.backends.base import Seq2SeqRunner
from exporter.errors import SourceError

Logits = NDArray[np.float32]
_DEFAULT_TOKENS = 128  # where nothing says how long an answer may be


@dataclass(frozen=True)
class DecodingRules:
    """What is said of the tokens before any is chosen."""

    prompt: tuple[int, ...]  # what every answer begins with
    ends: frozenset[int]
    most: int  # tokens after the prompt
    never: tuple[int, ...] = ()
    never_first: tuple[int, ...] = ()

    def describe(self) -> dict[str, list[int]]:
        """For the manifest: what an app must do to write what was measured."""
        return {
            "prompt": list(self.prompt),
            "ends": sorted(self.ends),
            "never": list(self.never),
            "never_first": list(self.never_first),
        }

    def choose(self, row: Logits, is_first: bool) -> int:
        """The most likely token that is allowed, from (vocabulary,) logits."""
        allowed = row.copy()
        allowed[list(self.never)] = -np.inf
        if is_first:
            allowed[list(self.never_first)] = -np.inf
        return int(allowed.argmax())


def rules_for(generation: Any, most: int | None) -> DecodingRules:
    """From transformers' GenerationConfig; `most`: positions of the decoder, None: any number.

    Raises SourceError where it does not say how an answer begins.
    """
    start = generation.decoder_start_token_id
    if start is None:
        raise SourceError(
            "the model's configuration names no decoder_start_token_id, so no answer can begin; add it to "
            "generation_config.json"
        )
    forced = sorted(getattr(generation, "forced_decoder_ids", None) or [])
    prompt = [start, *(token for _, token in forced)]
    if not forced and generation.forced_bos_token_id is not None:
        prompt.append(generation.forced_bos_token_id)
    end = generation.eos_token_id
    ends = frozenset(end if isinstance(end, list) else [] if end is None else [end])
    room = _DEFAULT_TOKENS if most is None else min(most - len(prompt), _DEFAULT_TOKENS)
    return DecodingRules(
        tuple(prompt),
        ends,
        room,
        _tokens(generation.suppress_tokens),
        _tokens(generation.begin_suppress_tokens),
    )


def greedy(runner: Seq2SeqRunner, rules: DecodingRules) -> tuple[int, ...]:
    """What the model answers to what it has encoded, without the ending token."""
    runner.reset()
    row = runner.forward(rules.prompt)[-1]
    tokens: list[int] = []
    while len(tokens) < rules.most:
        token = rules.choose(row, not tokens)
        if token in rules.ends:
            break
        tokens.append(token)
        row = runner.forward([token])[-1]
    return tuple(tokens)


def rows_after(runner: Seq2SeqRunner, prompt: Sequence[int], answer: Sequence[int], stepwise: bool) -> Logits:
    """(len(answer) + 1, vocabulary): the logits that each token of the answer and its end are chosen from, the
    answer being given. `stepwise`: one token at a time through the cache, as a user decodes."""
    runner.reset()
    if runner.full_logits and not stepwise:
        return runner.forward([*prompt, *answer])[len(prompt) - 1 :].copy()
    rows = [runner.forward(prompt)[-1:].copy()]
    rows += [runner.forward([token])[-1:].copy() for token in answer]
    return np.concatenate(rows)


def _tokens(given: Any) -> tuple[int, ...]:
    return tuple(int(token) for token in given or () if token >= 0)
