"""`qexport bundle` for encoders and speech: what the app is told of them, and what it cannot run."""

import json
import shutil

import numpy as np
import pytest
from tiny_jobs import ROOT

from exporter.bundling.app import MODELS
from exporter.models.sources import file_sha256

TASKS = ("text-classification", "feature-extraction", "automatic-speech-recognition")


@pytest.fixture
def app(tmp_path):
    """The app without its sources."""
    (tmp_path / "app" / "app").mkdir(parents=True)
    shutil.copy(ROOT / "android_demo/app/runtimes.json", tmp_path / "app" / "app")
    return tmp_path / "app"


@pytest.fixture
def artifact(task_job, tmp_path):
    """artifact(task): the tiny job's folder, to do harm to."""
    return lambda task: shutil.copytree(task_job(task).folder, tmp_path / "tiny")


@pytest.fixture
def bundle(qexport, app, tmp_path):
    """bundle(folder, …) with the app and a licence."""
    (tmp_path / "terms.txt").write_text("Do as you like.\n")
    return lambda *given: qexport("bundle", *given, "--app", app, "--license", tmp_path / "terms.txt")


def written(app):
    folder = app / MODELS / "tiny"
    return tuple(json.loads((folder / name).read_text()) for name in ("bundle.json", "golden.json"))


def edited(folder, change):
    """Change manifest.json, which holds no hash of itself."""
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    change(data["summary"])
    path.write_text(json.dumps(data))


def names(data):
    return [file["path"] for file in data["files"]]


def test_labels(artifact, app, bundle):
    done = bundle(artifact("text-classification"))
    assert done.code == 0, done.err
    data, golden = written(app)
    assert names(data) == ["LICENSE.txt", "golden.json", "model.ort", "tokenizer.json"]
    assert data["encoder"] == {
        "tokenizer": "tokenizer.json",
        "max_tokens": 32,
        "vocab": 96,
        "width": 3,
        "output": "logits",
        "normalised": False,
        "labels": ["no", "perhaps", "yes"],
        "prefix": "",
        "query_prefix": "",
        "document_prefix": "",
    }
    assert "text" not in data and "speech" not in data and data["memory"]["kv_bytes_per_token"] == 0
    assert golden["tolerance"]["logits"] >= 0.01
    example = golden["examples"][0]
    assert example["input_ids"][0] == 2 and example["input_ids"][-1] == 3  # [CLS], [SEP]
    values = example["values"]["x86_64"]
    assert (
        sorted(values["top_ids"]) == [0, 1, 2] and sorted(values["top_logits"])[::-1] == values["top_logits"]
    )


def test_vectors_and_what_stands_before_a_text(artifact, app, bundle):
    folder = artifact("feature-extraction")
    prompts = {"query": "find: ", "document": "text: ", "same": "same: "}
    edited(folder, lambda s: s["pipeline"]["sentence"].update(prompts=prompts, default_prompt="same"))
    done = bundle(folder)
    assert done.code == 0, done.err
    data, golden = written(app)
    encoder = data["encoder"]
    assert (encoder["output"], encoder["width"], encoder["labels"]) == ("sentence_embedding", 32, [])
    assert encoder["normalised"]
    assert [encoder[f"{use}prefix"] for use in ("", "query_", "document_")] == ["same: ", "find: ", "text: "]
    assert 0.5 < golden["tolerance"]["cosine"] < 1
    for example in golden["examples"]:
        assert abs(np.linalg.norm(example["values"]["x86_64"]["vector"]) - 1) < 1e-5


def test_speech(artifact, app, bundle):
    folder = artifact("automatic-speech-recognition")
    done = bundle(folder)
    assert done.code == 0, done.err
    data, golden = written(app)
    models = ["decoder.ort", "encoder.ort"]
    files = ["LICENSE.txt", "clip0.wav", "clip1.wav", *models, "golden.json", "tokenizer.json"]
    assert names(data) == files
    assert data["model"] == "decoder.ort" and "com.microsoft::MatMulNBits" in data["operators"]
    speech = data["speech"]
    assert speech["mel"] == {
        "input": "input_features",
        "sampling_rate": 16000,
        "samples": 16000,
        "n_fft": 400,
        "hop": 160,
        "bins": 80,
        "highest_hz": 8000.0,
        "floor": 1e-10,
        "range": 8.0,
    }
    assert [speech[key] for key in ("prompt", "never", "stop_ids", "context", "vocab")] == [
        [2],
        [],
        [1],
        32,
        64,
    ]
    assert [speech[key] for key in ("layers", "heads", "head_size")] == [2, 2, 32]
    size = sum(file["bytes"] for file in data["files"] if file["path"] in models)
    # 50 positions: two layers of keys and values, and two heads' scores twice
    assert data["memory"]["load_bytes"] == int(1.75 * size) + 4 * (2 * 2 * 64 * 50 + 2 * 2 * 50 * 50)
    vectors = json.loads((folder / "golden/vectors.json").read_text())["examples"]
    tokens = {example["name"]: example["tokens"]["onnxruntime"] for example in vectors}
    for clip in golden["clips"]:
        values = clip["values"]["x86_64"]
        assert values["greedy"][: len(tokens[clip["text"]])] == tokens[clip["text"]]
        assert values["top_ids"][0] == values["greedy"][0] and len(values["top_logits"]) == 8


