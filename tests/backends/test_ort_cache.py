"""The int8 KV cache: its scales, its codes, and what a model makes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from ort_skeleton import MemorySkeleton
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from exporter.backends.base import Target
from exporter.backends.ort import OrtBackend
from exporter.backends.ort.cache import largest_key, scales, scales_for
from exporter.errors import LoweringError
from exporter.schemes import FLOAT, QuantScheme

BACKEND = OrtBackend()
W4 = QuantScheme("w4", "int4", 32)  # float activations, so that the cache alone rounds
INT8 = Target("onnxruntime", kv_cache="int8")
TOKENS = tuple(int(x) for x in np.random.default_rng(3).integers(0, 128, 24))
# As in test_ort_lowering.py: 13 products in sequence at most, of up to 128 terms, each half a unit in
# the last place of float32.
NOISE = 13 * 128 * 2.0**-24
COMMON: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "vocab_size": 128,
    "initializer_range": 0.2,
}


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**COMMON, num_hidden_layers=2, num_key_value_heads=2))


def gemma() -> Gemma3ForCausalLM:
    """Norms of queries and keys, two rotary bases, sliding windows."""
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        **COMMON,
        num_hidden_layers=3,
        num_key_value_heads=1,
        head_dim=16,
        sliding_window=5,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        query_pre_attn_scalar=16,
    )
    return Gemma3ForCausalLM(config)


def partly_rotated() -> GPTNeoXForCausalLM:
    """Only a quarter of each head turns, so that the graph turns it outside of attention."""
    torch.manual_seed(0)
    return GPTNeoXForCausalLM(GPTNeoXConfig(**COMMON, num_hidden_layers=2))


def scheme_of(name: str) -> QuantScheme:
    return FLOAT if "embed" in name else W4


def silent(what: str, share: float) -> None:
    assert 0.0 <= share <= 1.0


def write(
    model: torch.nn.Module, folder: Path, target: Target = INT8, calibration: Any = (TOKENS,)
) -> tuple[MemorySkeleton, dict[str, Any]]:
    folder.mkdir()
    skeleton = MemorySkeleton(model, scheme_of, calibration=calibration)
    return skeleton, dict(BACKEND.lower(skeleton, target, folder, silent))


def read_in_steps(runner: Any, tokens: tuple[int, ...]) -> NDArray[np.float32]:
    """A prompt, then pieces of three tokens, then one by one."""
    rows = [runner.forward(tokens[:10]), runner.forward(tokens[10:13])]
    rows += [runner.forward([token]) for token in tokens[13:]]
    return np.concatenate(rows)


def held_cache(
    folder: Path, runner: Any
) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Per layer what keys and values the runtime's codes stand for, and the scales of both."""
    codes = [value.numpy() for value in runner._cache.values()]
    assert {x.dtype for x in codes} == {np.dtype(np.int8)}
    return [
        tuple(torch.from_numpy(x) for x in (keys * k, values * v, k, v))  # type: ignore[misc]
        for keys, values, (k, v) in zip(codes[::2], codes[1::2], scales(folder), strict=True)
    ]


