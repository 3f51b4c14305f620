"""Which layer runs with which scheme in which ONNX Runtime, and what it costs. Pure: no imports.

The limits were measured by running each kernel of ONNX Runtime 1.20.1, 1.21.1, 1.22.1, 1.23.2,
1.24.4, 1.26.0, 1.28.0 and 1.32.0 against the NumPy product:
- MatMulNBits takes blocks of 16, 32, 64, 128, 256. Larger ones give garbage without an error before
  1.28 (1.20 to 1.26 seen), although the operator's schema allows any power of two.
- 8-bit MatMulNBits: 1.23. In 1.22 accuracy_level 4 works and 0 fails at run time; 1.20 refuses both.
- GatherBlockQuantized on packed uint8 data: 1.22 for 4 bits without zero points, 1.23 for the `bits`
  attribute (8 bits) and for zero points. 4-bit zero points of a row with an odd number of blocks are
  read from the wrong nibble up to 1.26; 1.28 is right.
- GroupQueryAttention with scale and softcap: 1.20; a sliding window: 1.24; int8 keys and values: 1.28;
  buffers as short as the window: 1.29, which was run beside 1.30.0 and 1.31.1 (see below).
"""

from __future__ import annotations

from collections.abc import Sequence

from exporter.backends.base import Target
from exporter.layers import CacheShape, LayerInfo
from exporter.schemes import QuantScheme
from exporter.targets import KV_CACHE_BYTES

BLOCKS = (256, 128, 64, 32, 16)
OLDEST_RUNTIME: tuple[int, ...] = (1, 20)
# GroupQueryAttention's local_window_size = w saw w + 1 tokens up to 1.23 and sees w from 1.24 on.
SLIDING_WINDOW_RUNTIME: tuple[int, ...] = (1, 24)
# KV buffers as short as a sliding window (sliding_window_cache): 1.28 refuses the attribute, 1.29 and later
# compute what whole buffers give, whatever the slack and however a text is cut into calls.
WINDOW_CACHE_RUNTIME: tuple[int, ...] = (1, 29)
# Places behind the window, so that a buffer is moved up once in 17 steps: onnxruntime-genai's own number.
WINDOW_SLACK = 16
_SCALE_BYTES, _NARROW_SCALE_BYTES = 4, 2  # float32 and bfloat16
# int8 keys and values in GroupQueryAttention on CPU: 1.28 and 1.32 run them, 1.26 and older refuse.
INT8_CACHE_RUNTIME: tuple[int, ...] = (1, 28)
# Keys and values in float16 beside float32 queries run from 1.28 on. Time of one GroupQueryAttention against
# float32's (9 heads, 3 kv heads, size 64, past and present one buffer of 2,048 tokens, 1.32 on two x86 cores;
# medians of alternating runs): one token over 512: float16 3.5 to 4.2, int8 1.0; a prompt of 256: float16 0.8
# to 1.1, int8 2.5; of 1,024: int8 2.9 to 3.4. With buffers as long as what they hold, one token over 512 took
# 58 us in float32, 98 in float16, 41 in int8.
_NO_FLOAT16_CACHE = (
    "kv_cache float16: one token's attention over 512 in a buffer of 2,048 took more than 3 times as long as in"
    " float32 (ONNX Runtime 1.32 on x86); set kv_cache: int8, a quarter of float32's size, where that took as"
    " long as in float32 and a prompt of 256 tokens 2.5 times as long, or kv_cache: float32"
)


def parse_version(text: str) -> tuple[int, ...] | None:
    """ "1.23" or "1.23.2" -> numbers; None where it is not a version."""
    parts = text.split(".")
    if not parts or not all(part.isdigit() for part in parts):
        return None
    return tuple(int(part) for part in parts)


def block_size(scheme: QuantScheme, in_features: int) -> int | None:
    """Block of MatMulNBits / GatherBlockQuantized that stores this scheme, or None.

    The kernels know only blocks: they read a scale per channel or per tensor once per block, so the
    largest block that divides the row costs least.
    """
    if isinstance(scheme.group, int):
        return scheme.group if in_features % scheme.group == 0 and scheme.group in BLOCKS else None
    return next((block for block in BLOCKS if in_features % block == 0), None)


