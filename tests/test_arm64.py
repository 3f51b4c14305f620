"""Golden values replayed in the runtimes themselves: on this host, and by ARM64's builds under emulation."""

import json
import os
import shutil

import numpy as np
import pytest
from tiny_jobs import write_recipe
from tiny_models import gemma_checkpoint

from exporter.artifacts import describe_files, write_manifest
from exporter.backends import get_backend
from exporter.backends.ort.ort_format import write_ort
from exporter.bundling.artifact import open_artifact
from exporter.bundling.columns import column_path
from exporter.bundling.golden import golden, tolerance
from exporter.bundling.speech import speech_golden, speech_model
from exporter.folders import cache_folder
from exporter.pipeline import plan_recipe
from exporter.recipe import load_recipe
from exporter.replay.arm64 import archives, folder
from exporter.replay.machines import Host
from exporter.replay.protocol import Kept, ProcessFailed
from exporter.replay.runners import EtText
from exporter.replay.settings import CPUS

pytestmark = pytest.mark.real

TASKS = ("text-classification", "feature-extraction", "image-classification", "automatic-speech-recognition")
ELF_ARM64 = 183  # e_machine


@pytest.fixture
def artifact(tiny_job, tmp_path):
    """int4 and int8 weights, int8 activations, both runtimes; to do harm to."""
    if shutil.which("g++") is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("g++: not on this machine")
    return shutil.copytree(tiny_job[1], tmp_path / "tiny")


@pytest.fixture
def arm(qexport):
    """arm(folder, …): verify --abi arm64. Without CI=true nothing is downloaded behind a person's back."""
    if os.environ.get("CI") == "true":
        return lambda *given: qexport("verify", *given, "--abi", "arm64", "--download")
    if not all(
        folder(part).is_dir() for part in ("emulator", "python", "onnxruntime", "executorch", "compiler")
    ):
        pytest.skip(f"{archives()}: not fetched (qexport verify DIR --abi arm64 --download)")
    return lambda *given: qexport("verify", *given, "--abi", "arm64")


def described(artifact):
    """A manifest of the files as they are now."""
    path = artifact / "manifest.json"
    data = json.loads(path.read_text())
    path.unlink()
    for target in data["summary"]["targets"].values():
        target["files"] = describe_files(artifact / target["folder"])
    write_manifest(artifact, {key: value for key, value in data.items() if key not in ("format", "files")})


