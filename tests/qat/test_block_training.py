"""Training block by block on a tiny model: held-out text loses less, and a kill changes nothing."""

from dataclasses import replace

import pytest
import tiny_training
import torch

from exporter.errors import QexportError, TraceError
from exporter.models.reference import StreamedLinear, dequantized_model, streamed_float_model
from exporter.qat import train_text
from exporter.qat.block_training import BlockTraining
from exporter.qat.text_course import TextCourse
from exporter.qat.training import Settings
from exporter.quantizing import QuantizedStore
from exporter.recipe import Training as Asked
from exporter.schemes import QuantScheme

W4 = QuantScheme("w4", "int4", 32, activations="dynamic-int8", rotate=32)
SETTINGS = Settings(steps=40, learning_rate=0.03, scale_rate=0.001, warm_up=4)
HELD_OUT = 8


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Model, skeleton with plain integers, layers in blocks, windows."""
    model, skeleton, layers, windows = tiny_training.begun(tmp_path_factory.mktemp("model"), W4, 40)
    return model, skeleton, [name for name in layers if name.startswith("model.layers.")], windows


def training(start, folder, settings=SETTINGS, layers=None):
    model, skeleton, blocks, windows = start
    folder.mkdir(exist_ok=True)
    places = QuantizedStore(folder), folder / "checkpoints"
    return BlockTraining(model, skeleton, layers or blocks, windows, HELD_OUT, settings, places)


def test_held_out_text_loses_less(start, tmp_path):
    _, skeleton, _, windows = start
    run = training(start, tmp_path)
    found = run.run(lambda *_: None)
    assert len(found["blocks"]) == 2 and max(found["blocks"]) < 0.9
    assert found["kept"] and found["held_out"]["after"] < 0.9 * found["held_out"]["before"]
    course = TextCourse(start[0], skeleton, [], windows, windows[-HELD_OUT:])
    with torch.no_grad():  # the other way to the same number
        assert found["held_out"]["before"] == pytest.approx(course.judged(), rel=1e-3)
    assert not list((tmp_path / "checkpoints").glob("*.0.npy"))
    assert divergence_of(start, run.store) == pytest.approx(found["held_out"]["after"], rel=1e-3)


def divergence_of(start, store):
    """KL of the model whose trained layers have the store's integers, by the reference that parity judges by."""
    model, skeleton, blocks, windows = start
    layers = {
        name: replace(planned, load=lambda n=name, p=planned: store.load(n) if n in blocks else p.load())
        for name, planned in skeleton.layers.items()
    }
    kept, skeleton.layers = skeleton.layers, layers
    try:
        found = dequantized_model(skeleton, quantize_activations=True)
    finally:
        skeleton.layers = kept
    exact = streamed_float_model(skeleton, lambda planned: model.weight(planned.info), 0)
    tokens = torch.from_numpy(windows[-HELD_OUT:])
    with torch.no_grad():
        p, q = (torch.log_softmax(net(tokens).logits, -1) for net in (exact, found))
    return float((p.exp() * (p - q)).sum(-1).mean())


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    "moment", ["block 1 of 2, step 20 of 40", "block 2 of 2", "block 2 of 2, step 40 of 40"]
)
def test_a_killed_run_goes_on_and_gives_the_same(start, tmp_path, moment):
    whole, cut = training(start, tmp_path / "whole"), training(start, tmp_path / "cut")
    expected = whole.run(lambda *_: None)

    def stopping(doing, share):
        if doing == moment:
            raise Killed

    with pytest.raises(Killed):
        cut.run(stopping)
    again = training(start, tmp_path / "cut")
    assert again.run(lambda *_: None) == expected
    for name in start[2]:
        one, other = whole.store.load(name), again.store.load(name)
        assert one.integers_sha256 == other.integers_sha256, name
        assert one.scales_sha256 == other.scales_sha256, name


def test_a_block_that_gains_nothing_stays(start, tmp_path):
    run = training(start, tmp_path, Settings(steps=8, learning_rate=1.0, scale_rate=0.5, warm_up=1))
    found = run.run(lambda *_: None)
    assert found["blocks"] == [1.0, 1.0] and not found["kept"]
    assert found["held_out"]["before"] == found["held_out"]["after"]
    for name in start[2]:
        assert run.store.load(name).integers_sha256 == start[1].layers[name].load().integers_sha256


def test_nothing_stays_where_the_whole_model_gains_nothing(start, tmp_path, monkeypatch):
    monkeypatch.setattr(BlockTraining, "_divergence", lambda self, kind: {"begun": 1.0, "trained": 2.0}[kind])
    run = training(start, tmp_path)
    found = run.run(lambda *_: None)
    assert max(found["blocks"]) < 1 and not found["kept"]
    for name in start[2]:
        assert run.store.load(name).integers_sha256 == start[1].layers[name].load().integers_sha256


def test_only_the_layers_that_are_named(start, tmp_path):
    named = ["model.layers.1.mlp.down_proj"]
    run = training(start, tmp_path, layers=named)
    assert run.run(lambda *_: None)["blocks"][0] == 1.0
    assert {path.name.partition(".values")[0] for path in tmp_path.glob("*.values.npy")} == set(named)


def test_a_layer_with_a_forward_of_its_own(start, tmp_path):
    run = training(start, tmp_path)
    name = "model.layers.0.mlp.up_proj"
    own = type("Scaled", (StreamedLinear,), {"forward": lambda self, x: 2 * StreamedLinear.forward(self, x)})
    run.net.get_submodule(name).__class__ = own
    with pytest.raises(TraceError) as caught:
        run.run(lambda *_: None)
    assert str(caught.value) == (
        f"layer {name}: Scaled has a forward of its own, which training by block does not follow; set qat.by: model"
    )


def test_a_recipe_that_says_no_more(start, tmp_path):
    """qat: {} of a language model; the store has every layer in blocks, and the summary says how."""
    model, skeleton, blocks, _ = start
    store = QuantizedStore(tmp_path)
    texts = ["the boat moved past the pier " * 12] * 12
    asked = Asked(steps=2)
    found = train_text(model, skeleton, asked, blocks, texts, store, tmp_path / "work", lambda *_: None)
    assert {key: found[key] for key in ("by", "layers", "steps")} == {"by": "block", "layers": 14, "steps": 2}
    assert not (tmp_path / "work").exists()
    assert all(store.load(name).values.shape for name in blocks)
    with pytest.raises(QexportError, match=r"^qat: 1 windows of 512 tokens; training sees some"):
        train_text(model, skeleton, asked, blocks, texts[:2], store, tmp_path / "work", lambda *_: None)
