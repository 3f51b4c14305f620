"""Encoders of many kinds, none of them named in the exporter, in both real runtimes, against transformers itself."""

import encoder_checkpoints as checkpoints
import numpy as np
import pytest
import torch

from exporter.backends import get_backend
from exporter.models.pretrained import Pretrained
from exporter.models.reference import dequantized_model, round_activations
from exporter.models.sources import ModelFiles
from exporter.numerics import quantize
from exporter.schemes import FLOAT, QuantScheme
from exporter.targets import Target

W8 = QuantScheme("w8", "int8", "channel", True, "dynamic-int8", "rtn")
W4 = QuantScheme("w4", "int4", 32, True, "dynamic-int8", "rtn")
KINDS = sorted(checkpoints.TASKS)
TEXTS = [kind for kind in KINDS if kind != "picture"]
BACKENDS = ("onnxruntime", "executorch")
# float32 sums in another order, through two layers: some hundred units in the last place (2^-23) of the largest
CLOSE = 5e-5


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    def opened(kind):
        folder = checkpoints.write(kind, tmp_path_factory.mktemp(kind.replace(" ", "_")))
        return Pretrained(ModelFiles(kind, folder, None), checkpoints.TASKS[kind], folder / "cache")

    return {kind: opened(kind) for kind in KINDS}


def inputs_of(model, lengths, side="right"):
    """A padded batch of random tokens, or pictures of noise."""
    noise = np.random.default_rng(len(lengths))
    if model.task == "image-classification":
        return {"pixel_values": noise.standard_normal((len(lengths), 3, 32, 32)).astype(np.float32)}
    width = max(lengths)
    batch = {
        name: np.zeros((len(lengths), width), np.int64)
        for name in ("input_ids", "attention_mask", "token_type_ids")
    }
    for row, length in enumerate(lengths):
        place = slice(0, length) if side == "right" else slice(width - length, width)
        batch["input_ids"][row, place] = noise.integers(5, checkpoints.VOCABULARY, length)
        batch["attention_mask"][row, place] = 1
        batch["token_type_ids"][row, place] = np.arange(length) > length // 2
    return batch


def expected(model, net, inputs):
    """Of transformers' own model, its own masks and attention, and the stages behind it by hand."""
    signature = model.program.signature
    given = {port.name: torch.from_numpy(inputs[port.name]) for port in signature.inputs}
    with torch.no_grad():
        states = net(**given)[signature.outputs[0].name]
    found = {signature.outputs[0].name: states.numpy()}
    if len(signature.outputs) > 1:
        mask = given["attention_mask"][:, :, None].float()
        mean = (states * mask).sum(1) / mask.sum(1)
        dense = torch.tanh(net.get_submodule("2_Dense.linear")(mean))
        found["sentence_embedding"] = torch.nn.functional.normalize(dense, dim=-1).detach().numpy()
    return found


def lowered(model, backend, scheme, folder, longest=checkpoints.LONGEST):
    """The backend, what it wrote into the folder, and the skeleton."""
    layers = model.layers().by_name()
    schemes = {
        name: scheme if layer.kind != "conv" and layer.shape[-1] % 32 == 0 else FLOAT
        for name, layer in layers.items()
    }
    integers = {
        name: quantize(model.weight(layers[layer.tied_to or name]), schemes[name])
        for name, layer in layers.items()
        if not schemes[name].is_float
    }
    skeleton = model.skeleton(schemes, integers.__getitem__)
    found = get_backend(backend)
    facts = found.lower(skeleton, Target(backend, max_context=longest), folder, lambda what, share: None)
    return found, facts, skeleton, integers