def both_ways(artifact, bundle, name, feeds):
    """What a graph's two files give by output: within 1e-3 of each other."""
    import onnxruntime

    found = []
    for path in (artifact / f"onnxruntime/{name}.onnx", bundle / f"{name}.ort"):
        session = onnxruntime.InferenceSession(path)
        names = [port.name for port in session.get_outputs()]
        found.append(dict(zip(names, session.run(None, feeds), strict=True)))
    for output, values in found[0].items():
        assert np.abs(values - found[1][output]).max() < 1e-3, output
    return found[1]


def test_the_two_files_write_what_the_artifact_does(artifact, app, bundle):
    folder = artifact("automatic-speech-recognition")
    assert bundle(folder).code == 0
    place = app / MODELS / "tiny"
    sound = {"input_features": np.load(folder / "golden/0.input_features.npy")}
    heard = both_ways(folder, place, "encoder", sound)
    past = {name.replace("present", "past"): value for name, value in heard.items() if "cross" in name}
    past |= {name.replace("cross", "self"): value[:, :, :0] for name, value in past.items()}
    both_ways(folder, place, "decoder", {"input_ids": np.asarray([[2]], np.int64), **past})


REFUSALS = {
    "vectors of tokens": (
        "feature-extraction",
        lambda s: s["pipeline"].update(sentence=None),
        "gives a vector for each token, and nothing says which one stands for a text; export a model of "
        "sentence-transformers (with modules.json), whose pooling becomes part of the graph",
    ),
    "labels without names": (
        "text-classification",
        lambda s: s["pipeline"].update(id2label=None),
        "has 3 logits and the labels none; name each once in id2label of the model's config.json and export again",
    ),
    "one name twice": (
        "text-classification",
        lambda s: s["pipeline"].update(id2label={"0": "no", "1": "no", "2": "yes"}),
        "has 3 logits and the labels no, no, yes; name each once in id2label of the model's config.json and export "
        "again",
    ),
    "a score": (
        "text-classification",
        lambda s: s["targets"]["onnxruntime"]["programs"]["model"]["outputs"][0][2].__setitem__(-1, 1),
        "gives one number, a score and no label; the app shows how likely each of several labels is, so this model "
        "cannot be bundled",
    ),
    "another's tokenizer": (
        "text-classification",
        lambda s: s["plan"]["layers"].__setitem__(slice(None), [{"kind": "embedding", "shape": [90, 64]}]),
        "tokenizer.json has 96 tokens, the model 90; put the model's own tokenizer beside its weights and export again",
    ),
    "an older manifest": (
        "automatic-speech-recognition",
        lambda s: s["pipeline"].pop("decoding"),
        "its manifest does not say how a transcript begins, an older qexport wrote it; export again with --force",
    ),
    "other features": (
        "automatic-speech-recognition",
        lambda s: s["pipeline"]["config"].update(feature_extractor_type="OtherExtractor"),
        "its sound is prepared by OtherExtractor (other mel filters), the app does what WhisperFeatureExtractor does; "
        "this model cannot be bundled",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_the_app_cannot_run(artifact, app, bundle, case):
    task, change, message = REFUSALS[case]
    folder = artifact(task)
    edited(folder, change)
    done = bundle(folder)
    assert (done.code, done.err) == (2, f"check …\nerror: {folder}: {message}\n")
    assert not (app / MODELS / "tiny").exists()


@pytest.mark.parametrize("task", TASKS)
def test_executorch_has_no_engine_for_it(artifact, app, bundle, task):
    folder = artifact(task)
    done = bundle(folder, "--runtime", "executorch")
    assert (done.code, done.err) == (
        2,
        f"check …\nerror: {folder}: does {task}, the app's engine for executorch runs language models only; pass "
        "--runtime onnxruntime\n",
    )


def rewritten(folder, path, change):
    """Change a JSON file, and what the manifest says of it."""
    file = folder / path
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))
    manifest = json.loads((folder / "manifest.json").read_text())
    known = [manifest["files"], *(target["files"] for target in manifest["summary"]["targets"].values())]
    for entry in (entry for entries in known for entry in entries):
        if entry["path"] in (path, path.rpartition("/")[2]):
            entry.update(bytes=file.stat().st_size, sha256=file_sha256(file))
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_texts_that_are_cut_at_their_beginning(artifact, app, bundle):
    folder = artifact("text-classification")
    path = "onnxruntime/tokenizer_config.json"
    rewritten(folder, path, lambda data: data.update(truncation_side="left"))
    assert bundle(folder).err == (
        f"check …\nerror: {folder / path}: cuts long texts at their beginning (truncation_side: left), the app at "
        "their end; this model cannot be bundled\n"
    )


def test_speech_without_a_clip(artifact, app, bundle):
    folder = artifact("automatic-speech-recognition")
    rewritten(
        folder, "golden/vectors.json", lambda data: [example.pop("raw") for example in data["examples"]]
    )
    assert bundle(folder).err == (
        f"check …\nerror: {folder}: has no golden clip that the app could hear again; name a folder of WAV files as "
        "parity.data.audio in the recipe and export again\n"
    )
