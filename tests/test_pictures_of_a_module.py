"""A module of the user's own on pictures: calibrated on some, judged on others, its preprocessing beside the files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from tiny_jobs import BOTH, importable, write_recipe

from exporter.artifacts import read_manifest

NET = """\
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 3, stride=2)
        self.head = torch.nn.Linear(8, 4)

    def forward(self, x):
        return self.head(torch.relu(self.stem(x)).mean((2, 3)))

def build():
    torch.manual_seed(0)
    net = Net()
    net.head.weight.data *= 20
    return net, (torch.randn(1, 3, 16, 16),)
"""
SCHEMES = "  s8: {weights: int8, activations: static-int8, observer: mse, method: gptq}\n"
STEPS = "{size: 16, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5], labels: names.txt}"
SETS = "[{folder: judged}, {folder: more}]"


@pytest.fixture
def place(tmp_path, monkeypatch):
    name = importable(tmp_path, monkeypatch, NET)
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\ndog\n")
    random = np.random.default_rng(0)
    for folder, count in (("seen", 12), ("judged/ant", 3), ("judged/dog", 3), ("more", 9)):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(count):
            middle = random.integers(0, 256, 3)  # pictures that differ in more than noise
            pixels = np.clip(random.normal(middle, 40, (24, 20, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{number}.png")
    return tmp_path, name


def picture_recipe(place, parity, steps=STEPS, targets=BOTH):
    folder, name = place
    path = write_recipe(
        folder, f"python:{name}:build", task="module", rules='  - {match: "**", scheme: s8}\n',
        parity=parity, targets=targets,
    )  # fmt: skip
    text = path.read_text().replace("task: module}", f"task: module, preprocessing: {steps}}}")
    start, end = text.index("schemes:"), text.index("rules:")
    calibration = "calibration: {pictures: [seen]}\n"
    path.write_text(text[:start] + "schemes:\n" + SCHEMES + calibration + text[end:])
    return path


def test_the_whole_job(place, qexport):
    folder, _ = place
    parity = f"{{tasks: {{max_accuracy_loss: 0.5, min_agreement: 0.5}}, data: {{pictures: {SETS}}}}}"
    done = qexport("--recipe", picture_recipe(place, parity), "--out", folder / "out")
    assert done.code == 0, done.err
    summary = read_manifest(folder / "out")["summary"]
    found = [
        (c["candidate"], c["data"], [m["name"] for m in c["metrics"]])
        for c in summary["tasks"]["comparisons"]
    ]
    assert found == [
        (runtime, data, names)
        for runtime in ("onnxruntime", "executorch")
        for data, names in (
            ("6 pictures of judged", ["top-1", "agreement"]),
            ("9 pictures of more", ["agreement"]),
        )
    ]
    held = "limits of parity.tasks (max_accuracy_loss 0.5, min_agreement 0.5): held"
    assert summary["tasks"]["notes"] == [held]
    assert all(rung["result"]["positions"] == 15 for rung in summary["parity"]["rungs"])
    assert summary["pipeline"]["labels"] == ["ant", "bee", "cat", "dog"]
    assert (folder / "out" / "executorch" / "picture.onnx").stat().st_size > 0
    golden = json.loads((folder / "out" / "golden" / "vectors.json").read_text())
    assert len(golden["examples"]) == 8
    for example in golden["examples"]:
        assert (folder / "out" / "golden" / example["raw"]).read_bytes()
        tensor = np.load(folder / "out" / "golden" / example["tensors"]["pixel_values"])
        assert tensor.shape == (1, 3, 16, 16)
        assert np.array(example["outputs"]["executorch"][0]).shape == (1, 4)
    few = (
        "calibration: observer mse needs 20,480 values and has 48: its histogram of 2,048 bins takes 10 values each. "
        "Set samples: 5,120, of data that hold as many"
    )
    assert summary["coverage"]["warnings"] == [few] and few in done.err
    assert "calibration: 128 samples are asked for, the data hold 12; all are used" in done.err
    report = (folder / "out" / "report.html").read_text()
    assert "Calibration data" in report and "9 pictures of more" in report
    again = qexport("verify", folder / "out", "--recipe", folder / "recipe.yaml", "--json")
    assert again.code == 0 and json.loads(again.out)["passed"]


def test_a_gate_of_the_task_that_is_missed(place, qexport):
    folder, _ = place
    (folder / "judged" / "bee").mkdir()
    parity = "{tasks: {max_word_error_rise: 0.1}, data: {pictures: {folder: more}}}"
    done = qexport("--recipe", picture_recipe(place, parity), "--out", folder / "out")
    assert done.code == 1
    assert (
        "  - parity.tasks.max_word_error_rise: nothing was measured that it judges (word error rate); give parity.data "
        "with labels or transcripts, or take the limit out\n"
    ) in done.err
    assert not (folder / "out").exists() and (folder / "out.failed" / "report.html").is_file()


@pytest.mark.parametrize(
    ("steps", "parity", "message"),
    [
        (
            STEPS.replace("size: 16", "size: 20"),
            "{}",
            "calibration.pictures: a sample becomes (1, 3, 20, 20), and the example inputs of {source} are (1, 3, 16, "
            "16); set size in model.preprocessing to what the module takes",
        ),
        (
            STEPS,
            "{data: {text: {files: [text.txt]}}}",
            "parity.data: a module is judged on pictures, and the recipe gives none; give parity.data.pictures, or "
            "leave parity.data out, which compares the function's example inputs",
        ),
        (
            STEPS.replace("names.txt", "three.txt"),
            "{data: {pictures: {folder: judged}}}",
            "DIR/three.txt: 3 labels, the module gives 4 classes; give one line for each class",
        ),
        (
            STEPS,
            "{data: {pictures: {folder: wrong}}}",
            "parity.data.pictures: DIR/wrong/owl/0.png has the label 'owl', which is none of the model's 4 (0 ant, 1 "
            "bee, 2 cat, 3 dog). Labels are numbers or names of the model's classes; give a set made for this model, "
            "or the model's names as `labels` of its preprocessing",
        ),
    ],
)
def test_what_does_not_fit(place, qexport, steps, parity, message):
    folder, name = place
    (folder / "three.txt").write_text("ant\nbee\ncat\n")
    (folder / "wrong" / "owl").mkdir(parents=True)
    (folder / "wrong" / "owl" / "0.png").write_bytes((folder / "more" / "0.png").read_bytes())
    targets = "[{backend: onnxruntime}]"
    done = qexport("--recipe", picture_recipe(place, parity, steps, targets), "--out", folder / "out")
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    said = message.replace("{source}", f"python:{name}:build")
    assert (done.code, line.replace(str(folder), "DIR")) == (2, f"error: {said}")
    assert not (folder / "out").exists()
