"""A tiny language model lowered to ExecuTorch: the KV cache, the file and what is read back from it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ort_skeleton import MemorySkeleton

from exporter.backends import get_backend
from exporter.backends.executorch import lowering, operators, packing
from exporter.backends.executorch.capabilities import cache_slots
from exporter.backends.executorch.reading import delegate_graphs, open_program
from exporter.errors import ArtifactError
from exporter.layers import CacheShape
from exporter.models.layer_list import cache_shapes
from exporter.models.reference import dequantized_model
from exporter.numerics import canonical_granularity
from exporter.schemes import FLOAT, QuantScheme
from exporter.targets import Target

BACKEND = get_backend("executorch")
TARGET = Target("executorch", max_context=64)
W4 = QuantScheme("w4", "int4", 32, activations="dynamic-int8")
W8 = QuantScheme("w8", "int8", "channel", activations="dynamic-int8")
W8_FLOAT = QuantScheme("w8f", "int8", "channel")
MLP_INPUTS = ["mlp.gate_proj", "mlp.up_proj"]
TOKENS = [3, 141, 59, 26, 53, 58, 97, 93]


def mixed(name: str) -> QuantScheme:
    return W8 if "down_proj" in name or "layers.0" in name else W4


def skeleton_of(folder, scheme_of) -> MemorySkeleton:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return MemorySkeleton(model, scheme_of, tokenizer_folder=folder)


def lower(skeleton, folder, target=TARGET):
    return BACKEND.lower(skeleton, target, folder, lambda what, share: None)


@pytest.fixture(scope="module")
def skeleton(tiny_checkpoint):
    return skeleton_of(tiny_checkpoint, mixed)


@pytest.fixture(scope="module")
def folder(skeleton, tmp_path_factory):
    path = tmp_path_factory.mktemp("executorch")
    lower(skeleton, path)
    return path


@pytest.fixture(scope="module")
def unrounded(tiny_checkpoint, tmp_path_factory):
    """The same graph with activations left float: what remains is the order of summation."""
    skeleton, path = skeleton_of(tiny_checkpoint, lambda name: W8_FLOAT), tmp_path_factory.mktemp("float")
    lower(skeleton, path)
    return skeleton, path


def logits_of(model: torch.nn.Module) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([TOKENS])).logits[0].numpy()


def test_graph_computes_what_pytorch_computes(unrounded):
    skeleton, path = unrounded
    expected = logits_of(dequantized_model(skeleton, quantize_activations=False))
    runner = BACKEND.open_text(path, "float")
    scale = np.abs(expected).max()
    # float32 in another order through 2 layers of sums over at most 128 products: 4 * 128 roundings of
    # 2^-24 each is 3e-5 of the largest; sigmoid, rsqrt, sin and cos of XNNPACK add a few units each.
    step_by_step = np.concatenate([runner.forward([token]) for token in TOKENS])
    assert np.abs(step_by_step - expected).max() <= 5e-5 * scale
    runner.reset()
    assert np.abs(runner.forward(TOKENS) - expected[-1:]).max() <= 5e-5 * scale
    runner.reset()
    runner.forward(TOKENS[:3])
    assert np.abs(runner.forward(TOKENS[3:]) - expected[-1:]).max() <= 5e-5 * scale


def test_rounded_activations_are_those_of_the_reference(skeleton, folder):
    expected = logits_of(dequantized_model(skeleton, quantize_activations=True))
    unrounded = logits_of(dequantized_model(skeleton, quantize_activations=False))
    runner = BACKEND.open_text(folder)
    found = np.concatenate([runner.forward([token]) for token in TOKENS])
    # A last-bit difference can turn the rounding of one activation; that costs one step of 1/255 of its
    # token's range. The whole of the rounding noise, by contrast, is what separates `unrounded`.
    noise = np.sqrt(np.mean((expected - unrounded) ** 2))
    assert np.sqrt(np.mean((found - expected) ** 2)) <= noise


def test_every_integer_is_in_the_file(skeleton, folder):
    assert_holds_every_integer(skeleton, folder)


def assert_holds_every_integer(skeleton, folder) -> None:
    found = BACKEND.read_back(folder)
    assert set(found) == set(skeleton.layers)
    for name, planned in skeleton.layers.items():
        quantized = planned.load()
        scales, _, group = canonical_granularity(quantized.row_scales(), None, quantized.values.shape[1])
        np.testing.assert_array_equal(found[name].values, quantized.values, err_msg=name)
        np.testing.assert_array_equal(found[name].scales, scales, err_msg=name)
        assert (found[name].bits, found[name].group) == (planned.scheme.bits, group), name
        assert found[name].bytes == BACKEND.layer_bytes(planned.info, planned.scheme, TARGET), name


@pytest.mark.parametrize("scheme", [W4, W8], ids=QuantScheme.describe)
def test_a_tied_table_is_stored_once(scheme, tiny_checkpoint, tmp_path):
    skeleton = skeleton_of(tiny_checkpoint, lambda name: scheme)
    lower(skeleton, tmp_path)
    planned = skeleton.layers["lm_head"]
    assert planned.info.tied_to == "model.embed_tokens"
    found = BACKEND.read_back(tmp_path)
    np.testing.assert_array_equal(found["lm_head"].values, found["model.embed_tokens"].values)
    assert found["lm_head"].bytes == 0  # neither a table nor scales of its own
    data = (tmp_path / "model.pte").read_bytes()
    table = planned.load().values
    if scheme is W8:
        assert data.count(table.tobytes()) == 1
    runner = BACKEND.open_text(tmp_path)
    expected = logits_of(dequantized_model(skeleton, quantize_activations=True))
    unrounded = logits_of(dequantized_model(skeleton, quantize_activations=False))
    noise = np.sqrt(np.mean((expected - unrounded) ** 2))
    assert np.sqrt(np.mean((runner.forward(TOKENS) - expected[-1:]) ** 2)) <= noise


def weights_in(folder) -> list[str]:
    """Each quantised weight of the delegates, by the name under which the file holds it."""
    file = open_program(folder / "model.pte")
    return sorted(
        file.named_constant(graph.constant_keys[weight["tensor_value"]["constant_buffer_idx"]])[0]
        for graph in delegate_graphs(file)
        for weight in graph.filters()
    )


def test_layers_of_one_input_are_one_product_and_read_back_one_by_one(tiny_checkpoint, tmp_path):
    skeleton = skeleton_of(tiny_checkpoint, lambda name: W4)
    facts = lower(skeleton, tmp_path)
    layers = skeleton.config.num_hidden_layers
    assert facts["passes"] == {"packed_siblings": {"applied": 2 * layers, "left": 0, "why": []}}
    rows = {name: planned.info.shape[0] for name, planned in skeleton.layers.items()}
    expected = ["lm_head.weight"]
    for index in range(layers):
        block = f"model.layers.{index}"
        expected += [f"{block}.mlp.down_proj.weight", f"{block}.self_attn.o_proj.weight"]
        for siblings in (["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], MLP_INPUTS):
            names = [f"{block}.{sibling}" for sibling in siblings]
            expected.append("|".join(f"{name}={rows[name]}" for name in names) + ".weight")
    assert weights_in(tmp_path) == sorted(expected)
    assert_holds_every_integer(skeleton, tmp_path)


def test_layers_that_differ_stay_apart_and_are_counted(tiny_checkpoint, tmp_path):
    """Of queries, keys and values in 4, 4 and 8 bits the first two are one; of gate and up in 4 and 8, none."""
    eight = ("v_proj", "up_proj")
    skeleton = skeleton_of(tiny_checkpoint, lambda name: W8 if name.endswith(eight) else W4)
    facts = lower(skeleton, tmp_path)
    layers = skeleton.config.num_hidden_layers
    why = f"{3 * layers} x a layer of other bits, group or activations than those beside it"
    assert facts["passes"] == {"packed_siblings": {"applied": layers, "left": 3 * layers, "why": [why]}}
    assert_holds_every_integer(skeleton, tmp_path)
    assert [name.count("=") for name in weights_in(tmp_path) if "|" in name] == [2] * layers


def test_wide_layers_stay_apart_and_are_counted(tiny_checkpoint, tmp_path, monkeypatch):
    """Here queries, keys and values have 128 outputs for 64 inputs, gate and up 256."""
    monkeypatch.setattr(packing, "_WIDEST", 3)
    skeleton = skeleton_of(tiny_checkpoint, lambda name: W4)
    facts = lower(skeleton, tmp_path)
    layers = skeleton.config.num_hidden_layers
    why = f"{layers} x layers of one input with more than 3 times as many outputs together"
    assert facts["passes"] == {"packed_siblings": {"applied": layers, "left": layers, "why": [why]}}
    assert [name.count("=") for name in weights_in(tmp_path) if "|" in name] == [3] * layers


def test_packing_changes_no_logit(skeleton, folder, tmp_path, monkeypatch):
    """Rows of a product do not depend on one another: not a bit may differ."""
    monkeypatch.setattr(lowering, "pack", lambda program: {})
    lower(skeleton, tmp_path)
    assert not any("|" in name for name in weights_in(tmp_path))
    assert any("|" in name for name in weights_in(folder))
    together, apart = BACKEND.open_text(folder), BACKEND.open_text(tmp_path)
    for tokens in (TOKENS, TOKENS[:1], TOKENS[1:2]):
        np.testing.assert_array_equal(together.forward(tokens), apart.forward(tokens))


def test_a_name_that_does_not_divide_the_rows_is_noticed():
    assert list(operators.members("a=4|b=2", 6)) == [("a", slice(0, 4)), ("b", slice(4, 6))]
    assert list(operators.members("a=4", 6)) == [("a=4", slice(0, 6))]  # one layer, of an odd name
    with pytest.raises(ValueError) as caught:
        list(operators.members("a=4|b=2", 7))
    assert str(caught.value) == "a=4|b=2 does not divide the 7 rows of its weight"


def test_same_input_gives_the_same_bytes(skeleton, folder, tmp_path):
    lower(skeleton, tmp_path)
    assert (tmp_path / "model.pte").read_bytes() == (folder / "model.pte").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in folder.iterdir())


def test_executorchs_own_runner_loads_the_folder(folder):
    import executorch.extension.llm.custom_ops.custom_ops
    import executorch.kernels.quantized  # noqa: F401
    from executorch.extension.llm.runner import GenerationConfig, TextLLMRunner

    prompt, stats = "hello", []
    runner = TextLLMRunner(str(folder / "model.pte"), str(folder / "tokenizer.json"))
    # No token callback: a random model's bytes are not UTF-8, which the binding insists on.
    runner.generate(prompt, GenerationConfig(max_new_tokens=8, temperature=0.0), stats_callback=stats.append)
    assert stats[0].num_prompt_tokens == len(prompt)  # a byte a token
    assert 1 <= stats[0].num_generated_tokens <= 8


def test_tokens_beyond_the_cache_are_refused(folder):
    runner = BACKEND.open_text(folder)
    runner.forward([1] * 60)
    with pytest.raises(ArtifactError) as caught:
        runner.forward([1] * 5)
    assert str(caught.value) == (
        f"{folder / 'model.pte'}: 5 tokens at position 60 do not fit; the program holds 1 to 64 tokens, set the "
        "target's max_context higher"
    )


def test_float_activations_are_refused_where_xnnpack_rounds_them(folder):
    with pytest.raises(ArtifactError) as caught:
        BACKEND.open_text(folder, "float")
    assert str(caught.value) == (
        f"{folder / 'model.pte'}: XNNPACK quantises the activations of dynamic-int8 layers whenever it runs; "
        "open it as shipped"
    )


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ArtifactError) as caught:
        BACKEND.open_text(tmp_path)
    assert str(caught.value) == f"{tmp_path / 'model.pte'}: is missing; run the recipe again"


def test_a_changed_weight_is_noticed(folder, skeleton, tmp_path):
    data = bytearray((folder / "model.pte").read_bytes())
    values = skeleton.layers["model.layers.0.mlp.down_proj"].load().values.tobytes()
    data[data.index(values)] ^= 1
    (tmp_path / "model.pte").write_bytes(data)
    with pytest.raises(ArtifactError) as caught:
        BACKEND.read_back(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'model.pte'}: the bytes of the weight of model.layers.0.mlp.down_proj are not those that "
        "were written; run the recipe again"
    )


@pytest.mark.parametrize("size", [0, 100, 20_000])
def test_a_truncated_file_is_no_program(folder, tmp_path, size):
    (tmp_path / "model.pte").write_bytes((folder / "model.pte").read_bytes()[:size])
    with pytest.raises(ArtifactError, match="is no whole ExecuTorch program"):
        BACKEND.read_back(tmp_path)


def windowed_skeleton() -> MemorySkeleton:
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 128}
    config = MistralConfig(num_attention_heads=4, num_key_value_heads=2, sliding_window=8, **sizes)
    return MemorySkeleton(MistralForCausalLM(config).eval(), lambda name: W8_FLOAT)


def quirky_skeleton() -> MemorySkeleton:
    """Windows beside full layers, normed queries and keys, norms of 1 + weight, tanh-gelu, a scaled table."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "vocab_size": 128}
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    heads = {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 32, "layer_types": kinds}
    model = Gemma3ForCausalLM(Gemma3TextConfig(sliding_window=8, **heads, **sizes)).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:  # initialised to 0, which would hide a norm's weight
            torch.nn.init.normal_(parameter, std=0.3)
    return MemorySkeleton(model, lambda name: FLOAT if "embed" in name else W8_FLOAT)


