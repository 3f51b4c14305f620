"""What is said of memory before the work, how the work is made to fit, and what ends it."""

import gc
import time

import numpy as np
import pytest

from exporter import memory
from exporter.layers import LayerInfo
from exporter.memory import MemoryProblem, VerifyRoom, held_memory, peak_forecast, resident, room_for
from exporter.plan import Forecast, LayerPlan, QuantPlan, RuleRef
from exporter.schemes import QuantScheme
from exporter.targets import Target

W8 = QuantScheme("w8", "int8", "channel", True, "dynamic-int8", "mse")
GB = 10**9


def plan_of(blocks=10, vocabulary=50_000, hidden=1000, megabytes=100, backends=("onnxruntime",)):
    """A language model of square layers and a table, each backend's file of so many MB."""
    shapes = {"embed": ("embedding", (vocabulary, hidden))}
    shapes |= {f"layers.{i}": ("linear", (hidden, hidden)) for i in range(blocks)}
    layers = [
        LayerPlan(name, kind, shape, None, RuleRef(0, 1, "**", None), W8, {}, ())
        for name, (kind, shape) in shapes.items()
    ]
    head = LayerPlan("head", "linear", (vocabulary, hidden), "embed", RuleRef(0, 1, "**", None), W8, {}, ())
    forecasts = tuple(Forecast(Target(name), megabytes * 10**6, 0, 0, 0) for name in backends)
    return QuantPlan("r", "0", "s", "text-generation", "m", (*layers, head), hidden, forecasts)


def test_a_stage_for_each_thing_that_is_done():
    stages = peak_forecast(plan_of(backends=("onnxruntime", "executorch")), workers=2)
    assert list(stages) == ["quantise", "lower to onnxruntime", "lower to executorch", "verify"]
    assert all(0.2 * GB < size < 3 * GB for size in stages.values())


def test_what_it_grows_with():
    small, wide = plan_of(), plan_of(vocabulary=200_000)
    heavy = plan_of(megabytes=500)
    one = peak_forecast(small, 1)
    assert peak_forecast(small, 2)["quantise"] == one["quantise"] + 5 * 1000 * 1000  # the next largest layer
    # a float weight and its integers, and 1,600 bytes a word for the tokenizer
    assert peak_forecast(wide, 1)["quantise"] == one["quantise"] + 150_000 * (5 * 1000 + 1600)
    # depth is in it up to what may stay mapped: the float weights are never in memory as a whole
    assert peak_forecast(plan_of(blocks=2000), 1)["verify"] == peak_forecast(plan_of(blocks=200), 1)["verify"]
    # every layer's integers are read back, the tied table twice
    deep = peak_forecast(plan_of(blocks=2000), 1)["lower to onnxruntime"]
    assert deep - peak_forecast(plan_of(blocks=200), 1)["lower to onnxruntime"] == int(2.2 * 1800e6)
    assert peak_forecast(heavy, 1)["verify"] == one["verify"] + int(1.8 * 400e6)
    assert peak_forecast(small, 1, share=0.25)["verify"] < one["verify"]


def test_blocks_of_logits_keep_their_bytes():
    layers = [LayerInfo("t", "embedding", (262_144, 640)), LayerInfo("l", "linear", (2048, 640))]
    room = VerifyRoom.for_layers(layers)
    assert room.block_rows * 262_144 * 4 <= 128 * 10**6 < (room.block_rows + 1) * 262_144 * 4
    assert room.piece_tokens == 64  # the least, in 67 MB
    assert VerifyRoom.for_layers(layers[1:]).block_rows == 256
    least = VerifyRoom.for_layers(layers, share=0.01)
    assert (least.block_rows, least.piece_tokens, least.batch_tokens) == (16, 64, 64)


def test_work_is_made_to_fit():
    plan = plan_of(vocabulary=100_000)
    roomy = room_for(plan, 100 * GB)
    assert roomy.verify == VerifyRoom.for_layers(plan.layers)
    tight = room_for(plan, roomy.peak - 1)
    assert tight.peak < roomy.peak and tight.verify.block_rows < roomy.verify.block_rows


def test_too_little_is_said_with_the_way_out(monkeypatch):
    with pytest.raises(MemoryProblem) as error:
        room_for(plan_of(megabytes=1000), GB)
    assert str(error.value) == (
        "verify: this model needs about 3.1 GB of memory, --max-memory allows 1.0 GB; allow more, "
        "or export one target at a time"
    )
    assert error.value.exit_code == 2
    monkeypatch.setattr(memory, "available_memory", lambda: 2 * GB)
    with pytest.raises(MemoryProblem) as error:
        room_for(plan_of(megabytes=1000), None)
    assert str(error.value) == (
        "verify: this model needs about 3.1 GB of memory, 2.0 GB are available; close other programs, "
        "or export one target at a time"
    )


def test_a_system_that_says_nothing_stops_nobody(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    assert room_for(plan_of(megabytes=100_000), None).limit is None


def test_what_this_machine_has():
    available, own = memory.available_memory(), resident()
    assert available is not None and own is not None
    assert own < available
    assert 0 < resident(anonymous=True) <= own


def test_the_job_ends_where_it_takes_more_than_it_may():
    gc.collect()
    limit = resident(anonymous=True) + 100 * 10**6
    with pytest.raises(MemoryProblem) as error, held_memory(limit):
        held = [np.ones(10**7) for _ in range(3)]  # 240 MB
        for _ in held * 30:
            time.sleep(0.1)
    assert f"--max-memory allows {limit / GB:.1f} GB; allow more. The forecast was lower, so" in str(
        error.value
    )
    with held_memory(resident(anonymous=True) + 500 * 10**6):
        np.ones(10**6).sum()
        time.sleep(0.5)
    with held_memory(None):
        pass
