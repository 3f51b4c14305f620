"""The demo's engine on a tiny model, and what it says where it is not the bundle's."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from android_java import java_command
from tiny_jobs import ended, started, write_recipe

from exporter.backends import get_backend

pytestmark = pytest.mark.real

ROOT = Path(__file__).parent.parent
TARGETS = "[{backend: onnxruntime, ort_format: true}, {backend: executorch, delegate: xnnpack}]"
STEPS = 12


@pytest.fixture(scope="module")
def artifact(tiny_checkpoint, tmp_path_factory):
    """A float model: sums in another order move no token of it."""
    place = tmp_path_factory.mktemp("artifact")
    recipe = write_recipe(place, tiny_checkpoint, rules='  - {match: "**", scheme: float}', targets=TARGETS)
    done = ended(started("--recipe", recipe, "--out", place / "out", cache=place / "cache"))
    assert done.code == 0, done.err
    return place / "out"


@pytest.fixture(scope="module")
def java(tmp_path_factory):
    return java_command(tmp_path_factory.mktemp("build"))


@pytest.fixture
def bundle(artifact, tmp_path):
    """A function that writes a bundle's folder: of the model's bytes, with other values in its text section."""
    config = json.loads((artifact / "onnxruntime" / "genai_config.json").read_text(encoding="utf-8"))["model"]
    whole = (artifact / "onnxruntime" / "model.ort").read_bytes()

    def write(model=whole, **changes):
        shutil.copy(artifact / "onnxruntime" / "tokenizer.json", tmp_path)
        (tmp_path / "model.ort").write_bytes(model)
        files = []
        for name in ("model.ort", "tokenizer.json"):
            content = (tmp_path / name).read_bytes()
            sha256 = hashlib.sha256(content).hexdigest()
            files.append({"path": name, "bytes": len(content), "sha256": sha256})
        decoder = config["decoder"]
        text = {
            "tokenizer": "tokenizer.json", "context": config["context_length"], "bos_id": None, "add_bos": False,
            "stop_ids": [], "vocab": config["vocab_size"], "layers": decoder["num_hidden_layers"],
            "kv_heads": decoder["num_key_value_heads"], "head_size": decoder["head_size"], "chat": None,
        }  # fmt: skip
        about = {
            "schema": 1, "id": "tiny", "title": "tiny", "task": "text-generation", "runtime": "onnxruntime",
            "min_runtime": "1.23", "operators": [], "abis": ["arm64-v8a"], "model": "model.ort", "files": files,
            "memory": {"load_bytes": 1, "kv_bytes_per_token": 1}, "license": None, "golden": "tokenizer.json",
            "text": {**text, **changes},
        }  # fmt: skip
        (tmp_path / "bundle.json").write_text(json.dumps(about), encoding="utf-8")
        return tmp_path

    write.whole, write.decoder = whole, config["decoder"]
    return write


def chat(java, folder, steps=STEPS, line="Hello"):
    command = [*java, "chat", folder, str(steps), "1"]
    return subprocess.run(command, input=line + "\n", capture_output=True, text=True)


def greedy(runner, prompt, steps):
    """Tokens, and the logits after the prompt."""
    runner.reset()
    first = row = runner.forward(prompt)[-1]
    made = []
    for _ in range(steps):
        made.append(int(row.argmax()))
        row = runner.forward(made[-1:])[-1]
    return made, first


def test_a_cache_that_is_larger_than_javas_heap(java, artifact, bundle):
    """The whole context has room from the start, and takes memory where tokens come."""
    context = 400_000
    each = 2 * 4 * bundle.decoder["num_hidden_layers"] * bundle.decoder["num_key_value_heads"]
    assert context * each * bundle.decoder["head_size"] > 128 * 1024 * 1024  # twice the heap
    done = chat(java, bundle(context=context))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    runner = get_backend("onnxruntime").open_text(artifact / "onnxruntime")
    assert found["answer"] == greedy(runner, found["prompt"], STEPS)[0]
    assert "WARNING" not in done.stdout + done.stderr  # of -Xcheck:jni


def test_a_context_that_is_full(java, bundle):
    done = chat(java, bundle(context=8))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "1 tokens after 8 do not fit: at least 1, and at most 8 together; shorten the text or start a new chat.\n"
    )


@pytest.mark.parametrize("kept", [0.999, 0.5, 0.001])
def test_a_model_that_is_cut_off(java, bundle, kept):
    done = chat(java, bundle(bundle.whole[: int(len(bundle.whole) * kept)]))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("ONNX Runtime does not open the model: ")


@pytest.mark.parametrize(
    ("key", "more", "message"),
    [
        ("vocab", -1, "The model's output logits is FLOAT [-1, 1, "),
        ("layers", -1, "The model has 6 inputs, a language model of 1 layers has 4"),
        ("layers", 1, "The model has no input past_key_values.2.key"),
        ("kv_heads", 1, "The model's input past_key_values.0.key is FLOAT [-1, "),
        ("head_size", 1, "The model's input past_key_values.0.key is FLOAT [-1, "),
    ],
)
def test_another_models_bundle(java, bundle, key, more, message):
    right = json.loads((bundle() / "bundle.json").read_text(encoding="utf-8"))["text"][key]
    done = chat(java, bundle(**{key: right + more}))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(message)