def attend_over(held: Any, noise: float) -> Callable[..., Any]:
    """PyTorch's attention over the runtime's codes, which must be PyTorch's own keys and values, rounded."""

    def attend(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> Any:
        held_key, held_value, key_scale, value_scale = held[module.layer_idx]
        for exact, stored, scale in ((key, held_key, key_scale), (value, held_value, value_scale)):
            # rounding to the nearest code moves a number by half a step; float32 noise comes before it.
            # Behind the first layer numbers differ a little from those of the calibration, where the same
            # text had a float cache: the one token that was largest in a channel may be clipped now.
            within = exact.clamp(-128 * scale, 127 * scale)
            assert (within != exact).float().mean() <= 1 / len(TOKENS)
            assert ((within - stored).abs() <= scale / 2 + noise * exact.abs().max()).all()
        return sdpa_attention_forward(module, query, held_key, held_value, mask, **options)

    return attend


@pytest.mark.parametrize("make", [llama, gemma, partly_rotated])
def test_a_model_reads_and_writes_rounded_keys_and_values(tmp_path: Path, make: Any) -> None:
    skeleton, _ = write(make(), tmp_path / "ort")
    runner = BACKEND.open_text(tmp_path / "ort")
    actual = read_in_steps(runner, TOKENS)
    AttentionInterface.register("held", attend_over(held_cache(tmp_path / "ort", runner), NOISE))
    AttentionMaskInterface.register("held", sdpa_mask)
    model = skeleton.dequantized()
    model.set_attn_implementation("held")  # type: ignore[operator]
    with torch.no_grad():
        expected = model(torch.tensor([TOKENS])).logits[0].numpy()
    # Over the same codes nothing is rounded but float32, so the bound is that of the float cache.
    assert np.abs(actual - expected).max() <= NOISE * np.abs(expected).max()
    runner.reset()
    assert np.abs(runner.forward(TOKENS) - expected).max() <= NOISE * np.abs(expected).max()


def test_the_first_layer_holds_what_the_float_cache_holds(tmp_path: Path) -> None:
    write(llama(), tmp_path / "int8")
    write(llama(), tmp_path / "float", Target("onnxruntime"))
    kept = []
    for name in ("int8", "float"):
        runner: Any = BACKEND.open_text(tmp_path / name)
        runner.forward(TOKENS)
        kept.append([value.numpy() for value in runner._cache.values()])
    for codes, exact, scale in zip(kept[0][:2], kept[1][:2], scales(tmp_path / "int8")[0], strict=True):
        # The same kernel makes both; multiplying by 1 / scale, rounded, is off by 127 units at most.
        assert (np.abs(codes * scale - exact) <= scale * (0.5 + 127 * 2.0**-22)).all()
    assert kept[1][0].nbytes == 4 * kept[0][0].nbytes


def test_the_cache_is_the_only_difference_in_the_folder(tmp_path: Path) -> None:
    _, facts = write(llama(), tmp_path / "int8")
    _, exact = write(llama(), tmp_path / "float", Target("onnxruntime"))
    assert facts.pop("kv_cache") == {"type": "int8", "scales": "per channel", "calibration_tokens": 24}
    assert (facts.pop("min_runtime"), exact.pop("min_runtime")) == ("1.28", "1.20")
    assert facts == exact
    for name in ("model.onnx.data", "genai_config.json"):
        assert (tmp_path / "int8" / name).read_bytes() == (tmp_path / "float" / name).read_bytes()
    model = onnx.load(tmp_path / "int8" / "model.onnx", load_external_data=False)
    kinds = {x.name: x.type.tensor_type.elem_type for x in (*model.graph.input, *model.graph.output)}
    caches = {name for name, kind in kinds.items() if kind == onnx.TensorProto.INT8}
    assert caches == {name for name in kinds if name.startswith(("past_key_values.", "present."))}
    assert [x.shape for pair in scales(tmp_path / "int8") for x in pair] == [(1, 2, 1, 16)] * 4
    assert scales(tmp_path / "float") == []


def test_the_same_text_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(llama(), tmp_path / name, calibration=(TOKENS[:9], (), TOKENS[9:]))
    assert (tmp_path / "one/model.onnx").read_bytes() == (tmp_path / "two/model.onnx").read_bytes()


def test_calibration_stays_within_the_context(tmp_path: Path) -> None:
    target = Target("onnxruntime", kv_cache="int8", max_context=16)
    _, facts = write(llama(), tmp_path / "ort", target)
    assert facts["kv_cache"]["calibration_tokens"] == 16


@pytest.mark.parametrize("calibration", [(), ((),)])
def test_without_text_there_are_no_scales(tmp_path: Path, calibration: Any) -> None:
    with pytest.raises(LoweringError) as caught:
        write(llama(), tmp_path / "ort", calibration=calibration)
    assert str(caught.value) == (
        "kv_cache int8 stores keys and values by scales that are measured on text, and the model comes with"
        " no calibration tokens; give it a tokenizer, or set kv_cache: float32"
    )


def test_ort_format_and_shared_buffers(tmp_path: Path) -> None:
    """As onnxruntime-genai does: past and present are one buffer of the full length."""
    write(llama(), tmp_path / "ort", Target("onnxruntime", kv_cache="int8", ort_format=True))
    expected = BACKEND.open_text(tmp_path / "ort").forward(TOKENS[:8])[-1]
    session = onnxruntime.InferenceSession(str(tmp_path / "ort" / "model.ort"))
    buffers = {
        x.name: onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros((1, x.shape[1], 32, x.shape[3]), np.int8))
        for x in session.get_inputs()
        if x.name.startswith("past")
    }
    for start, stop in ((0, 6), (6, 7), (7, 8)):
        binding = session.io_binding()
        for name, buffer in buffers.items():
            binding.bind_ortvalue_input(name, buffer)
            binding.bind_ortvalue_output(name.replace("past_key_values", "present"), buffer)
        binding.bind_cpu_input("input_ids", np.asarray([TOKENS[start:stop]], np.int64))
        binding.bind_cpu_input("attention_mask", np.ones((1, stop), np.int64))
        binding.bind_output("logits")
        session.run_with_iobinding(binding)
    last = binding.get_outputs()[-1].numpy()[0, -1]
    assert np.abs(last - expected).max() <= NOISE * np.abs(expected).max()


