"""Models as an NPU takes them, against transformers: padded to one length, and with keys and values from outside."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from encoder_checkpoints import TASKS, write, write_stages

from exporter.models.loading import for_targets, open_model
from exporter.models.npu_models import FixedDecoderModel, FixedModel
from exporter.targets import Target

LENGTH = 16
TEXT = "the harbour lay still under the morning fog and nobody said a word"


@pytest.mark.parametrize("kind", ["words", "label", "tags", "sentence", "no types", "window"])
def test_padding_changes_nothing(kind, tmp_path):
    folder = write(kind, tmp_path)
    if kind == "sentence":
        write_stages(folder)
    opened = open_model(str(folder), TASKS[kind], tmp_path)
    model = for_targets(opened, [Target("onnxruntime", ep="qnn", soc=("SM8750",), length=LENGTH)])
    assert isinstance(model, FixedModel)
    module, example, _ = model.built
    inputs = model.of_text("a b c d e")
    assert [tensor.shape for tensor in inputs] == [tensor.shape for tensor in example]
    given = dict(opened.processor.prepare("a b c d e"))
    count = given["input_ids"].shape[1]
    assert 1 < count < LENGTH
    net = opened.float_model()
    program = opened.program
    given.setdefault("attention_mask", np.ones_like(given["input_ids"]))
    wanted = program.wrap(net)(*(torch.from_numpy(given[port.name]) for port in program.signature.inputs))[-1]
    found = module(*inputs)
    found = found[:, :count] if found.ndim == 3 else found
    assert torch.allclose(found, wanted, atol=2e-5)


def test_a_text_that_is_too_long_is_cut(tmp_path):
    opened = open_model(str(write("label", tmp_path)), "text-classification", tmp_path)
    model = FixedModel(opened, LENGTH)
    ids, mask, *_ = (dict(zip(model.input_names, model.of_text("a b " * 20), strict=True))[name] for name in
                     ("input_ids", "attention_mask"))  # fmt: skip
    assert ids.dtype == torch.int32
    assert ids.shape == mask.shape == (1, LENGTH)
    assert mask.sum() == LENGTH


@pytest.mark.parametrize("new", [1, 3])
def test_a_decoder_gives_the_logits_of_the_whole_text(tiny_checkpoint, new):
    opened = open_model(str(tiny_checkpoint), "text-generation", tiny_checkpoint)
    model = FixedDecoderModel(opened, 24, new)
    module, example, _ = model.built
    assert len(model.input_names) == len(example)
    ids = opened.tokenizer().encode(TEXT)[: 24 + new]
    with torch.no_grad():
        wanted = opened.float_model()(torch.tensor([ids])).logits[0]
    steps = list(model.steps(TEXT, every=1))
    assert steps
    for inputs in steps:
        first = int(inputs[1][0])
        with torch.no_grad():
            logits = module(*inputs)[0][0]
        assert torch.allclose(logits, wanted[first : first + new], atol=1e-4)
