"""`qexport bundle`: what lies in the app's assets afterwards, and a whole sentence for everything that is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_jobs import ROOT, contents

from exporter.artifacts import describe_files
from exporter.bundling.app import MODELS
from exporter.bundling.chat_format import Template, Undone, read_template, take_apart

LICENCE = "Do as you like.\n"
SMOLLM = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}"
    "{%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}{%- set loop_messages = messages[1:] -%}"
    "{%- else -%}{%- set first_user_prefix = '' -%}{%- set loop_messages = messages -%}{%- endif -%}"
    "{%- for message in loop_messages -%}{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{%- endif -%}"
    "{%- if (message['role'] == 'assistant') -%}{%- set role = 'model' -%}{%- else -%}"
    "{%- set role = message['role'] -%}{%- endif -%}"
    "{{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else '') }}"
    "{{ message['content'] | trim }}{{ '<end_of_turn>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"
)
QWEN = (
    "{%- if messages[0]['role'] == 'system' %}{{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>system\nYou are Qwen.<|im_end|>\n' }}{%- endif %}{%- for message in messages %}"
    "{%- if (message.role == 'user') or (message.role == 'system' and not loop.first) "
    "or (message.role == 'assistant' and not message.tool_calls) %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content + '</s>' }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)


@pytest.fixture
def app(tmp_path) -> Path:
    """The app without its sources."""
    (tmp_path / "app" / "app").mkdir(parents=True)
    shutil.copy(ROOT / "android_demo/app/runtimes.json", tmp_path / "app" / "app")
    return tmp_path / "app"


@pytest.fixture
def artifact(tiny_job, tmp_path) -> Path:
    """The tiny job's folder, to do harm to."""
    return shutil.copytree(tiny_job[1], tmp_path / "tiny")


@pytest.fixture
def licence(tmp_path) -> Path:
    (tmp_path / "terms.txt").write_text(LICENCE)
    return tmp_path / "terms.txt"


@pytest.fixture
def bundle(qexport, app, licence):
    """bundle(folder, …) with the app and a licence."""
    return lambda *given: qexport("bundle", *given, "--app", app, "--license", licence)


def edited(folder, change):
    """Change manifest.json, which holds no hash of itself."""
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    change(data["summary"])
    path.write_text(json.dumps(data))


def refused(done, app, message):
    assert (done.code, done.out) == (2, "")
    assert done.err.removeprefix("check …\n") == f"error: {message}\n"
    assert not list((app / MODELS).glob("**/*")) if (app / MODELS).exists() else True


# --- what is written