def biased_skeleton() -> MemorySkeleton:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 128}
    model = Qwen2ForCausalLM(Qwen2Config(num_attention_heads=4, num_key_value_heads=2, **sizes)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return MemorySkeleton(model, lambda name: W8_FLOAT)


@pytest.mark.parametrize("make", [quirky_skeleton, biased_skeleton])
def test_every_kind_of_block_is_one_delegate_and_computes_what_pytorch_computes(make, tmp_path):
    skeleton = make()
    facts = lower(skeleton, tmp_path)
    layers = skeleton.config.num_hidden_layers
    # One in front of each attention, one behind the last, and one for what only positions decide.
    assert facts["delegates"]["XnnpackBackend"] <= layers + 2
    tokens = torch.arange(40).mul(37).remainder(128)
    with torch.no_grad():
        expected = skeleton.dequantized()(tokens[None]).logits[0].numpy()
    runner = BACKEND.open_text(tmp_path)
    found = np.concatenate(
        [runner.forward(tokens[:30].tolist())] + [runner.forward([t]) for t in tokens[30:].tolist()]
    )
    # As above; sums over at most 96 products, 3 layers.
    assert np.abs(found - expected[29:]).max() <= 5e-5 * np.abs(expected).max()


# How far logits may lie from PyTorch's, as a share of the largest, for each type of KV cache. float32: order
# of summation, as above. float16 rounds a key or value by 2^-11 of itself, int8 by 1/510 of its token's
# range (at most twice its largest number: 2^-7); errors of many tokens average out in both.
CACHE_TOLERANCE = {"float32": 5e-5, "float16": 2**-11, "int8": 2**-7}


@pytest.mark.parametrize("kv_cache", CACHE_TOLERANCE)
def test_a_sliding_window_is_kept_in_a_ring(kv_cache, tmp_path):
    """More tokens than the ring has slots, in one prompt, in pieces and one by one."""
    skeleton = windowed_skeleton()
    target = Target("executorch", max_context=512, kv_cache=kv_cache)
    lower(skeleton, tmp_path, target)
    tokens = torch.arange(300).mul(37).remainder(128)
    with torch.no_grad():
        expected = skeleton.dequantized()(tokens[None]).logits[0].numpy()
    slots = 8 - 1 + 256
    assert cache_slots(target, CacheShape(2, 16, 8)) == slots < len(tokens)
    limit = CACHE_TOLERANCE[kv_cache] * np.abs(expected).max()
    runner = BACKEND.open_text(tmp_path)
    prompt = tokens.tolist()
    assert np.abs(runner.forward(prompt) - expected[-1:]).max() <= limit
    runner.reset()
    runner.forward(prompt[:290])
    steps = np.concatenate([runner.forward([token]) for token in prompt[290:]])
    assert np.abs(steps - expected[290:]).max() <= limit
    runner.reset()  # what the ring still holds is not seen again
    assert np.abs(runner.forward(prompt[:20]) - expected[19:20]).max() <= limit


@pytest.mark.parametrize("kv_cache", CACHE_TOLERANCE)
def test_the_cache_takes_the_bytes_that_the_plan_counts(kv_cache, tmp_path):
    """The program's planned memory, less what a program with a cache half as long takes."""
    sizes, counted = [], []
    for context in (512, 1024):
        target = Target("executorch", max_context=context, kv_cache=kv_cache)
        skeleton = skeleton_of_context(context)
        folder = tmp_path / str(context)
        folder.mkdir()
        lower(skeleton, folder, target)
        sizes.append(
            sum(plan.non_const_buffer_sizes[1] for plan in open_program(folder / "model.pte").plans[:1])
        )
        counted.append(BACKEND.cache_bytes(target, cache_shapes(skeleton.config)))
    # Every buffer is aligned to 16 bytes, and there are at most six per layer.
    assert abs((sizes[1] - sizes[0]) - (counted[1] - counted[0])) <= 2 * 6 * 16


def skeleton_of_context(context: int) -> MemorySkeleton:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 64}
    config = LlamaConfig(
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=context, **sizes
    )
    return MemorySkeleton(LlamaForCausalLM(config).eval(), lambda name: W8_FLOAT)
