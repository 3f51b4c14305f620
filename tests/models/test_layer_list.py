"""What a configuration says of a model before any weight is read."""

import dataclasses

import pytest
from tiny_models import gemma_checkpoint, qwen_checkpoint

from exporter.layers import CacheShape, LayerInfo, ModelLayers
from exporter.models import layer_list
from exporter.models.causal_lm import CausalLM
from exporter.models.sources import ModelFiles


def layers_in(folder, cache):
    return CausalLM(ModelFiles(str(folder), folder, None), cache).layers()


def test_windows_and_a_scaled_tied_embedding(tmp_path):
    found = layers_in(gemma_checkpoint(tmp_path / "model"), tmp_path)
    assert found.cache == (CacheShape(1, 32, 8), CacheShape(1, 32, 8), CacheShape(1, 32))
    assert found.max_context == 256
    assert found.layers[0] == LayerInfo("model.embed_tokens", "embedding", (96, 64))
    assert found.layers[-1] == LayerInfo("lm_head", "linear", (96, 64), "model.embed_tokens")
    # four norms of 64 and two of 32 (the head) a block, and the last one
    assert found.other_parameters == 3 * (4 * 64 + 2 * 32) + 64
    assert layers_in(tmp_path / "model", tmp_path) == found  # from the cache


def test_biases_and_an_output_layer_of_its_own(tmp_path):
    found = layers_in(qwen_checkpoint(tmp_path / "model"), tmp_path)
    assert found.cache == (CacheShape(2, 16),) * 2
    assert all(layer.tied_to is None for layer in found.layers)
    # two norms a block, biases of 64 queries and twice 32 keys and values, and the last norm
    assert found.other_parameters == 2 * (2 * 64 + 64 + 2 * 32) + 64


@pytest.mark.parametrize(
    ("kind", "changes", "expected"),
    [
        ("llama", {}, (CacheShape(4, 16),) * 2),
        ("llama", {"head_dim": 24}, (CacheShape(4, 24),) * 2),
        ("mistral", {"num_key_value_heads": 2, "sliding_window": 12}, (CacheShape(2, 16, 12),) * 2),
        ("gpt2", {"n_embd": 64, "n_head": 4, "n_layer": 2}, (CacheShape(4, 16),) * 2),
    ],
)
def test_cache_shapes(kind, changes, expected):
    from transformers import AutoConfig

    sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 4}
    settings = changes if kind == "gpt2" else {**sizes, **changes}
    assert layer_list.cache_shapes(AutoConfig.for_model(kind, **settings)) == expected


def test_layers_that_keep_no_keys(tmp_path):
    from transformers import Lfm2Config

    config = Lfm2Config(
        hidden_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_hidden_layers=3,
        layer_types=["conv", "full_attention", "conv"],
    )
    assert layer_list.cache_shapes(config) == (CacheShape(2, 16),)


def test_what_is_kept_is_read_again(tmp_path):
    layers = ModelLayers(
        (LayerInfo("a", "linear", (4, 8), fixed="why"), LayerInfo("b", "embedding", (4, 8), "a")),
        7,
        "two layers",
        (CacheShape(1, 2, 3), CacheShape(1, 2)),
        64,
    )
    entry = layer_list.cache_entry(tmp_path, "{}", "text-generation")
    assert layer_list.read_cached(entry) is None
    layer_list.write_cached(entry, layers)
    assert layer_list.read_cached(entry) == layers
    entry.write_text(entry.read_text().replace('"cache"', '"other"'))
    assert layer_list.read_cached(entry) is None
    assert {field.name for field in dataclasses.fields(ModelLayers)} == {
        "layers", "other_parameters", "description", "cache", "max_context"
    }  # fmt: skip
