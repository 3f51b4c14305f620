"""Going back in a runtime's KV cache: the same logits as from the beginning."""

from __future__ import annotations

import numpy as np
import pytest

from exporter.backends import get_backend


@pytest.fixture(scope="module")
def sliding_job(tmp_path_factory):
    """A model with windows of 8 tokens, in both runtimes; contexts longer than window and piece."""
    from tiny_jobs import ended, started, write_recipe
    from tiny_models import _byte_tokenizer, gemma

    place = tmp_path_factory.mktemp("sliding")
    vocabulary = _byte_tokenizer(place / "model")
    gemma(
        head_dim=32,
        query_pre_attn_scalar=32,
        sliding_window=8,
        max_position_embeddings=1024,
        vocab_size=vocabulary + 6,
    ).save_pretrained(place / "model")
    targets = "[{backend: onnxruntime, min_runtime: '1.29', max_context: 700}, {backend: executorch, max_context: 700}]"
    recipe = write_recipe(place, place / "model", targets=targets)
    done = ended(started("--recipe", recipe, "--out", place / "out", cache=place / "cache"))
    assert done.code == 0, done.err
    return place / "out"


@pytest.mark.parametrize("name", ["onnxruntime", "executorch"])
def test_a_rewound_cache_gives_what_a_fresh_one_gives(tiny_job, sliding_job, name):
    for folder in (tiny_job[1], sliding_job):
        runner = get_backend(name).open_text(folder / name)
        start, first, second = [5, 9, 3, 30, 41, 7, 8, 60, 17, 20, 33, 2, 90], [12] * 20, [77, 4, 55]
        runner.reset()
        expected = runner.forward([*start, *second])[-1]
        runner.reset()
        runner.forward(start)
        runner.mark()
        for _ in range(2):
            runner.forward(first)
            runner.forward(second)
            assert runner.rewind()
        found = runner.forward(second)[-1]
        assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()


def test_executorch_refuses_to_go_back_further_than_its_ring_holds(sliding_job):
    runner = get_backend("executorch").open_text(sliding_job / "executorch")
    start, second = list(range(10, 40)), [77, 4, 55]
    runner.forward(start)
    runner.mark()
    runner.forward([12] * 256)
    assert runner.rewind()
    found = runner.forward(second)[-1]
    runner.reset()
    expected = runner.forward([*start, *second])[-1]
    assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()
    runner.reset()
    runner.forward(start)
    runner.mark()
    runner.forward([12] * 257)
    assert not runner.rewind()


def test_a_reset_forgets_the_mark(tiny_job):
    for name in ("onnxruntime", "executorch"):
        runner = get_backend(name).open_text(tiny_job[1] / name)
        runner.forward([5, 9, 3])
        runner.mark()
        runner.reset()
        assert runner.rewind()
        expected = runner.forward([7, 8])[-1]
        runner.reset()
        assert np.array_equal(runner.forward([7, 8])[-1], expected)
