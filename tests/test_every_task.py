"""The whole job for tasks other than text generation, on tiny random checkpoints: files, ladder, report, bench."""

import json

import numpy as np
import pytest
from task_jobs import KINDS

from exporter.artifacts import read_manifest
from exporter.backends import get_backend
from exporter.benching import BenchSettings, bench_artifact, render_bench

FAST = BenchSettings(threads=1, repeats=1, calls=(8,), steps=2, starts=1, prompt=8, bandwidth_bytes=2**24)


@pytest.fixture(scope="module", params=KINDS)
def job(request, task_job):
    """(task, recipe, folder) of a finished job, in this process."""
    return task_job(request.param)


def test_both_files_hold_the_same_integers_and_every_gate_held(job):
    _, _, folder = job
    summary = read_manifest(folder)["summary"]
    assert summary["parity"]["passed"]
    packed = [get_backend(name).read_back(folder / name) for name in ("onnxruntime", "executorch")]
    assert packed[0].keys() == packed[1].keys() and packed[0]
    for name, layer in packed[0].items():
        assert (layer.values == packed[1][name].values).all() and (
            layer.scales == packed[1][name].scales
        ).all()
    quantised = {
        layer["name"] for layer in summary["plan"]["layers"] if layer["scheme"]["weights"] != "float"
    }
    assert packed[0].keys() == quantised


def test_what_makes_its_inputs_lies_beside_the_files(job):
    task, _, folder = job
    pipeline = read_manifest(folder)["summary"]["pipeline"]
    assert pipeline["task"] == task
    for runtime in ("onnxruntime", "executorch"):
        for name in pipeline["files"]:
            assert (folder / runtime / name).stat().st_size > 0, name
    golden = json.loads((folder / "golden" / "vectors.json").read_text())
    for example in golden["examples"]:
        for tensor, name in example["tensors"].items():
            assert np.load(folder / "golden" / name).shape[0] == 1, tensor
        assert example["tensors"] or example["text"]  # a text's tensors are small enough for JSON


def test_a_clip_at_another_rate_is_resampled_judged_and_said(job):
    task, _, folder = job
    summary = read_manifest(folder)["summary"]
    notes = [note for note in summary["notes"] if "resampled" in note]
    if task != "automatic-speech-recognition":
        assert not notes
        return
    (note,) = notes
    assert note.endswith("1.wav of 8,000 Hz resampled to 16,000 Hz")
    names = [[m["name"] for m in c["metrics"]] for c in summary["tasks"]["comparisons"]]
    assert names == [["word error rate", "words unlike float"]] * 2


def test_bench_measures_both_runtimes(job):
    task, _, folder = job
    result = bench_artifact(folder, FAST, lambda what, share: None)
    assert [runtime.name for runtime in result.runtimes] == ["onnxruntime", "executorch"]
    generates = task in ("automatic-speech-recognition", "text2text-generation", "image-to-text")
    for runtime in result.runtimes:
        size = 8 if task.startswith("text") or task == "feature-extraction" else 1
        assert [found.tokens for found in runtime.prefill] == [size]
        assert [found.past for found in runtime.decode] == ([size] if generates else [])
        assert runtime.call_seconds(size).median > 0
    from rich.console import Console

    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render_bench(result))
    text = console.export_text()
    assert ("next tokens" in text) == generates and ("one call" in text) != generates


def test_verify_finds_what_the_job_found(job, qexport):
    _, recipe, folder = job
    done = qexport("verify", folder, "--recipe", recipe, "--json")
    assert done.code == 0, done.err
    again = json.loads(done.out)
    first = read_manifest(folder)["summary"]["parity"]
    assert [rung["name"] for rung in again["rungs"]] == [rung["name"] for rung in first["rungs"]]
    assert again["passed"]
