"""What ExecuTorch 1.5 with XNNPACK runs, and how many bytes a layer takes. Pure, no runtime imported.

Every line here was run: tests/backends/test_executorch_schemes.py lowers and executes each scheme that
is allowed, and shows that the refused ones do not run.
"""

from __future__ import annotations

from collections.abc import Sequence

from exporter.layers import CacheShape, LayerInfo
from exporter.schemes import QuantScheme
from exporter.targets import KV_CACHE_BYTES, Target

DELEGATES = ("xnnpack",)
_TOKENS_PER_CALL = 256
_BLOCK_STEP = 32  # XNNPACK: "group_size must be a multiple of 32" (operators/node_visitor.py)


def unsupported(layer: LayerInfo, scheme: QuantScheme, target: Target) -> str | None:
    """Why the layer cannot run with this scheme on this target, or None."""
    if target.delegate not in DELEGATES:
        return f"delegate {target.delegate!r} is not known; there is: {', '.join(DELEGATES)}"
    if scheme.is_float:
        return None
    if scheme.is_static:
        return _unsupported_static(layer, scheme)
    if layer.kind == "conv" and not layer.pointwise:
        return (
            "a convolution of several places is quantised with static activations only: XNNPACK has no kernel with "
            "8-bit weights and float input; set `activations: static-int8`, or `scheme: float` for this layer"
        )
    if scheme.bits == 4 and layer.shape[1] % 2:
        return (
            f"ExecuTorch packs two int4 weights into a byte and {layer.shape[1]} input features are odd; "
            "set int8 or `scheme: float`"
        )
    if layer.kind == "embedding":
        return None  # embedding_4bit and embedding_byte take any group, with or without zero points
    reason = _unsupported_linear(scheme)
    if reason is not None and layer.tied_to is not None:
        reason += f" for {layer.tied_to}, whose table this layer shares"
    return reason


def _unsupported_static(layer: LayerInfo, scheme: QuantScheme) -> str | None:
    """Why XNNPACK's qs8 kernels do not take this layer, or None."""
    if layer.kind == "embedding":
        return "an embedding takes token ids, which have no range; set `activations: float`"
    if scheme.activations != "static-int8":
        return (
            f"XNNPACK is reached with signed 8-bit activations only, not {scheme.activations}; set `activations: "
            "static-int8`"
        )
    if scheme.bits != 8 or isinstance(scheme.group, int):
        return (
            "XNNPACK's qs8 kernels take 8-bit weights with a scale per channel or tensor; set `weights: int8` and "
            "`group: channel`, or `activations: float` for int4"
        )
    if not scheme.symmetric:
        return "XNNPACK's qs8 kernels take weights without zero points; set `symmetric: true`"
    if layer.kind == "conv" and len(layer.shape) != 4:
        return (
            "XNNPACK is reached with integers by convolutions over height and width only; set `scheme: float` for this "
            "layer"
        )
    return None


def _unsupported_linear(scheme: QuantScheme) -> str | None:
    if not scheme.symmetric:
        return "XNNPACK's linear weights have no zero point; set `symmetric: true`"
    if isinstance(scheme.group, int):
        if scheme.bits == 8:
            return "XNNPACK has groups for int4 only; set `group: channel`"
        if scheme.group % _BLOCK_STEP:
            return f"XNNPACK's int4 groups are multiples of {_BLOCK_STEP}; set `group: {_BLOCK_STEP}`"
        if scheme.activations == "float":
            return (
                "XNNPACK has int4 groups with int8 activations only; set `activations: dynamic-int8`, "
                "or `group: channel`"
            )
    return None


def layer_bytes(layer: LayerInfo, scheme: QuantScheme, target: Target) -> int:
    """Bytes of the layer's weight, scales and zero points in model.pte.

    A table and scales that layers share are stored once and counted for the first of them.
    """
    rows, columns = layer.shape[0], layer.parameters // layer.shape[0]
    weights = layer.parameters * scheme.bits // 8
    if scheme.is_float:
        return 0 if layer.tied_to is not None else weights
    if layer.tied_to is not None:
        return 0
    scales = rows * scheme.groups(columns)  # one per row for `group: tensor` too: no kernel takes less
    width = 2 if has_narrow_scales(scheme) else 4
    return weights + scales * (width + (0 if scheme.symmetric else 4))  # float32 zero points


def has_narrow_scales(scheme: QuantScheme) -> bool:
    """Whether scales are stored as bfloat16, not float32.

    XNNPACK takes a scale for each row as float32 only, and the embedding kernels want scales of their zero
    points' type, which is that of their output.
    """
    return isinstance(scheme.group, int) and scheme.symmetric


def tokens_per_call(target: Target) -> int:
    """Most tokens that one call of the program takes; a longer prompt goes in pieces.

    It bounds the memory of activations and the slack of a window's ring. Longer pieces gain no speed.
    """
    return min(_TOKENS_PER_CALL, target.max_context)


def cache_slots(target: Target, layer: CacheShape) -> int:
    """Tokens that the layer's KV buffers hold.

    A ring holds the window of the oldest token of a call and all tokens of the call: they are written
    before attention reads.
    """
    if layer.window is None:
        return target.max_context
    return min(target.max_context, layer.window - 1 + tokens_per_call(target))


def unsupported_cache(target: Target, cache: Sequence[CacheShape]) -> str | None:
    """Why this target cannot hold such a KV cache, or None."""
    return None


def cache_bytes(target: Target, cache: Sequence[CacheShape]) -> int:
    """Bytes of the KV cache at max_context, batch 1."""
    total = 0
    for layer in cache:
        rows = 2 * cache_slots(target, layer) * layer.kv_heads  # keys and values
        total += rows * layer.head_size * KV_CACHE_BYTES[target.kv_cache]
        if target.kv_cache == "int8":
            total += rows * (4 + 1)  # a float32 scale and an int8 zero point
    return total