@pytest.mark.parametrize("runtime", ["onnxruntime", "executorch"])
def test_a_bundle_holds_what_the_app_reads(artifact, app, bundle, runtime):
    done = bundle(artifact, "--runtime", runtime)
    assert done.code == 0, done.err
    name, model = {"onnxruntime": ("tiny", "model.ort"), "executorch": ("tiny-executorch", "model.pte")}[
        runtime
    ]
    folder = app / MODELS / name
    data = json.loads((folder / "bundle.json").read_text())
    summary = json.loads((artifact / "manifest.json").read_text())["summary"]
    assert [path.name for path in (app / MODELS).iterdir()] == [name]
    assert data["files"] == [x for x in describe_files(folder) if x["path"] != "bundle.json"]
    assert [x["path"] for x in data["files"]] == ["LICENSE.txt", "golden.json", model, "tokenizer.json"]
    assert (data["schema"], data["id"], data["task"], data["runtime"]) == (
        1,
        name,
        "text-generation",
        runtime,
    )
    assert data["min_runtime"] == summary["targets"][runtime]["min_runtime"]
    assert (data["model"], data["abis"], data["golden"]) == (model, ["arm64-v8a"], "golden.json")
    assert (folder / data["license"]).read_text() == LICENCE
    assert "variant" not in data and "pipeline" not in data
    size = (folder / model).stat().st_size
    # two layers of keys and values, two heads of 16 numbers, 4 bytes each
    assert data["memory"] == {"load_bytes": int(1.75 * size), "kv_bytes_per_token": 2 * 2 * 2 * 16 * 4}
    assert data["text"] == {
        "tokenizer": "tokenizer.json",
        "context": 256,
        "bos_id": 0,
        "add_bos": False,
        "stop_ids": [1],
        "vocab": 264,
        "layers": 2,
        "kv_heads": 2,
        "head_size": 16,
        "chat": {
            "begin": "",
            "default_system": None,
            "system": ["<s>system: ", "</s>"],
            "user": ["<s>user: ", "</s>"],
            "assistant": ["<s>assistant: ", "</s>"],
            "generation": "<s>assistant: ",
            "trim": False,
        },
    }
    golden = json.loads((folder / "golden.json").read_text())
    (measured,) = json.loads((artifact / "golden/vectors.json").read_text())["prompts"]
    assert (golden["schema"], golden["columns"]) == (1, ["x86_64"])
    (prompt,) = golden["prompts"]
    assert prompt == {
        "text": "Hi",
        "input_ids": measured["input_ids"],
        "values": {"x86_64": measured["models"][runtime]},
    }
    assert golden["tolerance"]["logits"] >= 0.01 and "from float activations" in golden["tolerance"]["why"]
    assert str(app / "README.md") in done.out.replace("\n", "")


def test_the_one_file_computes_what_the_model_does(artifact, app, bundle):
    """Loaded from the file alone, its first logits are those of model.onnx."""
    import onnxruntime

    assert bundle(artifact).code == 0
    golden = json.loads((app / MODELS / "tiny/golden.json").read_text())["prompts"][0]
    session = onnxruntime.InferenceSession(app / MODELS / "tiny/model.ort")
    ids = np.asarray([golden["input_ids"]], np.int64)
    caches = {
        x.name: np.zeros((1, x.shape[1], 0, x.shape[3]), np.float32)
        for x in session.get_inputs()
        if x.name.startswith("past")
    }
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), **caches}
    row = session.run(["logits"], feeds)[0][0, -1]
    values = golden["values"]["x86_64"]
    assert np.abs(row[values["top_ids"]] - values["top_logits"]).max() < 1e-3


def test_an_older_runtime_meets_no_attribute_that_model_onnx_does_not_say(artifact, app, bundle):
    from exporter.backends.ort.ort_format import _graph, _kind, _nodes, _said

    assert bundle(artifact).code == 0
    said = _said(artifact / "onnxruntime/model.onnx")
    nodes = list(_nodes(_graph((app / MODELS / "tiny/model.ort").read_bytes())))
    found = {(_kind(n), n.Attributes(k).Name().decode()) for n in nodes for k in range(n.AttributesLength())}
    attention = ("com.microsoft", "GroupQueryAttention")
    assert {name for kind, name in found if kind == attention} == said[attention]
    assert not [entry for entry in found if entry[1] not in said.get(entry[0], {entry[1]})]


def test_executorch_alone_tells_the_models_sizes(artifact, app, bundle):
    shutil.rmtree(artifact / "onnxruntime")
    path = artifact / "manifest.json"
    data = json.loads(path.read_text())
    data["files"] = [entry for entry in data["files"] if not entry["path"].startswith("onnxruntime")]
    del data["summary"]["targets"]["onnxruntime"]
    path.write_text(json.dumps(data))
    assert bundle(artifact).code == 0
    text = json.loads((app / MODELS / "tiny-executorch/bundle.json").read_text())["text"]
    assert [text[k] for k in ("vocab", "layers", "kv_heads", "head_size", "stop_ids")] == [264, 2, 2, 16, [1]]