def test_onnxruntime_genai_allocates_int8_buffers(tmp_path: Path) -> None:
    import onnxruntime_genai as genai

    write(llama(), tmp_path / "ort")
    runner = BACKEND.open_text(tmp_path / "ort")
    expected = list(TOKENS)
    rows = runner.forward(TOKENS)
    for _ in range(8):
        expected.append(int(rows[-1].argmax()))
        rows = runner.forward(expected[-1:])
    model = genai.Model(str(tmp_path / "ort"))
    params = genai.GeneratorParams(model)
    params.set_search_options(max_length=len(expected), do_sample=False)
    generator = genai.Generator(model, params)
    generator.append_tokens(list(TOKENS))
    while not generator.is_done():
        generator.generate_next_token()
    assert list(generator.get_sequence(0)) == expected


@given(st.integers(0, 2**32 - 1))
def test_the_scale_of_a_key_holds_at_every_position(seed: int) -> None:
    """Rotary turns the pair (i, i + size / 2) by any angle; no angle may lead beyond code 127."""
    rng = np.random.default_rng(seed)
    keys = (rng.standard_normal((2, 5, 16)) * rng.exponential(size=16)).astype(np.float32)
    low, high = keys[..., :8], keys[..., 8:]
    angles = rng.uniform(0, 2 * np.pi, (2, 5, 8))
    turned = np.concatenate(
        [low * np.cos(angles) - high * np.sin(angles), high * np.cos(angles) + low * np.sin(angles)], axis=2
    )
    for rotated in (True, False):
        scale = scales_for(largest_key(keys, rotated))
        assert scale.shape == (1, 2, 1, 16) and scale.dtype == np.float32
        assert (np.abs(turned) <= 127 * scale[0] * (1 + 4 * 2.0**-24)).all()


def test_channels_that_nothing_moved_have_a_scale() -> None:
    largest = np.asarray([[0.0, 12.7], [1.27, 0.0]], np.float32)
    np.testing.assert_allclose(scales_for(largest)[0, :, 0], [[0.1, 0.1], [0.01, 0.1]], rtol=2**-23)
    np.testing.assert_array_equal(scales_for(np.zeros((1, 2), np.float32)), np.ones((1, 1, 1, 2), np.float32))
