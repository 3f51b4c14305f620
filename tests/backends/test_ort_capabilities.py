"""What ONNX Runtime is asked to do, what it is refused, and what a layer costs."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from exporter.backends.base import Target
from exporter.backends.ort import BACKEND
from exporter.layers import CacheShape, LayerInfo
from exporter.schemes import FLOAT, QuantScheme

LINEAR = LayerInfo("model.layers.0.mlp.down_proj", "linear", (576, 1536))
EMBEDDING = LayerInfo("model.embed_tokens", "embedding", (49152, 576))
TARGET = Target("onnxruntime")
W4 = QuantScheme("w4", "int4", 32)
W8 = QuantScheme("w8", "int8", "channel")


@pytest.mark.parametrize("weights", ["int4", "int8"])
@pytest.mark.parametrize("group", [16, 32, 64, 128, "channel", "tensor"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("activations", ["float", "dynamic-int8"])
def test_every_scheme_of_a_recipe_runs_where_the_group_divides(
    weights: Any, group: Any, symmetric: bool, activations: Any
) -> None:
    scheme = QuantScheme("s", weights, group, symmetric, activations)
    assert BACKEND.unsupported(LINEAR, scheme, TARGET) is None
    assert BACKEND.unsupported(replace(EMBEDDING, shape=(100, 512)), scheme, TARGET) is None


def test_float_layers_are_always_allowed() -> None:
    for kind, shape in (("linear", (7, 5)), ("embedding", (9, 3)), ("conv", (8, 4, 3, 3))):
        layer = LayerInfo("x", kind, shape)  # type: ignore[arg-type]
        assert BACKEND.unsupported(layer, FLOAT, replace(TARGET, min_runtime="1.20")) is None


REFUSALS: list[tuple[LayerInfo, QuantScheme, Target, str]] = [
    (
        LINEAR,
        W8,
        replace(TARGET, min_runtime="1.22"),
        "MatMulNBits has no complete 8-bit kernel before ONNX Runtime 1.23, and min_runtime is 1.22;"
        " raise min_runtime to 1.23 or use int4 weights",
    ),
    (
        EMBEDDING,
        W8,
        replace(TARGET, min_runtime="1.22.1"),
        "GatherBlockQuantized has no 8-bit weights before ONNX Runtime 1.23, and min_runtime is 1.22.1;"
        " raise min_runtime to 1.23 or use a float scheme",
    ),
    (
        EMBEDDING,
        W4,
        replace(TARGET, min_runtime="1.21"),
        "GatherBlockQuantized has no packed 4-bit weights before ONNX Runtime 1.22, and min_runtime is"
        " 1.21; raise min_runtime to 1.22 or use a float scheme",
    ),
    (
        EMBEDDING,
        QuantScheme("a4", "int4", 64, symmetric=False),  # 576 / 64 = 9 blocks
        replace(TARGET, min_runtime="1.26"),
        "GatherBlockQuantized reads 4-bit zero points of a row with an odd number of blocks wrongly before"
        " ONNX Runtime 1.28, and min_runtime is 1.26; raise min_runtime to 1.28 or use a symmetric scheme",
    ),
    (
        LINEAR,
        W4,
        replace(TARGET, min_runtime="1.19"),
        "min_runtime 1.19 is older than 1.20, the oldest ONNX Runtime that was tried; raise min_runtime",
    ),
    (
        LINEAR,
        W4,
        replace(TARGET, min_runtime="latest"),
        "min_runtime 'latest' is not a version such as \"1.23\"",
    ),
    (
        LINEAR,
        W4,
        replace(TARGET, ep="qnn"),
        "execution provider 'qnn' is not built: the kernels are proven for `cpu` only; set ep: cpu",
    ),
    (
        LayerInfo("conv1", "conv", (8, 4, 3, 3)),
        W4,
        TARGET,
        "a convolution of several places is quantised with static activations only: MatMulNBits, which takes"
        " float or dynamic ones, multiplies matrices; set activations: static-int8, or use a float scheme",
    ),
    (
        EMBEDDING,
        QuantScheme("g128", "int4", 128),
        TARGET,
        "group 128 does not divide the 576 input features; use a group of 16 or 32 or 64",
    ),
    (
        replace(LINEAR, shape=(10, 30)),
        W8,
        TARGET,
        "30 input features are not a multiple of 16, the smallest block of MatMulNBits and"
        " GatherBlockQuantized, which store a scale per block; use a float scheme",
    ),
]


@pytest.mark.parametrize(("layer", "scheme", "target", "message"), REFUSALS)
def test_a_refusal_names_the_limit_and_the_way_out(
    layer: LayerInfo, scheme: QuantScheme, target: Target, message: str
) -> None:
    assert BACKEND.unsupported(layer, scheme, target) == message


def test_bytes_of_a_layer() -> None:
    # (576, 1536) at 4 bits, 48 scales a row of 2 bytes each
    assert BACKEND.layer_bytes(LINEAR, W4, TARGET) == 576 * (768 + 48 * 2)
    # a channel's scale is stored once, although the kernel reads one per 256 inputs
    assert BACKEND.layer_bytes(LINEAR, W8, TARGET) == 576 * (1536 + 2)
    # 576 = 9 * 64: nine 4-bit zero points take five bytes
    asymmetric = QuantScheme("a4", "int4", "channel", symmetric=False)
    assert BACKEND.layer_bytes(EMBEDDING, asymmetric, TARGET) == 49152 * (288 + 2 + 5)
    assert BACKEND.layer_bytes(LINEAR, FLOAT, TARGET) == 576 * 1536 * 4
    tied = LayerInfo("lm_head", "linear", (49152, 576), tied_to="model.embed_tokens")
    assert BACKEND.layer_bytes(tied, W4, TARGET) == 0


CACHE = (CacheShape(3, 64), CacheShape(3, 64, window=16), CacheShape(1, 256))


@pytest.mark.parametrize(
    ("kv_cache", "min_runtime"), [("float32", None), ("float32", "1.24"), ("int8", None), ("int8", "1.28")]
)
def test_kv_caches_that_run(kv_cache: Any, min_runtime: str | None) -> None:
    target = replace(TARGET, kv_cache=kv_cache, min_runtime=min_runtime)
    assert BACKEND.unsupported_cache(target, CACHE) is None


def test_an_int8_kv_cache_needs_a_recent_runtime() -> None:
    target = replace(TARGET, kv_cache="int8", min_runtime="1.26.0")
    assert BACKEND.unsupported_cache(target, CACHE) == (
        "kv_cache int8: GroupQueryAttention holds none on CPU before ONNX Runtime 1.28, and min_runtime is"
        " 1.26.0; raise min_runtime to 1.28 or set kv_cache: float32"
    )


def test_a_sliding_window_needs_a_runtime_that_counts_it_right() -> None:
    old = replace(TARGET, min_runtime="1.23")
    assert BACKEND.unsupported_cache(old, CACHE) == (
        "the model attends through a sliding window, which ONNX Runtime before 1.24 makes one token too"
        " wide, and min_runtime is 1.23; raise min_runtime to 1.24"
    )
    whole = replace(old, max_context=16)  # nobody looks further back than the window
    assert BACKEND.unsupported_cache(whole, CACHE) is None


def test_a_float16_kv_cache_is_refused() -> None:
    assert BACKEND.unsupported_cache(replace(TARGET, kv_cache="float16"), CACHE) == (
        "kv_cache float16: one token's attention over 512 in a buffer of 2,048 took more than 3 times as long as in"
        " float32 (ONNX Runtime 1.32 on x86); set kv_cache: int8, a quarter of float32's size, where that took as"
        " long as in float32 and a prompt of 256 tokens 2.5 times as long, or kv_cache: float32"
    )


def test_bytes_of_a_kv_cache() -> None:
    numbers = 2 * (3 * 64 + 3 * 64 + 256)  # keys and values of a token; a window does not shorten the cache
    for kv_cache, width in (("float32", 4), ("float16", 2), ("int8", 1)):
        target = replace(TARGET, kv_cache=kv_cache, max_context=512)  # type: ignore[arg-type]
        assert BACKEND.cache_bytes(target, CACHE) == 512 * numbers * width
    assert BACKEND.cache_bytes(TARGET, ()) == 0


def test_asking_imports_no_framework() -> None:
    code = (
        "import sys; from exporter.backends import get_backend; get_backend('onnxruntime');"
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