def test_on_this_host(artifact, qexport):
    done = qexport("verify", artifact, "--abi", "x86_64", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert (found["passed"], found["column"], found["on"]) == (True, None, "this host")
    onnx, program = found["files"]
    assert (onnx["file"], program["file"]) == ("onnxruntime/model.onnx", "executorch/model.pte")
    assert onnx["same_tokens"] == onnx["tokens"] == 8 and onnx["farthest"] < 1e-3
    assert program["farthest"] <= program["tolerance"]["logits"]
    done = qexport("verify", artifact, "--abi", "x86_64")
    (line,) = [line for line in done.out.splitlines() if "model.onnx" in line]
    assert (
        line.split()[:7] == ["onnxruntime/model.onnx", "1", "of", "1", "8", "of", "8"]
        and line.split()[-1] == "passed"
    )
    assert len(line) <= 80


def test_after_one_token_the_runner_gives_pythons_logits_to_the_last_bit(artifact):
    """Its own attention has nothing to sum there, so that every other kernel is the same."""
    place = artifact / "executorch"
    python = get_backend("executorch").open_text(place)
    with Host().open("executorch", {"model": place / "model.pte"}) as remote:
        runner = EtText(remote)
        for token in (3, 40, 7):
            runner.reset()
            python.reset()
            assert np.array_equal(runner.feed([token]), python.forward([token])[-1])
        assert np.allclose(runner.feed([5, 9]), python.forward([5, 9])[-1], atol=0.05)


def test_sliding_windows_in_the_runner(artifact, tmp_path):
    """Rings of keys and values, and masks: more tokens than a ring has places, at once and one by one."""
    gemma_checkpoint(tmp_path / "model")
    recipe = write_recipe(
        tmp_path,
        tmp_path / "model",
        rules='  - {match: "**", scheme: float}',
        targets="[{backend: executorch, max_context: 256}]",
    )
    model, plan = plan_recipe(load_recipe(recipe))
    backend = get_backend("executorch")
    skeleton = model.skeleton({layer.name: layer.scheme for layer in plan.layers}, None)
    facts = backend.lower(skeleton, plan.targets[0], tmp_path, lambda what, share: None)
    assert "llama::update_cache_with_indices.out" in facts["operators"]
    tokens = [number * 37 % 96 for number in range(120)]
    python = backend.open_text(tmp_path)
    with Host().open("executorch", {"model": tmp_path / "model.pte"}) as remote:
        runner = EtText(remote)
        assert np.allclose(runner.feed(tokens[:100]), python.forward(tokens[:100])[-1], atol=1e-4)
        for token in tokens[100:]:
            assert np.allclose(runner.feed([token]), python.forward([token])[-1], atol=1e-4)


@pytest.mark.parametrize("cpu", CPUS)
def test_on_arm(artifact, arm, cpu):
    write_ort(artifact / "onnxruntime", artifact / "onnxruntime" / "model.ort")  # as `ort_format: true` does
    described(artifact)
    done = arm(artifact, "--cpu", cpu, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["passed"] and found["on"] == f"{cpu}, QEMU 10.0.13"
    assert found["versions"] == {"onnxruntime": "1.32.0", "executorch": "1.5.1"}
    names = ["onnxruntime/model.onnx", "onnxruntime/model.ort", "executorch/model.pte"]
    assert [one["file"] for one in found["files"]] == names
    for one in found["files"]:
        assert one["examples"] == 1 and one["tokens"] == 8
        assert one["farthest"] <= one["tolerance"]["logits"]
    column = column_path(artifact, "arm64-v8a")
    assert found["column"] == str(column)
    for runtime in ("onnxruntime", "executorch"):
        values = golden(open_artifact(artifact, runtime))
        assert values["columns"] == ["x86_64", "arm64-v8a"]
        here, there = (values["prompts"][0]["values"][name] for name in values["columns"])
        assert len(there["top_ids"]) == len(there["top_logits"]) == 16
        assert len(there["greedy"]) == 8 <= len(here["greedy"])
    measured = json.loads(column.read_text())["runtimes"]["onnxruntime"]["measured"]
    assert measured["on"] == f"{cpu}, QEMU 10.0.13" and measured["of"] == names[1:]
    programs = (folder("python") / "usr/bin/python3.11", *(cache_folder() / "et_run").glob("arm64-v8a-*"))
    assert {path.read_bytes()[18] for path in programs} == {ELF_ARM64}


@pytest.mark.parametrize("task", TASKS)
def test_other_tasks(task, task_job, tmp_path, qexport, arm):
    """On this host and on ARM64; tiny random models, whose outputs are judged as those of large ones are."""
    folder = shutil.copytree(task_job(task).folder, tmp_path / "job")
    for verify in (lambda *given: qexport("verify", *given, "--abi", "x86_64"), arm):
        done = verify(folder, "--json")
        assert done.code == 0, done.err
        files = json.loads(done.out)["files"]
        assert [one["runtime"] for one in files] == ["onnxruntime", "executorch"]
        assert all(one["examples"] > 0 for one in files)
    opened = open_artifact(folder, "onnxruntime")
    if task == "automatic-speech-recognition":
        values = speech_golden(opened, speech_model(opened))[0]
        (clip, *_) = values["clips"]
        here, there = (clip["values"][column] for column in ("x86_64", "arm64-v8a"))
        assert 0 < len(there["greedy"]) <= len(here["greedy"])
        assert there["top_ids"][0] in here["top_ids"]
    elif task in ("text-classification", "feature-extraction"):
        values = golden(opened)
        assert all(example["values"].keys() == {"x86_64", "arm64-v8a"} for example in values["examples"])
    else:
        return  # the app has no page for it
    assert values["columns"] == ["x86_64", "arm64-v8a"]


def test_values_that_arm_does_not_give(artifact, arm):
    """Golden values of another model: nothing is written, exit code 1."""
    vectors = artifact / "golden" / "vectors.json"
    data = json.loads(vectors.read_text())
    limit = tolerance(open_artifact(artifact, "onnxruntime"))["logits"]
    models = data["prompts"][0]["models"]
    number = next(n for n in models["onnxruntime"]["top_ids"] if n in models["dequantised"]["top_ids"])
    for name in (
        "onnxruntime",
        "dequantised",
    ):  # alike, since the tolerance comes from how far they lie apart
        models[name]["top_logits"][models[name]["top_ids"].index(number)] += 3 * limit
    vectors.write_text(json.dumps(data))
    described(artifact)
    done = arm(artifact, "--steps", "2")
    assert done.code == 1
    line = "error: golden values differ on cortex-a76, QEMU 10.0.13:"
    assert line in done.err.splitlines()
    last = done.err.splitlines()[-1]
    prompt = data["prompts"][0]["prompt"]
    assert last.startswith(f"  - onnxruntime/model.onnx, {prompt!r}: token {number} has logit ")
    assert "column   not written: not everything lies within what is allowed" in done.out
    assert not column_path(artifact, "arm64-v8a").exists()


def test_a_part_of_the_examples(task_job, arm, tmp_path):
    """A column is of all, or none is written."""
    folder = shutil.copytree(task_job("text-classification").folder, tmp_path / "job")
    done = arm(folder, "--examples", "1")
    assert done.code == 0, done.err
    assert "column   not written: not every example was run" in done.out
    assert not column_path(folder, "arm64-v8a").exists()


@pytest.mark.parametrize(
    ("method", "inputs", "message"),
    [
        ("forward", {"0": np.zeros((1, 1), np.int64)}, "forward: ExecuTorch's error "),
        ("sideways", {}, "sideways: ExecuTorch's error "),
        ("forward", {"1": np.zeros((1, 1), np.int64)}, "input 1 comes where 0 should"),
        ("forward", {"0": Kept("encoder.0")}, "nothing was kept as encoder.0"),
    ],
)
def test_what_the_runner_refuses(artifact, method, inputs, message):
    with Host().open("executorch", {"model": artifact / "executorch" / "model.pte"}) as remote:
        with pytest.raises(ProcessFailed) as caught:
            remote.call(method, inputs, ["0"])
        assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("runtime", "message"), [("executorch", "ExecuTorch does not load it"), ("onnxruntime", "")]
)
def test_a_file_that_is_no_model(artifact, runtime, message):
    path = artifact / "broken.onnx"
    path.write_bytes(b"nothing" * 100)
    with Host().open(runtime, {"model": path}) as remote, pytest.raises(ProcessFailed) as caught:
        remote.call("model", {}, ["logits"])
    assert message in str(caught.value) and "broken.onnx" in str(caught.value)