def test_a_bundle_is_replaced_with_force_only(artifact, app, bundle):
    assert bundle(artifact).code == 0
    place = app / MODELS / "tiny"
    before = contents(place)
    done = bundle(artifact)
    assert done.code == 2
    assert done.err == f"check …\nerror: {place}: is there already; pass --force to replace it\n"
    assert contents(place) == before
    (place / "old.txt").write_text("of another time")
    assert bundle(artifact, "--force").code == 0
    assert contents(place).keys() == before.keys()


def test_a_failure_on_the_way_leaves_what_was_there(artifact, app, bundle, monkeypatch):
    assert bundle(artifact).code == 0
    before = contents(app / MODELS)
    monkeypatch.setattr("exporter.bundling.writing._ranked", lambda *given: 1 / 0)
    assert bundle(artifact, "--force").code == 2
    assert contents(app / MODELS) == before


def test_variants_are_ranked_by_size(artifact, tmp_path, app, bundle):
    larger = shutil.copytree(artifact, tmp_path / "large")
    done = bundle(larger, artifact, "--variants")
    assert done.code == 0, done.err
    found = {
        path.parent.name: json.loads(path.read_text())["variant"]
        for path in (app / MODELS).glob("*/bundle.json")
    }
    group = found["tiny"]["group"]
    assert sorted(variant["rank"] for variant in found.values()) == [0, 1]
    assert {variant["group"] for variant in found.values()} == {group}
    third = shutil.copytree(artifact, tmp_path / "third")
    fourth = shutil.copytree(artifact, tmp_path / "fourth")
    done = bundle(third, fourth, "--variants")
    assert done.err == (
        f"check …\nerror: {app / MODELS / 'large'}: is a variant of {group} from an earlier call; name its artifact "
        "too, so that all are ranked together, or delete the folder\n"
    )
    assert not (app / MODELS / "third").exists()


# --- what is refused


def test_a_changed_file(artifact, app, bundle):
    with (artifact / "executorch/model.pte").open("r+b") as file:
        file.seek(1000)
        byte = file.read(1)
        file.seek(1000)
        file.write(bytes([byte[0] ^ 1]))
    refused(
        bundle(artifact),
        app,
        f"{artifact}: executorch/model.pte: missing, or not as written (manifest.json has another sha256); "
        "export again with --force",
    )


def test_an_operator_that_the_apps_runtime_lacks(artifact, app, bundle):
    path = app / "app/runtimes.json"
    data = json.loads(path.read_text())
    kernels = data["runtimes"]["onnxruntime"]["operators"]
    kernels["com.microsoft"] = kernels["com.microsoft"].replace(" MatMulNBits ", " ")
    path.write_text(json.dumps(data))
    refused(
        bundle(artifact),
        app,
        f"{artifact}: uses com.microsoft::MatMulNBits, which onnxruntime 1.29.0 of the app does not have; ship one "
        f"that has and write its operators to {path} (scripts/runtime_operators.py)",
    )


def test_no_licence(artifact, app, qexport, tiny_checkpoint):
    refused(
        qexport("bundle", artifact, "--app", app),
        app,
        f"{artifact}: no licence is known for its model ({tiny_checkpoint}): none lies beside the weights or in their "
        "package; pass --license FILE with the text that the model's publisher states",
    )


def test_a_licence_beside_the_weights(artifact, app, qexport, tmp_path):
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    (checkpoint / "LICENSE.md").write_text(LICENCE)
    edited(artifact, lambda summary: summary["model"].update(source=str(checkpoint)))
    assert qexport("bundle", artifact, "--app", app).code == 0
    assert (app / MODELS / "tiny/LICENSE.txt").read_text() == LICENCE


