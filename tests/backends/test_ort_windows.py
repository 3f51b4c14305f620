"""KV buffers as short as a sliding window: numbers past the window, sizes, and what onnxruntime-genai makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from ort_skeleton import MemorySkeleton
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from exporter.backends.base import Target
from exporter.backends.ort import OrtBackend
from exporter.backends.ort.capabilities import WINDOW_SLACK, window_slots
from exporter.backends.ort.windows import slots_of
from exporter.layers import CacheShape
from exporter.schemes import FLOAT, QuantScheme

BACKEND = OrtBackend()
W4 = QuantScheme("w4", "int4", 32)  # float activations, so that rows can be compared closely
WINDOW, SLOTS = 5, 5 + WINDOW_SLACK
SHORT = Target("onnxruntime", min_runtime="1.29", max_context=96)
WHOLE = Target("onnxruntime", min_runtime="1.28", max_context=96)
TOKENS = [int(x) for x in np.random.default_rng(3).integers(0, 128, 60)]  # nearly three times SLOTS
# As in test_ort_lowering.py: 13 products in sequence at most, of up to 128 terms, each half a unit in
# the last place of float32; as many norms again.
NOISE = 2 * 13 * 128 * 2.0**-24


def gemma() -> Gemma3ForCausalLM:
    """Two layers with a window around one without, norms of queries and keys, two rotary bases."""
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        hidden_size=64,
        intermediate_size=128,
        num_attention_heads=4,
        vocab_size=128,
        initializer_range=0.2,
        num_hidden_layers=3,
        num_key_value_heads=1,
        head_dim=16,
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        query_pre_attn_scalar=16,
        max_position_embeddings=128,
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
    )
    return Gemma3ForCausalLM(config)


def write(folder: Path, target: Target) -> tuple[MemorySkeleton, dict[str, Any]]:
    folder.mkdir()
    skeleton = MemorySkeleton(
        gemma(), lambda name: FLOAT if "embed" in name else W4, calibration=(tuple(TOKENS),)
    )
    return skeleton, dict(BACKEND.lower(skeleton, target, folder, lambda what, share: None))


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> tuple[MemorySkeleton, dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("windows") / "short"
    return *write(folder, SHORT), folder


def in_pieces(folder: Path, pieces: list[int]) -> NDArray[np.float32]:
    """Logits of TOKENS, read in calls of so many tokens and the rest one by one."""
    runner = BACKEND.open_text(folder)
    pieces = [*pieces, *[1] * (len(TOKENS) - sum(pieces))]
    ends = np.cumsum(pieces)
    calls = [TOKENS[end - size : end] for end, size in zip(ends, pieces, strict=True)]
    return np.concatenate([runner.forward(call) for call in calls])


def reference(skeleton: MemorySkeleton, tokens: list[int]) -> NDArray[np.float32]:
    with torch.no_grad():
        logits: NDArray[np.float32] = skeleton.dequantized()(torch.tensor([tokens])).logits[0].numpy()
    return logits


def close(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    assert np.abs(actual - expected).max() <= NOISE * np.abs(expected).max()


@pytest.mark.parametrize(
    "pieces", [[10, 3], [40], [60], [SLOTS, SLOTS], [3, 50]], ids=lambda pieces: "+".join(map(str, pieces))
)
def test_numbers_past_the_window_are_pytorchs(short: Any, pieces: list[int]) -> None:
    skeleton, _, folder = short
    close(in_pieces(folder, pieces), reference(skeleton, TOKENS))


def test_sizes_are_written_down(short: Any) -> None:
    _, facts, folder = short
    assert facts["min_runtime"] == "1.29"
    assert facts["sliding_window"] == {"layers": 2, "tokens_seen": WINDOW, "tokens_kept": SLOTS}
    decoder = json.loads((folder / "genai_config.json").read_text())["model"]["decoder"]
    assert decoder["sliding_window"] == {
        "window_size": WINDOW,
        "layers": [0, 2],
        "slide_inputs": False,
        "slide_key_value_cache": False,
    }
    names = [f"past_key_values.{layer}.{part}" for layer in (0, 2) for part in ("key", "value")]
    assert slots_of(folder) == dict.fromkeys(names, SLOTS)
    runner: Any = BACKEND.open_text(folder)
    runner.forward(TOKENS)
    assert [value.shape()[2] for value in runner._cache.values()] == [SLOTS, SLOTS, 60, 60, SLOTS, SLOTS]


def test_rows_of_a_batch(short: Any) -> None:
    """Prompts of one length work; padded ones are refused by the runtime, never computed wrong."""
    skeleton, _, folder = short
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    slots = slots_of(folder)
    prompts = [TOKENS[:18], TOKENS[18:36]]
    caches = [x for x in session.get_inputs() if x.name.startswith("past")]
    empty = {x.name: np.zeros((2, 1, slots.get(x.name, 0), 16), np.float32) for x in caches}
    feeds: dict[str, Any] = {"input_ids": np.asarray(prompts), **empty}
    mask = np.ones((2, 18), int)
    for token in TOKENS[36:]:
        logits, *present = session.run(None, {**feeds, "attention_mask": mask})
        feeds = {x.name: value for x, value in zip(caches, present, strict=True)}
        feeds["input_ids"] = np.asarray([[token], [token]])
        mask = np.concatenate([mask, np.ones((2, 1), int)], axis=1)
    for row, prompt in zip(logits, prompts, strict=True):
        close(row, reference(skeleton, [*prompt, *TOKENS[36:-1]])[-1:])
    mask = np.asarray([[1] * 18, [0] * 11 + [1] * 7])
    with pytest.raises(Exception, match=r"seqlens_k\[1\] = 6 is too small for sequence_length 18"):
        session.run(None, {"input_ids": np.asarray(prompts), "attention_mask": mask, **empty})


def test_layers_can_be_asked_behind_a_long_prompt(short: Any) -> None:
    skeleton, _, folder = short
    name = "model.layers.2.mlp.down_proj"
    model = skeleton.dequantized()
    kept: list[torch.Tensor] = []
    model.get_submodule(name).register_forward_hook(lambda module, args, output: kept.append(output[0]))
    with torch.no_grad():
        model(torch.tensor([TOKENS]))
    close(BACKEND.layer_outputs(folder, [name], TOKENS)[name], kept[0].numpy())


def test_an_int8_cache_in_short_buffers(tmp_path: Path) -> None:
    """Scales are measured on whole buffers, so both files have the same. What is left between them is a
    code that falls to the other side of a half, far less than what int8 itself changes."""
    rows = []
    for name, oldest in (("short", "1.29"), ("whole", "1.28")):
        target = Target("onnxruntime", min_runtime=oldest, max_context=96, kv_cache="int8")
        skeleton, facts = write(tmp_path / name, target)
        assert ("sliding_window" in facts) == (name == "short")
        rows.append(in_pieces(tmp_path / name, [30]))
    exact = reference(skeleton, TOKENS)
    scales = [BACKEND.cache_scales(tmp_path / name) for name in ("short", "whole")]
    for pair, other in zip(*scales, strict=True):
        np.testing.assert_array_equal(pair, other)
    assert np.abs(rows[0] - rows[1]).mean() < 0.1 * np.abs(rows[1] - exact).mean()


def test_onnxruntime_genai_keeps_the_window(short: Any) -> None:
    """Its greedy tokens far past the window are PyTorch's, out of buffers that it sizes itself."""
    import onnxruntime_genai as genai

    skeleton, _, folder = short
    model = genai.Model(str(folder))
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(max_length=70, min_length=70, do_sample=False)
    generator = genai.Generator(model, parameters)
    generator.append_tokens(np.asarray(TOKENS[:30], np.int32))
    for _ in range(40):
        generator.generate_next_token()
    found = [int(token) for token in generator.get_sequence(0)]
    logits = reference(skeleton, found[:-1])[29:]
    logits[:, 1] = -np.inf  # min_length forbids the end of text
    assert found[30:] == logits.argmax(axis=1).tolist()


