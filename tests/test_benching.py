"""bench_artifact on a real artifact in both runtimes: the structure, and figures that agree with one another."""

import json
import shutil
from dataclasses import replace

import pytest

from exporter.artifacts import read_manifest
from exporter.backends import get_backend
from exporter.benching import (
    BenchSettings,
    Subject,
    bench_artifact,
    measure_speeds,
    prompt_of,
    render_bench,
    weight_bytes_per_token,
)
from exporter.benchmarks.figures import Memory, Spread
from exporter.benchmarks.processes import WorkerSpec, started
from exporter.errors import ArtifactError
from exporter.plan import QuantPlan

RUNTIMES = ("onnxruntime", "executorch")
SETTINGS = BenchSettings(threads=1, repeats=2, past=(8, 200, 256, 4096), prefill=(8, 5000), steps=4, starts=1)
SETTINGS = replace(SETTINGS, prompt=8, bandwidth_bytes=2**24)


def quiet(what: str, share: float) -> None:
    assert what and 0 <= share <= 1


@pytest.fixture(scope="module")
def folder(tiny_job):
    return tiny_job[1]


@pytest.fixture(scope="module")
def result(folder, tmp_path_factory):
    return bench_artifact(folder, replace(SETTINGS, runtimes=("executorch",)), quiet)


@pytest.fixture(scope="module")
def both(folder):
    return bench_artifact(folder, SETTINGS.quick(), quiet)


def test_every_part_of_both_runtimes(both, folder):
    assert [runtime.name for runtime in both.runtimes] == list(RUNTIMES)
    targets = read_manifest(folder)["summary"]["targets"]
    for runtime in both.runtimes:
        assert runtime.file_bytes == targets[runtime.name]["model_bytes"]
        assert 0 < runtime.load_seconds.minimum < runtime.first_token_seconds.minimum
        assert [d.past for d in runtime.decode] == [16] and [p.tokens for p in runtime.prefill] == [8]
        for memory in (runtime.memory_after_load, runtime.memory_after_generation):
            assert 0 < memory.resident <= memory.peak
            # Rss is the sum of both; each is clipped at zero when what was there before is taken off
            assert memory.anonymous + memory.mapped >= memory.resident
        assert runtime.memory_ratio > 0
    assert "onnxruntime" in both.runtimes[0].engine and both.runtimes[1].engine.startswith("executorch ")
    assert both.read_bandwidth.minimum > 0 and both.threads == 1 and both.notes == ()


def test_the_bytes_of_a_step_are_the_plans(result, folder):
    plan = QuantPlan.from_json(read_manifest(folder)["summary"]["plan"])
    (runtime,) = result.runtimes
    forecast = next(f for f in plan.forecasts if f.target.backend == "executorch")
    linear = [layer for layer in plan.layers if layer.kind == "linear"]
    untied = sum(layer.bytes["executorch"] for layer in linear if layer.tied_to is None)
    # the tied output layer is one int8 row and one float32 scale for each of the vocabulary's tokens
    (head,) = [layer for layer in linear if layer.tied_to]
    rows, columns = head.shape
    expected = untied + rows * columns + rows * 4 + plan.other_parameters * 4
    assert runtime.weight_bytes_per_token == weight_bytes_per_token(plan, forecast) == expected
    for decode in runtime.decode:
        assert decode.bytes_per_token == expected + forecast.cache_bytes * decode.past // runtime.context
        share = decode.bytes_per_token * decode.tokens_per_second.median / result.read_bandwidth.maximum
        assert decode.bandwidth_share == pytest.approx(share)


def test_what_the_context_does_not_hold_is_said(result):
    (runtime,) = result.runtimes
    assert [d.past for d in runtime.decode] == [8, 200, 256]
    assert [p.tokens for p in runtime.prefill] == [8]
    assert result.notes == (
        "executorch: decode after 256 tokens is measured over the last 4 steps that its context of 256 holds",
        "executorch: no decode after 4,096 tokens, its context is 256",
        "executorch: no prefill of 5,000 tokens, its context is 256",
    )


def test_json_and_table(both):
    data = json.loads(json.dumps(both.to_json()))
    assert list(data) == [
        "folder", "processor", "threads", "read_bandwidth", "settings", "runtimes", "notes", "task",
    ]  # fmt: skip
    assert data["runtimes"][0]["decode"][0]["tokens_per_second"].keys() == {"minimum", "median", "maximum"}
    from rich.console import Console

    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render_bench(both))
    text = console.export_text()
    for words in ("load and first token, s", "decode after 16, tokens/s", "prefill of 8, tokens/s", "GB/s"):
        assert words in text


