"""Going back in a runtime's KV cache: the same logits as from the beginning."""

from __future__ import annotations

import numpy as np
import pytest

from exporter.backends import get_backend


@pytest.mark.parametrize("name", ["onnxruntime", "executorch"])
def test_a_rewound_cache_gives_what_a_fresh_one_gives(tiny_job, sliding_job, name):
    for folder in (tiny_job[1], sliding_job[1]):
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
    runner = get_backend("executorch").open_text(sliding_job[1] / "executorch")
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