def test_for_an_older_runtime_every_token_is_kept(tmp_path: Path) -> None:
    _, facts = write(tmp_path / "ort", WHOLE)
    assert "sliding_window" not in facts
    assert facts["min_runtime"] == "1.24"
    assert slots_of(tmp_path / "ort") == {}
    assert b"sliding_window_cache" not in (tmp_path / "ort" / "model.onnx").read_bytes()


def test_a_short_buffer_refuses_less_than_its_window(short: Any) -> None:
    """onnxruntime-genai allocates max_length where that is less: the reason why a recipe has to ask."""
    _, _, folder = short
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    caches = [x.name for x in session.get_inputs() if x.name.startswith("past")]
    feeds = {name: np.zeros((1, 1, WINDOW - 1, 16), np.float32) for name in caches}
    ids = np.asarray([TOKENS[:2]])
    with pytest.raises(Exception, match=r"KV cache capacity \(4\) must be at least local_window_size \(5\)"):
        session.run(None, {"input_ids": ids, "attention_mask": np.ones((1, 2), int), **feeds})


def test_bytes_of_the_cache() -> None:
    cache = (CacheShape(3, 64), CacheShape(3, 64, window=16), CacheShape(1, 256, window=8))
    asks = Target("onnxruntime", min_runtime="1.32", max_context=512)
    slots = 16 + WINDOW_SLACK  # onnxruntime-genai knows one window for all layers: the widest
    assert BACKEND.cache_bytes(asks, cache) == 4 * 2 * (512 * 3 * 64 + slots * (3 * 64 + 256))
    older = Target("onnxruntime", min_runtime="1.28", max_context=512)
    assert BACKEND.cache_bytes(older, cache) == 4 * 2 * 512 * (3 * 64 + 3 * 64 + 256)


def test_a_context_no_longer_than_the_window_is_kept_whole() -> None:
    asks = Target("onnxruntime", min_runtime="1.29")
    assert window_slots(asks, SLOTS, [WINDOW]) is None
    assert window_slots(asks, SLOTS + 1, [WINDOW]) == SLOTS
    assert window_slots(asks, 512, []) is None
    assert window_slots(WHOLE, 512, [WINDOW]) is None
    assert window_slots(Target("onnxruntime"), 512, [WINDOW]) is None  # the recipe names no oldest runtime
