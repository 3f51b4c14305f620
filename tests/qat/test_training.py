"""Training on a tiny model: less loss than where it began, and the same integers after a kill."""

from dataclasses import replace

import pytest
import tiny_training
import torch

from exporter.models.reference import dequantized_model
from exporter.qat.text_course import TextCourse
from exporter.qat.training import Settings, Training, order_of
from exporter.quantizing import QuantizedStore, quantize_layers
from exporter.schemes import QuantScheme

W4 = QuantScheme("w4", "int4", 32, activations="dynamic-int8")
SETTINGS = Settings(
    steps=24, learning_rate=0.02, scale_rate=0.002, warm_up=4, evaluations=4, checkpoints=5, patience=9
)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return tiny_training.begun(tmp_path_factory.mktemp("model"), W4, 24)


def training(start, folder, settings=SETTINGS):
    model, skeleton, layers, windows = start
    folder.mkdir(exist_ok=True)
    return Training(TextCourse(model, skeleton, layers, windows[:-4], windows[-4:]), settings, folder)


def test_the_held_out_text_loses_less(start, tmp_path):
    run = training(start, tmp_path / "run")
    found = run.run(lambda *_: None)
    begun, best = run.history.held_out[0], min(run.history.held_out.values())
    assert best < 0.8 * begun
    assert len(run.history.losses) == 24 and list(run.history.held_out) == [0, 6, 12, 18, 24]
    assert set(found) == set(start[2])
    assert all(tensor.scheme == W4 for tensor in found.values())


def test_rotated_layers_train_too(start, tmp_path):
    """Where training begins the student is what the integers say, with the input mixed as the files mix it."""
    model, _, layers, windows = start
    turned = replace(W4, rotate=32)
    store = QuantizedStore(tmp_path)
    every = model.layers().layers
    quantize_layers(model, [(layer, turned) for layer in every], store, lambda *_: None)
    owners = {layer.name: layer.tied_to or layer.name for layer in every}
    skeleton = model.skeleton(dict.fromkeys(owners, turned), lambda name: store.load(owners[name]))
    course = TextCourse(model, skeleton, layers, windows[:-4], windows[-4:])
    tokens = torch.from_numpy(windows[:1])
    expected = dequantized_model(skeleton, quantize_activations=True)(tokens).logits[0]
    states = course.student.first_states(tokens)
    for block in range(len(course.student.blocks)):
        states = course.student.run(block, states)
    found = course.student.logits(states)
    assert torch.allclose(found, expected, atol=1e-3 * float(expected.abs().max()))
    list(course.parameters())  # from here on they have gradients
    assert course.step(0) > 0


class Killed(BaseException):
    pass


@pytest.mark.parametrize("step", [3, 5, 11, 24])
def test_a_killed_run_goes_on_and_gives_the_same(start, tmp_path, step):
    whole = training(start, tmp_path / "whole").run(lambda *_: None)

    def stopping(doing, share):
        if doing.startswith(f"step {step} "):
            raise Killed

    with pytest.raises(Killed):
        training(start, tmp_path / "cut").run(stopping)
    again = training(start, tmp_path / "cut").run(lambda *_: None)
    for name, tensor in whole.items():
        assert again[name].integers_sha256 == tensor.integers_sha256, name
        assert again[name].scales_sha256 == tensor.scales_sha256, name


def test_it_stops_where_nothing_is_gained(start, tmp_path):
    wild = Settings(steps=40, learning_rate=1.0, scale_rate=0.5, warm_up=1, evaluations=8, patience=2)
    run = training(start, tmp_path / "run", wild)
    found = run.run(lambda *_: None)
    assert run.history.stopped == "after step 10: 2 evaluations without gain"
    _, skeleton, layers, _ = start
    for name in layers:  # the best was where it began
        assert found[name].integers_sha256 == skeleton.layers[name].load().integers_sha256


def test_every_text_once_before_any_twice():
    order = order_of(3, 5, 12)
    assert sorted(order[:5]) == sorted(order[5:10]) == list(range(5)) and len(order) == 12
    assert order == order_of(3, 5, 12) != order_of(4, 5, 12)
