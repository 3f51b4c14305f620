"""Greedy decoding by the rules of a generation_config.json."""

import numpy as np
import pytest
from transformers import GenerationConfig

from exporter.errors import SourceError
from exporter.verify.decoding import DecodingRules, greedy, rows_after, rules_for


class Counting:
    """A model of 8 tokens that likes the one after the last, and the first after the largest."""

    full_logits = True

    def __init__(self):
        self.seen = []

    def encode(self, inputs):
        self.seen = []

    def reset(self):
        self.seen = []

    def forward(self, tokens):
        self.seen += tokens
        rows = np.zeros((len(tokens), 8), np.float32)
        for row, token in zip(rows, tokens, strict=True):
            row[(token + 1) % 8], row[(token + 2) % 8] = 2, 1
        return rows if self.full_logits else rows[-1:]


def test_rules_from_a_generation_config():
    config = GenerationConfig(
        decoder_start_token_id=5,
        eos_token_id=[1, 2],
        suppress_tokens=[3, -1],
        begin_suppress_tokens=[4],
    )
    config.forced_decoder_ids = [[2, 9], [1, 8]]
    assert rules_for(config, 40) == DecodingRules((5, 8, 9), frozenset({1, 2}), 37, (3,), (4,))
    config.forced_decoder_ids = None
    config.forced_bos_token_id = 7
    assert rules_for(config, None) == DecodingRules((5, 7), frozenset({1, 2}), 128, (3,), (4,))


def test_rules_without_a_beginning():
    with pytest.raises(SourceError) as problem:
        rules_for(GenerationConfig(eos_token_id=1), 40)
    assert str(problem.value) == (
        "the model's configuration names no decoder_start_token_id, so no answer can begin; add it to "
        "generation_config.json"
    )


@pytest.mark.parametrize(
    ("rules", "answer"),
    [
        (DecodingRules((0,), frozenset({5}), 100), (1, 2, 3, 4)),
        (DecodingRules((0,), frozenset(), 3), (1, 2, 3)),
        (DecodingRules((0,), frozenset({5}), 100, never=(2,)), (1, 3, 4)),
        (DecodingRules((0,), frozenset({5}), 100, never_first=(1,)), (2, 3, 4)),
        (DecodingRules((7, 3), frozenset({5}), 100), (4,)),
    ],
)
def test_greedy(rules, answer):
    assert greedy(Counting(), rules) == answer


@pytest.mark.parametrize("full", [True, False])
def test_rows_are_those_that_each_token_is_chosen_from(full):
    model = Counting()
    model.full_logits = full
    for stepwise in (True, False):
        rows = rows_after(model, [7, 0], [1, 2], stepwise)
        assert rows.argmax(axis=1).tolist() == [1, 2, 3]
        assert model.seen == [7, 0, 1, 2]
