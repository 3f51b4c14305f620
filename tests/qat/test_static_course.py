"""Training of layers between integers: the student is the program of the files, and unseen samples lose less."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_jobs
import torch

from exporter.errors import QexportError
from exporter.models.loading import open_model
from exporter.models.static_reference import StaticReference
from exporter.qat import train_static
from exporter.qat.static_course import StaticCourse
from exporter.qat.training import Settings, Training
from exporter.quantizing import QuantizedStore, quantize_layers
from exporter.ranges import calibration_samples, measure_ranges
from exporter.recipe import Training as Asked
from exporter.recipe import load_recipe
from exporter.schemes import QuantScheme

# of 4 bits, which no CPU has kernels for: there is something to gain
S8 = QuantScheme("s8", "int4", "channel", activations="static-int8", method="rtn")
CODE = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.deep = torch.nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.wide = torch.nn.Conv2d(16, 32, 1)
        self.head = torch.nn.Linear(32, 10)

    def forward(self, x):
        x = torch.nn.functional.relu6(self.stem(x))
        x = torch.nn.functional.relu6(self.deep(x))
        x = torch.nn.functional.relu6(self.wide(x)).mean((2, 3))
        return self.head(x) * 1.0

def build():
    torch.manual_seed(0)
    net = Net()
    with torch.no_grad():
        net.deep.weight.mul_(4)
        net.head.weight.mul_(30)
        net.stem.weight[:, 0] *= 30  # one channel's weights set the scale of each row
    return net, (torch.randn(1, 3, 16, 16),)

def samples():
    generator = torch.Generator().manual_seed(1)
    for _ in range(40):
        yield (torch.randn(1, 3, 16, 16, generator=generator),)
"""
RECIPE = """\
schema: 1
name: net
model: {source: "python:trained_net:build", task: module}
schemes: {s8: {weights: int8, group: channel, activations: static-int8, method: rtn}}
rules: [{match: "**", scheme: s8}]
targets: [{backend: onnxruntime}]
calibration: {python: "trained_net:samples", samples: 40}
parity: {quantisation: {max_kl: 1}}
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Model, skeleton with plain integers, samples."""
    folder = tmp_path_factory.mktemp("net")
    (folder / "trained_net.py").write_text(CODE)
    (folder / "recipe.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        recipe = load_recipe(folder / "recipe.yaml")
        model = open_model(recipe.model.source, "module", folder)
        schemes = {layer.name: S8 for layer in model.layers().layers}
        ranges = measure_ranges(model, schemes, recipe, lambda *_: None)
        store = QuantizedStore(tmp_path_factory.mktemp("store"))
        layers = [(layer, S8) for layer in model.layers().layers]
        quantize_layers(model, layers, store, lambda *_: None, least=ranges.least)
        skeleton = model.skeleton(schemes, store.load, ranges.plan)
        return model, skeleton, list(schemes), list(calibration_samples(model, recipe))


def course(start):
    model, skeleton, layers, samples = start
    return StaticCourse(model, skeleton, layers, samples[:30], samples[30:])


def test_the_student_is_the_program_of_the_files(start):
    """But for the bias, which is no integer here: a code of a value may turn, and with it one step of the output."""
    _, skeleton, _, samples = start
    reference, student = StaticReference(skeleton, True), course(start)
    with torch.no_grad():
        for sample in samples[:5]:
            found, exact = student._student.run(*sample)[0], reference(*sample)
            assert float((found - exact).abs().max()) <= 2 * skeleton.static.output_of("head").scale
    assert float(np.std(exact.numpy())) > 20 * skeleton.static.output_of("head").scale


def test_unseen_samples_lose_less(start, tmp_path):
    settings = Settings(steps=60, learning_rate=0.02, warm_up=4, evaluations=6, patience=9)
    run = Training(course(start), settings, tmp_path)
    found = run.run(lambda *_: None)
    begun, best = run.history.held_out[0], min(run.history.held_out.values())
    assert best < 0.7 * begun
    for name, tensor in found.items():
        before = start[1].layers[name].load()
        assert (tensor.scales == before.scales).all() and tensor.scheme == S8
        assert np.abs(tensor.values.astype(int) - before.values).max() <= 2
    _, skeleton, _, samples = start
    assert lost(skeleton, {}, samples[30:]) > lost(
        skeleton, found, samples[30:]
    )  # in the program of the files


def lost(skeleton, integers, samples):
    """Mean KL of the program with these integers."""
    from dataclasses import replace as changed

    layers = {
        name: changed(planned, load=lambda n=name, p=planned: integers.get(n) or p.load())
        for name, planned in skeleton.layers.items()
    }
    kept, skeleton.layers = skeleton.layers, layers
    try:
        reference = StaticReference(skeleton, True)
    finally:
        skeleton.layers = kept
    total = 0.0
    with torch.no_grad():
        for sample in samples:
            goal = torch.log_softmax(skeleton._module(*sample), -1)
            total += float((goal.exp() * (goal - torch.log_softmax(reference(*sample), -1))).sum())
    return total / len(samples)


def test_too_few_samples(start, tmp_path):
    model, skeleton, layers, samples = start
    with pytest.raises(QexportError) as caught:
        train_static(
            model, skeleton, Asked(), layers, samples[:5], QuantizedStore(tmp_path), Path(), lambda *_: None
        )
    assert str(caught.value) == (
        "qat: 5 calibration samples; training sees some, is judged on others and needs 8; give more"
    )


def test_a_recipe_trains_static_layers(tmp_path, monkeypatch, capsys):
    """The whole job, in a runtime; the parity gates judge the trained integers."""
    name = tiny_jobs.importable(tmp_path, monkeypatch, CODE)
    text = RECIPE.replace("trained_net", name) + "qat: {steps: 4, samples: 40, layers: [stem, head]}\n"
    (tmp_path / "recipe.yaml").write_text(text)
    done = tiny_jobs.called(capsys, monkeypatch, "--recipe", "recipe.yaml", "--out", "out")
    assert done.code == 0, done.err
    training = json.loads((tmp_path / "out/manifest.json").read_text())["summary"]["training"]
    assert training["layers"] == 2 and set(training["held_out"]) >= {"0", "1"}
    assert "PASSED" in done.out and "KL on samples that nothing was trained on: " in done.err


def test_scales_alone_are_not_trained(tmp_path, monkeypatch, capsys):
    name = tiny_jobs.importable(tmp_path, monkeypatch, CODE)
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("trained_net", name) + "qat: {weights: false}\n")
    done = tiny_jobs.called(capsys, monkeypatch, "plan", "--recipe", "recipe.yaml")
    assert (done.code, done.err) == (
        2,
        "error: recipe.yaml:9:6: qat.weights: false trains scales only, and those of static layers stay; leave it "
        "out\n",
    )


def test_dynamic_layers_of_a_module_are_not_trained(tmp_path, monkeypatch, capsys):
    name = tiny_jobs.importable(tmp_path, monkeypatch, CODE)
    text = RECIPE.replace("trained_net", name).replace("static-int8", "dynamic-int8")
    text = text.replace(
        '[{match: "**", scheme: s8}]', "[{kind: conv, scheme: float}, {match: head, scheme: s8}]"
    )
    (tmp_path / "recipe.yaml").write_text(text + "qat: {steps: 4}\n")
    done = tiny_jobs.called(capsys, monkeypatch, "plan", "--recipe", "recipe.yaml")
    assert done.code == 2
    assert done.err.strip().endswith(
        "recipe.yaml:9:6: qat cannot train head: of a module static layers are trained; name them in qat.layers, or "
        "set activations: static-int8"
    )