REFUSALS = {
    "runtime too old": (
        lambda s: s["targets"]["onnxruntime"].update(min_runtime="1.31"),
        "{artifact}: needs onnxruntime 1.31 or newer, the app ships 1.29.0; ship a newer one "
        '({app}/app/runtimes.json), or export again with min_runtime: "1.29" in the recipe\'s target',
    ),
    "another ABI": (
        lambda s: s["plan"]["targets"][0]["target"].update(abi="x86_64"),
        "{artifact}: is made for x86_64, the app ships onnxruntime for arm64-v8a; export again with abi: arm64-v8a in "
        "the recipe's target",
    ),
    "a task without a page": (
        lambda s: s["model"].update(task="image-to-text"),
        "{artifact}: the app has no page for image-to-text; it has pages for text-generation, feature-extraction, "
        "text-classification, automatic-speech-recognition",
    ),
    "an NPU": (
        lambda s: s.update(targets={"onnxruntime-qnn": s["targets"]["onnxruntime"]}),
        "{artifact}: is made for an NPU (onnxruntime-qnn), the app runs on the CPU; export with the target "
        "{{backend: onnxruntime}} or {{backend: executorch}}",
    ),
    "failed parity": (
        lambda s: s["parity"].update(passed=False),
        "{artifact}: its parity failed, so it is not to be shipped; see {artifact}/report.html, change the recipe and "
        "export again",
    ),
    "an int8 cache": (
        lambda s: s["plan"]["targets"][0]["target"].update(kv_cache="int8"),
        "{artifact}: has a KV cache of int8, the app's engine for onnxruntime keeps float32; export again with "
        "kv_cache: float32, or pass --runtime executorch",
    ),
    "a window": (
        lambda s: s["targets"]["onnxruntime"].update(sliding_window={"tokens_kept": 528}),
        "{artifact}: some layers' KV cache holds 528 tokens (a sliding window), the app's engine for onnxruntime makes "
        'all of one length; export again with min_runtime: "1.28", which keeps every token, or '
        "pass --runtime executorch",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_does_not_fit(artifact, app, bundle, case):
    change, message = REFUSALS[case]
    edited(artifact, change)
    refused(bundle(artifact), app, message.format(artifact=artifact, app=app))


def test_a_runtime_that_is_not_there(artifact, app, bundle):
    edited(artifact, lambda summary: summary["targets"].pop("executorch"))
    refused(
        bundle(artifact, "--runtime", "executorch"),
        app,
        f"{artifact}: holds no files for executorch, only for onnxruntime; leave --runtime out, or add "
        "{backend: executorch} to the recipe's targets and export again",
    )


def test_two_of_one_name(artifact, app, bundle, tmp_path):
    other = shutil.copytree(artifact, tmp_path / "b" / "Tiny")
    refused(
        bundle(artifact, other),
        app,
        f"{other}: would be called 'tiny' in the app, as {artifact}; rename one of the two folders",
    )


def test_variants_of_nothing(artifact, app, bundle):
    from exporter.bundling.artifact import open_artifact

    group = open_artifact(artifact, None).group
    refused(
        bundle(artifact, "--variants"),
        app,
        f"--variants needs two or more artifacts of one model's weights; given: {artifact} ({group}). Name them "
        "together, or leave --variants out",
    )


def test_places_that_are_not_ours(artifact, app, bundle, qexport, tmp_path, licence):
    stray = app / MODELS / "tiny"
    stray.mkdir(parents=True)
    done = bundle(artifact, "--force")
    assert done.err == f"check …\nerror: {stray}: is in the way and no bundle of qexport; move it away\n"
    done = qexport("bundle", artifact, "--app", tmp_path / "elsewhere", "--license", licence)
    assert (done.code, done.err) == (
        2,
        f"error: {tmp_path / 'elsewhere'}: is not the app, it has no app/runtimes.json; pass --app with the path of "
        "android_demo\n",
    )
    (app / "app/runtimes.json").write_text('{"schema": 2}')
    done = bundle(artifact)
    assert done.err == (
        f"error: {app / 'app/runtimes.json'}: schema 2, this qexport reads 1; take app and qexport of one version\n"
    )
    (app / "app/runtimes.json").write_text('{"schema": 1}')
    done = bundle(artifact)
    assert done.err == (
        f"error: {app / 'app/runtimes.json'}: damaged (KeyError: 'runtimes'); take it from the repository again\n"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read (No such file or directory); pass --license FILE with the licence's text"),
        (b" \n", "is empty; pass --license FILE with the licence's text"),
        (b"\xff\xfe", "is not UTF-8 text (invalid start byte); pass --license FILE"),
    ],
)
def test_a_licence_that_is_none(artifact, app, bundle, licence, content, message):
    licence.unlink() if content is None else licence.write_bytes(content)
    refused(bundle(artifact), app, f"{licence}: {message}")


# --- chat templates


@pytest.mark.parametrize(
    ("source", "tokens", "expected"),
    [
        (
            SMOLLM,
            {"bos_token": "<|im_start|>"},
            (
                "",
                "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
                "<|im_start|>system\n",
                False,
            ),
        ),
        (QWEN, {}, ("", "You are Qwen.", "<|im_start|>system\n", False)),
        (GEMMA, {"bos_token": "<bos>"}, ("<bos>", None, None, True)),
        (MISTRAL, {"bos_token": "<s>"}, ("<s>", None, None, False)),
    ],
)
def test_real_templates_come_apart(source, tokens, expected):
    template = Template(source, tokens)
    chat, notes = take_apart(template)
    begin, default, system, trim = expected
    assert (chat.begin, chat.default_system, chat.trim) == (begin, default, trim)
    assert (chat.system[0] if chat.system else None) == system
    assert bool(notes) == (system is None)
    turns = [("user", "Ünïcode 🎉?"), ("assistant", "Да."), ("user", "再见")]
    assert chat.render(turns) == template.render(turns)
    if chat.system:
        turns = [("system", "Kurz."), *turns]
        assert chat.render(turns) == template.render(turns)


def test_it_renders_as_transformers_does(tiny_checkpoint):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    chat, _ = take_apart(read_template(tiny_checkpoint))
    expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert chat.render([(m["role"], m["content"]) for m in messages]) == expected


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (
            "{{ strftime_now('%d') }}{% for m in messages %}{{ m.content }}{% endfor %}",
            "the template writes today's date, which is not known when the app is built",
        ),
        (
            "{% for m in messages %}[{{ m.role }}{{ loop.length }}]{{ m.content }}{% endfor %}",
            "what stands before the first question is not what stands before the next one",
        ),
        (
            "{% for m in messages %}[{{ m.role }}]{{ m.content | upper }}{% endfor %}",
            "a turn's content stands 0 times in what the template writes",
        ),
        (
            "{% for m in messages %}[{{ m.role }}]{{ m.content | replace('capital', 'town') }}{% endfor %}",
            "a conversation of 1 turns differs: the template writes 'town of France?' where its pieces give "
            "'capital of France?'",
        ),
    ],
)
def test_what_does_not_come_apart(source, reason):
    with pytest.raises(Undone) as caught:
        take_apart(Template(source))
    assert str(caught.value) == reason


def test_thoughts_that_a_template_leaves_out_are_told():
    source = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content.split('</think>')[-1].lstrip('\n') "
        "if m.role == 'assistant' and '</think>' in m.content else m.content }}[/]{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    _, notes = take_apart(Template(source))
    assert notes == ["the template leaves <think> … </think> out of earlier answers; the app keeps it in"]


def test_without_a_template_the_app_continues_text(artifact, app, bundle):
    for runtime in ("onnxruntime", "executorch"):
        (artifact / runtime / "chat_template.jinja").unlink()
    path = artifact / "manifest.json"
    data = json.loads(path.read_text())
    data["files"] = [entry for entry in data["files"] if not entry["path"].endswith(".jinja")]
    path.write_text(json.dumps(data))
    done = bundle(artifact)
    assert done.code == 0, done.err
    assert "tiny: no chat template comes with the model: the app continues plain text" in done.out
    assert json.loads((app / MODELS / "tiny/bundle.json").read_text())["text"]["chat"] is None
