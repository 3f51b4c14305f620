"""From torch.onnx's graph to the one we ship, pass by pass. Each says what it did and what it left."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from exporter.backends.ort.passes.norms import (
    fuse_rms_norms,
    fuse_skip_layer_norms,
    fuse_skip_norms,
    move_norms_before_transposes,
)
from exporter.backends.ort.passes.outcome import Outcome
from exporter.backends.ort.passes.packing import pack_attention_inputs, pack_siblings
from exporter.backends.ort.passes.reshapes import keep_axes
from exporter.backends.ort.passes.rotary import fuse_rotary
from exporter.backends.ort.passes.round_trips import drop_round_trips
from exporter.backends.ort.passes.row_products import round_rows
from exporter.backends.ort.passes.scales import widen_scales
from exporter.backends.ort.passes.simplification import merge_equal, simplify

Pass = Callable[[ir.Model], Outcome]


def run(model: ir.Model, context: int | None, many_tokens: bool = False) -> dict[str, object]:
    """Run every pass in place; {"name": {"applied": n, "left": m, "why": […]}} for the manifest.

    `context`: rows of the rotary table, the longest context of a language model; None for another module.
    `many_tokens`: the graph is given many at a time, as an encoder is and a decoder is not.
    """
    passes: dict[str, Pass] = {
        "simplification": simplify,
        "rms_norm": fuse_rms_norms,
        "norm_before_transpose": move_norms_before_transposes,
    }
    if context is not None:
        passes["rotary"] = lambda model: fuse_rotary(model, context)
    passes |= {
        "round_trips": drop_round_trips,
        "skip_norm": fuse_skip_norms,
        "skip_layer_norm": fuse_skip_layer_norms,
        "packed_qkv": pack_attention_inputs,
        "reshapes": keep_axes,
    }
    if many_tokens:  # what it leaves is packed; its own products share the rounding of their input without
        passes["row_products"] = round_rows
    passes |= {"packed_siblings": pack_siblings, "bfloat16_scales": widen_scales, "merging": merge_equal}
    return {name: _outcome(one, model).facts() for name, one in passes.items()}


def _outcome(one: Pass, model: ir.Model) -> Outcome:
    """Run a pass, then drop what it left unread: the next one asks who reads a value."""
    outcome = one(model)
    RemoveUnusedNodesPass()(model)
    return outcome
