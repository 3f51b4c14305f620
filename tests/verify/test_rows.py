"""A runtime's rows over a window: each must be the row of the whole window that it says it is."""

import numpy as np
import pytest
import torch

from exporter.evaluate import Window
from exporter.models.reference import TorchRunner
from exporter.verify.rows import decoded, prefilled, stepped


@pytest.fixture(scope="module")
def runner():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.4,
    )
    return TorchRunner(LlamaForCausalLM(config).eval(), 512)


class LastRow:
    """The same model, giving the last token's row only, as ExecuTorch's program does."""

    full_logits = False

    def __init__(self, runner):
        self.runner, self.max_context = runner, runner.max_context

    def reset(self):
        self.runner.reset()

    def forward(self, tokens):
        return self.runner.forward(tokens)[-1:]


@pytest.fixture(scope="module", params=[3, 64, 65, 130])
def window(request):
    length = request.param
    ids = np.random.default_rng(length).integers(0, 100, size=length)
    return Window(tuple(ids.tolist()), (length - 1) // 2)


@pytest.fixture(scope="module")
def expected(runner, window):
    runner.reset()
    return runner.forward(window.tokens)[window.rows]


def placed(found, expected, stride=1):
    """Rows by position; each position at most once, and each row close to the whole window's."""
    rows = {}
    for index, start, block in found:
        assert index == 7
        for offset, row in enumerate(block):
            assert rows.setdefault(start + stride * offset, row) is row
    # float32 sums of at most 130 terms in another order, through two layers
    for position, row in rows.items():
        np.testing.assert_allclose(row, expected[position], atol=1e-4 * np.abs(expected).max())
    return sorted(rows)


@pytest.mark.parametrize("piece", [1, 16, 1000])
def test_prefills(runner, window, expected, piece):
    found = prefilled(runner, 7, window, piece)
    assert placed(found, expected) == list(range(len(window.targets)))


def test_decoding(runner, window, expected):
    assert placed(decoded(runner, 7, window), expected) == list(range(len(window.targets)))


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("block_rows", [1, 10, 1000])
def test_the_last_row_of_each_few_tokens(runner, window, expected, stride, block_rows):
    first, others = stepped(LastRow(runner), 7, window, stride, block_rows)
    np.testing.assert_allclose(first, expected[:1], atol=1e-4 * np.abs(expected).max())
    found = placed(others, expected, stride)
    assert found == list(range(stride, len(window.targets), stride))
