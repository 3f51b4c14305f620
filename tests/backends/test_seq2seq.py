"""Encoder-decoder models of four kinds, none of them named in the exporter, in both real runtimes."""

import numpy as np
import pytest
import seq2seq_checkpoints as checkpoints
import torch

from exporter.backends import get_backend
from exporter.errors import LoweringError
from exporter.models.encoder_decoder import EncoderDecoder
from exporter.models.seq2seq_reference import TorchSeq2Seq
from exporter.models.sources import ModelFiles
from exporter.numerics import quantize
from exporter.schemes import FLOAT, QuantScheme
from exporter.targets import Target

W8 = QuantScheme("w8", "int8", "channel", True, "dynamic-int8", "rtn")
W4 = QuantScheme("w4", "int4", 32, True, "dynamic-int8", "rtn")
PROMPT, ANSWER = [2, 7], [9, 11, 4, 30]
KINDS = sorted(checkpoints.TASKS)
BACKENDS = ("onnxruntime", "executorch")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    def opened(kind):
        folder = checkpoints.write(kind, tmp_path_factory.mktemp(kind))
        return EncoderDecoder(ModelFiles(kind, folder, None), checkpoints.TASKS[kind], folder / "cache")

    return {kind: opened(kind) for kind in KINDS}


def example(model):
    """One example for the encoder, batch 1."""
    noise = np.random.default_rng(0)
    return {
        name: noise.integers(3, checkpoints.VOCABULARY - 1, (1, 11))
        if name == "input_ids"
        else np.ones((1, 11), np.int64)
        if name == "attention_mask"
        else noise.standard_normal((1, *tensor.shape[1:])).astype(np.float32)
        for name, tensor in model.inputs[0].items()
    }


def lowered(model, backend, schemes, folder):
    """The backend, and what it wrote into the folder."""
    layers = model.layers().by_name()
    integers = {
        name: quantize(model.weight(layer), schemes[name])
        for name, layer in layers.items()
        if not schemes[name].is_float
    }
    skeleton = model.skeleton(schemes, integers.__getitem__)
    found = get_backend(backend)
    delegate = {"delegate": "xnnpack"} if backend == "executorch" else {"ep": "cpu"}
    found.lower(skeleton, Target(backend, max_context=32, **delegate), folder, lambda what, share: None)
    return found, integers