def same(found, wanted, mask=None, tolerance=CLOSE):
    """Every output, at the places that are no padding."""
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        a, b = found[name], array
        assert a.shape == b.shape, name
        if mask is not None and a.shape[:2] == mask.shape:
            a, b = a[mask], b[mask]
        assert np.abs(a - b).max() <= tolerance * np.sqrt((b**2).mean()), name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_float(models, kind, backend, tmp_path):
    model = models[kind]
    found, facts, _, _ = lowered(model, backend, FLOAT, tmp_path)
    runner = found.open_program(tmp_path, "model")
    net = model.float_model()
    for length in (1, 2, 7, 40):  # the last one is beyond every window
        one = inputs_of(model, [length])
        same(runner.run(one), expected(model, net, one))
    if backend == "executorch":
        linears = [layer for layer in model.layers().layers if layer.kind == "linear"]
        assert facts["delegates"]["XnnpackBackend"] < len(linears)  # whole blocks, not each layer
    elif kind != "bias":
        attentions = facts["operators"].count("com.microsoft::MultiHeadAttention")
        assert attentions == 1


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", TEXTS)
def test_padded_batch(models, kind, side, tmp_path):
    model = models[kind]
    found, _, _, _ = lowered(model, "onnxruntime", FLOAT, tmp_path)
    runner = found.open_program(tmp_path, "model")
    assert runner.takes_batches
    batch = inputs_of(model, [5, 30, 1, 17], side)
    same(runner.run(batch), expected(model, model.float_model(), batch), batch["attention_mask"].astype(bool))


@pytest.mark.parametrize("scheme", [W8, W4], ids=["w8", "w4"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["words", "sentence", "window"])
def test_quantised(models, kind, backend, scheme, tmp_path):
    model = models[kind]
    found, _, skeleton, integers = lowered(model, backend, scheme, tmp_path)
    packed = found.read_back(tmp_path)
    assert set(packed) == set(integers)
    for name, tensor in integers.items():
        assert np.array_equal(packed[name].values, tensor.values), name
    one = inputs_of(model, [7])
    net = dequantized_model(skeleton, quantize_activations=False)
    if found.float_activations:
        same(found.open_program(tmp_path, "model", "float").run(one), expected(model, net, one))
    else:
        # The same rounding in PyTorch; a code on the edge may move, which changes a value by a step of some 2^-8.
        round_activations(net, True)
        same(found.open_program(tmp_path, "model").run(one), expected(model, net, one), tolerance=2**-4)


def test_the_window_counts(models, tmp_path):
    """A token beyond the window of the first layer and no other difference: vectors near it stay nearly the same only
    where the window is kept."""
    model = models["window"]
    assert model.config.sliding_window == checkpoints.WINDOW + 1  # transformers halves it for both directions
    _, facts, _, _ = lowered(model, "onnxruntime", FLOAT, tmp_path)
    assert any("LessOrEqual" in operator or "Less" in operator for operator in facts["operators"])
    short = tmp_path / "short"
    short.mkdir()
    _, facts, _, _ = lowered(model, "onnxruntime", FLOAT, short, longest=checkpoints.WINDOW)
    assert not any("Less" in operator for operator in facts["operators"])  # every token sees every other one


def test_executorch_takes_one_text_without_a_mask(models, tmp_path):
    found, facts, _, _ = lowered(models["label"], "executorch", FLOAT, tmp_path, longest=32)
    runner = found.open_program(tmp_path, "model")
    assert not runner.takes_batches
    assert (runner.inputs, runner.outputs) == (("input_ids", "token_type_ids"), ("logits",))
    assert facts["programs"]["forward"]["axes"] == {"batch_size": [1, 1], "sequence_length": [1, 32]}


def test_a_missing_input_is_named(models, tmp_path):
    from exporter.errors import ArtifactError

    found, _, _, _ = lowered(models["label"], "onnxruntime", FLOAT, tmp_path)
    runner = found.open_program(tmp_path, "model")
    with pytest.raises(ArtifactError) as caught:
        runner.run({"input_ids": np.ones((1, 3), np.int64)})
    assert str(caught.value) == "the model wants attention_mask, token_type_ids; given are input_ids"