def required_runtime(layer: LayerInfo, scheme: QuantScheme) -> tuple[tuple[int, ...], str]:
    """Oldest ONNX Runtime for a quantised layer, and the operator and reason in words."""
    if scheme.is_static:
        return OLDEST_RUNTIME, "QuantizeLinear and DequantizeLinear"
    if layer.kind == "embedding":
        block = block_size(scheme, layer.shape[1])
        odd = block is not None and (layer.shape[1] // block) % 2 == 1
        if scheme.bits == 4 and not scheme.symmetric and odd:
            return (1, 28), (
                "GatherBlockQuantized reads 4-bit zero points of a row with an odd number of blocks wrongly"
            )
        if scheme.bits == 8:
            return (1, 23), "GatherBlockQuantized has no 8-bit weights"
        if not scheme.symmetric:
            return (1, 23), "GatherBlockQuantized has no zero points for packed 4-bit weights"
        return (1, 22), "GatherBlockQuantized has no packed 4-bit weights"
    if scheme.bits == 8:
        return (1, 23), "MatMulNBits has no complete 8-bit kernel"
    return OLDEST_RUNTIME, "MatMulNBits"


def unsupported(layer: LayerInfo, scheme: QuantScheme, target: Target) -> str | None:
    """Why this layer cannot run with this scheme on this target, or None."""
    if target.ep != "cpu":
        return (
            f"execution provider {target.ep!r} is not built: the kernels are proven for `cpu` only;"
            " set ep: cpu"
        )
    if target.min_runtime is not None:
        problem = _runtime_problem(layer, scheme, target.min_runtime)
        if problem is not None:
            return problem
    if scheme.is_float:
        return None
    if scheme.is_static:
        return _unsupported_static(layer, scheme)
    if layer.kind == "conv" and not layer.pointwise:
        return (
            "a convolution of several places is quantised with static activations only: MatMulNBits, which takes"
            " float or dynamic ones, multiplies matrices; set activations: static-int8, or use a float scheme"
        )
    in_features = layer.shape[1]
    if block_size(scheme, in_features) is None:
        if isinstance(scheme.group, int):
            return (
                f"group {scheme.group} does not divide the {in_features} input features; use a group of"
                f" {_dividing(in_features)}"
            )
        return (
            f"{in_features} input features are not a multiple of 16, the smallest block of MatMulNBits"
            " and GatherBlockQuantized, which store a scale per block; use a float scheme"
        )
    return None


def _unsupported_static(layer: LayerInfo, scheme: QuantScheme) -> str | None:
    """Why QLinearConv and QGemm do not take this layer, or None."""
    if layer.kind == "embedding":
        return "an embedding takes token ids, which have no range; set activations: float"
    if scheme.activations == "static-int16":
        return (
            "ONNX Runtime's CPU has no integer kernel for 16-bit activations: the layer would run in float between"
            " conversions; set activations: static-int8"
        )
    if scheme.bits != 8 or isinstance(scheme.group, int):
        return (
            "integer convolutions and products take 8-bit weights with a scale per channel or tensor; set weights:"
            " int8 and group: channel, or activations: float for int4"
        )
    if not scheme.symmetric:
        return "integer convolutions take weights without zero points; set symmetric: true"
    return None


def _runtime_problem(layer: LayerInfo, scheme: QuantScheme, min_runtime: str) -> str | None:
    """Why the oldest runtime that the target allows is too old, or None."""
    version = parse_version(min_runtime)
    if version is None:
        return f'min_runtime {min_runtime!r} is not a version such as "1.23"'
    if version < OLDEST_RUNTIME:
        return (
            f"min_runtime {min_runtime} is older than {show_version(OLDEST_RUNTIME)}, the oldest ONNX Runtime"
            " that was tried; raise min_runtime"
        )
    if scheme.is_float or (layer.kind == "conv" and not layer.pointwise):
        return None
    oldest, reason = required_runtime(layer, scheme)
    if version < oldest:
        return (
            f"{reason} before ONNX Runtime {show_version(oldest)}, and min_runtime is {min_runtime}; raise"
            f" min_runtime to {show_version(oldest)} or use {_older_scheme(layer, scheme)}"
        )
    return None


def _older_scheme(layer: LayerInfo, scheme: QuantScheme) -> str:
    """What an older runtime takes instead."""
    if layer.kind != "embedding":
        return "int4 weights"
    if scheme.bits == 4 and not scheme.symmetric:
        return "a symmetric scheme"
    return "a float scheme"


def _dividing(in_features: int) -> str:
    """The groups that divide a row, for a message."""
    groups = [str(block) for block in sorted(BLOCKS) if block <= 128 and in_features % block == 0]
    return " or ".join(groups) if groups else "channel"


def show_version(version: tuple[int, ...]) -> str:
    """(1, 23) -> "1.23"."""
    return ".".join(map(str, version))


def layer_bytes(layer: LayerInfo, scheme: QuantScheme, target: Target) -> int:
    """Bytes of the layer's weight, scales and zero points in model.onnx.data.

    A tied layer costs nothing: the packed table serves both operators, and the float one too. Scales are
    bfloat16, one for each row where the scheme has no groups; zero points are stored for each block.
    """
    if layer.tied_to is not None:
        return 0
    if scheme.is_float:
        return layer.parameters * 4
    rows, in_features = layer.shape[0], layer.parameters // layer.shape[0]
    if scheme.is_static:  # a scale and a zero point for each row, and a scale for its bias
        return layer.parameters + rows * (2 * _SCALE_BYTES + 1)
    block = block_size(scheme, in_features)
    if block is None:
        raise ValueError(f"{layer.name}: no block of ONNX Runtime stores {scheme.describe()}")
    blocks = in_features // block
    zero_points = 0 if scheme.symmetric else -(-blocks * scheme.bits // 8)
    return rows * (
        in_features * scheme.bits // 8 + scheme.groups(in_features) * _NARROW_SCALE_BYTES + zero_points
    )


def required_cache_runtime(target: Target) -> tuple[int, ...]:
    """Oldest ONNX Runtime for the target's type of KV cache."""
    return INT8_CACHE_RUNTIME if target.kv_cache == "int8" else OLDEST_RUNTIME


def unsupported_cache(target: Target, cache: Sequence[CacheShape]) -> str | None:
    """Why this target cannot hold such a KV cache, or None."""
    if target.kv_cache == "float16":
        return _NO_FLOAT16_CACHE
    version = parse_version(target.min_runtime) if target.min_runtime else None
    oldest = required_cache_runtime(target)
    if version is not None and version < oldest:
        return (
            f"kv_cache {target.kv_cache}: GroupQueryAttention holds none on CPU before ONNX Runtime"
            f" {show_version(oldest)}, and min_runtime is {target.min_runtime}; raise min_runtime to"
            f" {show_version(oldest)} or set kv_cache: float32"
        )
    slides = any(layer.window is not None and layer.window < target.max_context for layer in cache)
    if slides and version is not None and version < SLIDING_WINDOW_RUNTIME:
        return (
            "the model attends through a sliding window, which ONNX Runtime before"
            f" {show_version(SLIDING_WINDOW_RUNTIME)} makes one token too wide, and min_runtime is"
            f" {target.min_runtime}; raise min_runtime to {show_version(SLIDING_WINDOW_RUNTIME)}"
        )
    return None


def window_slots(target: Target, context: int, windows: Sequence[int]) -> int | None:
    """Tokens that the KV buffers of layers with these sliding windows hold; None: the whole context.

    Only where the recipe names an oldest runtime that can, because such a file runs in no older one, and
    because onnxruntime-genai then needs a max_length of the window at least.
    """
    version = parse_version(target.min_runtime) if target.min_runtime else None
    if not windows or version is None or version < WINDOW_CACHE_RUNTIME:
        return None
    slots = max(windows) + WINDOW_SLACK
    return slots if slots < context else None


def cache_bytes(target: Target, cache: Sequence[CacheShape]) -> int:
    """Bytes of the KV cache at max_context, batch 1."""
    windows = [layer.window for layer in cache if layer.window is not None]
    slots = window_slots(target, target.max_context, windows)
    numbers = 0
    for layer in cache:
        tokens = target.max_context if layer.window is None or slots is None else slots
        numbers += 2 * tokens * layer.kv_heads * layer.head_size
    return numbers * KV_CACHE_BYTES[target.kv_cache]