def test_both_ways_to_run_onnxruntime_work(folder):
    """onnxruntime-genai and, where it is not installed, a plain session with bound buffers."""
    place = folder / "onnxruntime"
    for engine in ("onnxruntime-genai", "onnxruntime"):
        with started(WorkerSpec.own(engine, place, 1, 64)) as worker:
            assert worker.load().version.startswith(engine + " ")
            assert worker.prefill(prompt_of(8, 256)) > 0
            assert worker.decode(prompt_of(8, 256), 4) > 0
            assert worker.memory().peak > 0


def test_bound_buffers_give_the_tokens_of_the_runner(folder):
    """The fallback's shared buffers are read and written at the right places: greedy tokens agree."""
    from pathlib import Path

    from exporter.benchmarks.engines import ENGINES

    engine = ENGINES["onnxruntime"]()(Path(folder / "onnxruntime"), 1, 64)
    runner = get_backend("onnxruntime").open_text(folder / "onnxruntime")
    prompt = prompt_of(8, 256)
    engine.reset()
    engine.prefill(prompt)
    logits = runner.forward(prompt)
    for _ in range(6):
        token = int(logits[-1].argmax())
        assert engine._next == token
        engine.step()
        logits = runner.forward([token])


def test_no_artifact(tmp_path):
    with pytest.raises(ArtifactError) as error:
        bench_artifact(tmp_path, SETTINGS, quiet)
    assert str(error.value) == f"{tmp_path}: has no manifest.json, so it is not a folder that qexport wrote"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runtimes": ("tflite",)}, "runtime 'tflite' is not known; there are: onnxruntime, executorch"),
        (
            {"past": (4096,), "prefill": (5000,), "runtimes": ("executorch",)},
            "executorch: nothing can be measured, its context is 256 tokens; ask for less: --past 125 --prefill 128",
        ),
    ],
)
def test_what_cannot_be_measured(folder, changes, message):
    with pytest.raises(ArtifactError) as error:
        bench_artifact(folder, replace(SETTINGS, **changes), quiet)
    assert str(error.value) == message


def test_a_runtime_that_the_folder_does_not_hold(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    plan = QuantPlan.from_json(manifest["summary"]["plan"])
    manifest["summary"]["plan"] = replace(plan, forecasts=plan.forecasts[:1]).to_json()
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError) as error:
        bench_artifact(copy, replace(SETTINGS, runtimes=("executorch",)), quiet)
    assert str(error.value) == f"{copy}: holds no executorch, only onnxruntime"


def test_a_runtime_that_fails_says_why(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    model = copy / "executorch" / "model.pte"
    model.unlink()
    with pytest.raises(ArtifactError) as error:
        bench_artifact(copy, replace(SETTINGS, runtimes=("executorch",)), quiet)
    assert str(error.value).startswith(f"{model}: executorch cannot load: ")


def test_a_subject_that_fails_is_left_out(folder, tmp_path):
    good = WorkerSpec.own("executorch", folder / "executorch" / "model.pte", 1, 64)
    bad = WorkerSpec.own("executorch", tmp_path / "model.pte", 1, 64)
    subjects = [Subject("bad", bad, 256), Subject("good", good, 256)]
    settings = replace(SETTINGS, repeats=1)
    told = []
    speeds = measure_speeds(
        subjects,
        {s.name: ([8], [8]) for s in subjects},
        settings,
        quiet,
        lambda s, p: told.append((s, str(p))),
    )
    assert list(speeds) == ["good"]
    assert len(speeds["good"].decode[8]) == len(speeds["good"].prefill[8]) == 1
    assert [subject.name for subject, _ in told] == ["bad"]
    assert told[0][1].startswith(f"{tmp_path / 'model.pte'}: executorch cannot load: ")
    with pytest.raises(ArtifactError):
        measure_speeds(subjects, {s.name: ([8], [8]) for s in subjects}, settings, quiet)


def test_settings_that_mean_nothing():
    with pytest.raises(ArtifactError) as error:
        BenchSettings(past=(0, 4))
    assert str(error.value) == "bench: 0 is too small; repeats, steps, past and prefill count from 1"


def test_a_spread_is_ordered():
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(1.0, 2.0, 3.0)
    with pytest.raises(ValueError, match="nothing was measured"):
        Spread.of([])
    with pytest.raises(ValueError, match="does not hold"):
        Spread(2.0, 1.0, 3.0)


def test_memory_on_top():
    before, after = Memory(100, 120, 60, 40), Memory(150, 170, 120, 30)
    assert after.since(before) == Memory(50, 70, 60, 0)
    assert Memory.middle([after, before]) == before
