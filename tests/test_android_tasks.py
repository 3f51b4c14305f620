"""Vectors and labels of the demo's classes on a JVM against ONNX Runtime's Python package on the same file."""

import json
import subprocess

import numpy as np
import pytest
from android_java import bundled, java_command, run_java
from conftest import fetch
from tiny_jobs import QEXPORT, ROOT

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

LINES = (
    "A cat sits on the mat.",
    "Eine Katze sitzt auf der Straße, naïve?",
    "Кошка сидит на коврике",
    "猫がマットの上に座っている",
    "القطة على البساط",
    "👩‍👩‍👧 №5 ½",
    "the quick brown fox jumps over the lazy dog " * 60,
)


@pytest.fixture(scope="module")
def java(tmp_path_factory):
    return java_command(tmp_path_factory.mktemp("build"))


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    """The recipe's job for ONNX Runtime alone, bundled."""
    place = tmp_path_factory.mktemp("minilm")
    fetch("scripts/fetch_models.py", "minilm")
    lines = (ROOT / "recipes/minilm_int8.yaml").read_text().splitlines(keepends=True)
    (place / "recipe.yaml").write_text("".join(line for line in lines if "backend: executorch" not in line))
    command = [QEXPORT, "--recipe", place / "recipe.yaml", "--out", place / "minilm"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return bundled(place / "minilm", place / "app")


def encoded(java, folder, lines):
    """What the JVM says of each line."""
    done = run_java(java, "encode", folder, given="".join(f"{line}\n" for line in lines))
    assert done.returncode == 0, done.stderr.decode()
    assert b"WARNING" not in done.stdout + done.stderr  # of -Xcheck:jni
    return [json.loads(line) for line in done.stdout.decode().splitlines()]


def in_python(folder, output, tokenizer, lines):
    """The output for each line, one at a time, tokens cut as transformers cuts them; and whether they were."""
    import onnxruntime

    encoder = json.loads((folder / "bundle.json").read_text())["encoder"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(folder / "model.ort", options)
    names = [port.name for port in session.get_inputs()]
    for line in lines:
        most = encoder["max_tokens"]
        tokens = tokenizer(line, truncation=True, max_length=most, return_tensors="np")
        feeds = {name: np.asarray(tokens[name], np.int64) for name in names}
        cut = tokens["input_ids"].shape[1] < len(tokenizer(line)["input_ids"])
        yield session.run([output], feeds)[0][0], cut


def test_minilms_vectors(java, minilm):
    from transformers import AutoTokenizer

    from exporter.folders import cache_folder

    tokenizer = AutoTokenizer.from_pretrained(cache_folder() / "models/minilm")
    wanted = in_python(minilm, "sentence_embedding", tokenizer, LINES)
    for found, (vector, cut) in zip(encoded(java, minilm, LINES), wanted, strict=True):
        assert np.abs(np.asarray(found["vector"], np.float32) - vector).max() < 1e-5
        assert found["cut"] == cut
    assert found["cut"]


def test_labels(java, task_job, tmp_path):
    from transformers import AutoTokenizer

    job = task_job("text-classification")
    folder = bundled(job.folder, tmp_path / "app")
    lines = ["w1 w2 w3", "w40", "w7 nobody w9", "w5 " * 40]
    tokenizer = AutoTokenizer.from_pretrained(job.recipe.parent / "model")
    wanted = in_python(folder, "logits", tokenizer, lines)
    for found, (logits, cut) in zip(encoded(java, folder, lines), wanted, strict=True):
        likely = np.exp(logits.astype(np.float64) - logits.max())
        likely /= likely.sum()
        assert found["cut"] == cut
        labels = found["labels"]
        assert np.allclose([labels[name] for name in ("no", "perhaps", "yes")], likely, atol=1e-6)
        assert list(labels.values()) == sorted(labels.values(), reverse=True)
    done = run_java(java, "replay", folder)
    assert done.returncode == 0, done.stdout.decode()


def test_the_golden_replay(java, minilm, tmp_path):
    """Passes on the real model; a vector that points elsewhere fails it."""
    import hashlib
    import shutil

    done = run_java(java, "replay", minilm)
    assert done.returncode == 0 and done.stdout.startswith(b"Self-test passed: 8 of 8 texts"), done.stdout
    broken = shutil.copytree(minilm, tmp_path / "broken")
    golden = json.loads((broken / "golden.json").read_text())
    vector = golden["examples"][3]["values"]["x86_64"]["vector"]
    golden["examples"][3]["values"]["x86_64"]["vector"] = vector[::-1]
    (broken / "golden.json").write_text(json.dumps(golden))
    bundle = json.loads((broken / "bundle.json").read_text())
    content = (broken / "golden.json").read_bytes()
    (entry,) = [file for file in bundle["files"] if file["path"] == "golden.json"]
    entry.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    (broken / "bundle.json").write_text(json.dumps(bundle))
    done = run_java(java, "replay", broken)
    assert done.returncode == 1
    assert done.stdout.startswith(b"Self-test FAILED: 7 of 8 texts passed\n")
    assert b"the vector's cosine with the golden one is " in done.stdout


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "width",
            383,
            "The model's output sentence_embedding is FLOAT [-1, 384], the bundle says FLOAT [-1, 383]",
        ),
        ("output", "logits", "The model has no output logits"),
        ("vocab", 99, "The tokenizer gives token 101, the model has 99; the two do not belong together"),
    ],
)
def test_another_models_bundle(java, minilm, tmp_path, key, value, message):
    place = tmp_path / "other"
    place.mkdir()
    for path in minilm.iterdir():
        (place / path.name).symlink_to(path)
    bundle = json.loads((minilm / "bundle.json").read_text())
    bundle["encoder"][key] = value
    (place / "bundle.json").unlink()
    (place / "bundle.json").write_text(json.dumps(bundle))
    done = run_java(java, "encode", place, given="A cat\n")
    assert done.returncode == 2 and done.stderr.decode().splitlines()[-1].startswith(message)
