"""The whole job for tasks other than text generation, on tiny random checkpoints: files, ladder, report, bench."""

import json

import encoder_checkpoints
import numpy as np
import pytest
import scipy.io.wavfile
import seq2seq_checkpoints
from tiny_jobs import write_recipe

from exporter.artifacts import read_manifest
from exporter.backends import get_backend
from exporter.benching import BenchSettings, bench_artifact, render_bench

KINDS = {  # task -> who writes its checkpoint, and which
    "text-classification": (encoder_checkpoints, "no types"),
    "feature-extraction": (encoder_checkpoints, "sentence"),
    "image-classification": (encoder_checkpoints, "picture"),
    "automatic-speech-recognition": (seq2seq_checkpoints, "speech"),
    "text2text-generation": (seq2seq_checkpoints, "absolute"),
    "image-to-text": (seq2seq_checkpoints, "picture"),
}
TARGETS = "[{backend: onnxruntime, max_context: 32}, {backend: executorch, max_context: 32}]"
FAST = BenchSettings(threads=1, repeats=1, calls=(8,), steps=2, starts=1, prompt=8, bandwidth_bytes=2**24)
# tables that are read as numbers, or are too small to be worth it
FLOAT_TABLES = ("position_embeddings", "token_type_embeddings", "embed_positions", "wpe")


def rules_for(layers):
    """8 bits for everything but convolutions and FLOAT_TABLES; a rule must match something."""
    last = {layer.name.rpartition(".")[2] for layer in layers}
    lines = ['  - {match: "**", kind: conv, scheme: float}'] * any(layer.kind == "conv" for layer in layers)
    lines += [f'  - {{match: "**.{name}", scheme: float}}' for name in FLOAT_TABLES if name in last]
    return "\n".join([*lines, '  - {match: "**", scheme: w8}'])


def clips(folder):
    """Half a second of noise at the model's sampling rate, and at another one."""
    folder.mkdir()
    rows = []
    for number, rate in enumerate((16_000, 8_000)):
        sound = np.random.default_rng(number).normal(0, 3000, rate // 2).astype(np.int16)
        scipy.io.wavfile.write(folder / f"{number}.wav", rate, sound)
        rows.append(
            json.dumps({"file": f"{number}.wav", "text": "something was said", "language": "en"}) + "\n"
        )
    (folder / "said.jsonl").write_text("".join(rows))


@pytest.fixture(scope="module", params=KINDS)
def job(request, tmp_path_factory):
    """(task, recipe, folder) of a finished job, in this process."""
    from exporter.models.loading import open_model
    from exporter.pipeline import run
    from exporter.progress import Stages
    from exporter.recipe import load_recipe

    task = request.param
    writer, kind = KINDS[task]
    place = tmp_path_factory.mktemp(task)
    folder = writer.write(kind, place / "model") if (place / "model").mkdir() is None else None
    layers = open_model(str(folder), task, place).layers().layers
    gates = "{lowering: {max_rel: 0.001}}"
    if task == "automatic-speech-recognition":
        clips(place / "clips")
        gates = gates[:-1] + ", data: {audio: {folder: clips, transcripts: clips/said.jsonl}}}"
    recipe = write_recipe(place, folder, task=task, rules=rules_for(layers), targets=TARGETS, parity=gates)
    recipe.write_text(
        recipe.read_text().replace("  w4: {weights: int4, group: 32, activations: dynamic-int8}\n", "")
    )
    from rich.console import Console

    run(load_recipe(recipe), place / "out", False, Stages(Console(quiet=True)))
    return task, recipe, place / "out"


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