def answers(runner, inputs):
    """Logits after the prompt and after each token of the answer, (5, vocabulary)."""
    runner.encode(inputs)
    rows = [runner.forward(PROMPT)[-1].copy()]
    return np.stack(rows + [runner.forward([token])[-1].copy() for token in ANSWER])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_float(models, kind, backend, tmp_path):
    model = models[kind]
    schemes = dict.fromkeys(model.layers().by_name(), FLOAT)
    found, _ = lowered(model, backend, schemes, tmp_path)
    inputs = example(model)
    net = model.float_model()
    with torch.no_grad():
        tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
        whole = net(**tensors, decoder_input_ids=torch.tensor([PROMPT + ANSWER])).logits[0].numpy()
    expected = whole[len(PROMPT) - 1 :]
    runner = found.open_seq2seq(tmp_path)
    result = answers(runner, inputs)
    # float32 sums of some hundred terms in another order, four blocks deep
    np.testing.assert_allclose(result, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    runner.reset()  # the encoder's work stays
    np.testing.assert_array_equal(runner.forward(PROMPT)[-1], result[0])
    runner.encode({name: array[:, ::-1].copy() for name, array in inputs.items()})
    assert np.abs(runner.forward(PROMPT)[-1] - result[0]).max() > 1e-3  # another input, another answer


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_integers_are_the_plan_s(models, kind, backend, tmp_path):
    model = models[kind]
    schemes = {
        name: FLOAT
        if layer.kind == "conv" or layer.fixed or layer.shape[-1] % 32
        else W4
        if name.endswith(("fc1", "wi_0"))
        else W8
        for name, layer in model.layers().by_name().items()
    }
    found, integers = lowered(model, backend, schemes, tmp_path)
    read = found.read_back(tmp_path)
    owners = {name: layer.tied_to or name for name, layer in model.layers().by_name().items()}
    assert sorted(read) == sorted(name for name in schemes if not schemes[owners[name]].is_float)
    for name, layer in read.items():
        np.testing.assert_array_equal(layer.values, integers[owners[name]].values)
    net = TorchSeq2Seq(model.float_model(), model.sizes)
    expected, result = answers(net, example(model)), answers(found.open_seq2seq(tmp_path), example(model))
    error = np.linalg.norm(result - expected) / np.linalg.norm(expected - expected.mean(1, keepdims=True))
    # 4 bits keep a weight to 1/14 of its largest at worst, 8 bits of activations add less
    assert 0 < error < 0.2


def test_a_batch_with_padding(models, tmp_path):
    """ONNX Runtime takes several texts at once; what is padded does not count."""
    import onnxruntime

    model = models["text"]
    lowered(model, "onnxruntime", dict.fromkeys(model.layers().by_name(), FLOAT), tmp_path)
    ids = np.random.default_rng(0).integers(3, 60, (2, 9))
    mask = np.ones((2, 9), np.int64)
    mask[1, 5:] = 0
    encoder, decoder = (
        onnxruntime.InferenceSession(tmp_path / f"{name}.onnx") for name in ("encoder", "decoder")
    )
    outputs = [x.name for x in encoder.get_outputs()][1:]
    found = encoder.run(outputs, {"input_ids": ids, "attention_mask": mask})
    feeds = {name.replace("present", "past"): x for name, x in zip(outputs, found, strict=True)}
    empty = {x.name: np.zeros((2, 2, 0, 32), np.float32) for x in decoder.get_inputs() if "_self_" in x.name}
    tokens = np.array([PROMPT, PROMPT])
    (logits,) = decoder.run(
        ["logits"], {"input_ids": tokens, "encoder_attention_mask": mask, **feeds, **empty}
    )
    net = TorchSeq2Seq(model.float_model(), model.sizes)
    net.encode({"input_ids": ids[1:, :5], "attention_mask": mask[1:, :5]})
    expected = net.forward(PROMPT)
    np.testing.assert_allclose(logits[1], expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_speech_runs_in_onnxruntime_genai(tmp_path, tmp_path_factory):
    """The folder as it is: its configuration names every input and output that there is."""
    import onnxruntime_genai

    source = checkpoints.write("speech", tmp_path_factory.mktemp("long"), seconds=30)  # all that it takes
    model = EncoderDecoder(ModelFiles("long", source, None), "automatic-speech-recognition", source / "cache")
    lowered(model, "onnxruntime", dict.fromkeys(model.layers().by_name(), FLOAT), tmp_path)
    loaded = onnxruntime_genai.Model(str(tmp_path))
    parameters = onnxruntime_genai.GeneratorParams(loaded)
    parameters.set_search_options(do_sample=False, max_length=8, batch_size=1)
    generator = onnxruntime_genai.Generator(loaded, parameters)
    inputs = example(model)
    tensors = onnxruntime_genai.NamedTensors()
    tensors["input_features"] = inputs["input_features"]
    generator.set_inputs(tensors)
    generator.append_tokens(PROMPT)
    while not generator.is_done():
        generator.generate_next_token()
    written = list(generator.get_sequence(0))[len(PROMPT) :]
    net = TorchSeq2Seq(model.float_model(), model.sizes)
    net.encode(inputs)
    row, expected = net.forward(PROMPT)[-1], []
    while len(expected) < len(written):
        expected.append(int(row.argmax()))
        row = net.forward(expected[-1:])[-1]
    assert written == expected


def test_attention_in_code_of_its_own_is_refused(models, tmp_path, monkeypatch):
    """Without transformers' interface the decoder would get no causal mask."""
    from transformers.models.bart import modeling_bart

    class Own:
        """Every layer attends by the model's own code."""

        @staticmethod
        def get_interface(name, default):
            return modeling_bart.eager_attention_forward

    model = models["absolute"]
    monkeypatch.setattr(modeling_bart, "ALL_ATTENTION_FUNCTIONS", Own)
    schemes = dict.fromkeys(model.layers().by_name(), FLOAT)
    with pytest.raises(LoweringError) as caught:
        lowered(model, "onnxruntime", schemes, tmp_path)
    layers = model.sizes.layers
    assert str(caught.value) == (
        f"0 of {layers} layers of the decoder attend through transformers' attention interface; the others would not "
        "get their causal mask. Take a model that transformers runs with attn_implementation sdpa"
    )
