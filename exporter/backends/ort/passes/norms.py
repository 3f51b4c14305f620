"""Norms and the residual sums before them, by onnxscript's own rules for ONNX Runtime."""

from __future__ import annotations

import onnx_ir as ir
from onnxscript.rewriter.ort_fusions.rms_normalization import fuse_rms_normalization
from onnxscript.rewriter.ort_fusions.skip_normalization import (
    fuse_skip_layer_normalization,
    fuse_skip_rms_normalization,
)

from exporter.backends.ort.passes.matching import only_reader, producer
from exporter.backends.ort.passes.outcome import Outcome


def fuse_rms_norms(model: ir.Model) -> Outcome:
    """x / sqrt(mean(x²) + eps) * weight -> SimplifiedLayerNormalization, the weight of any form."""
    outcome = Outcome(fuse_rms_normalization(model))
    for node in model.graph:
        if node.op_type == "ReduceMean" and producer(node.inputs[0], "Pow") is not None:
            outcome.leave("a mean of squares that is not the start of an RMS norm with a float weight")
    return outcome


def move_norms_before_transposes(model: ir.Model) -> Outcome:
    """norm(Transpose(x)) -> Transpose(norm(x)) where the last axis stays: norms of queries and keys by
    head, which would otherwise stand between a projection and the rotation of its heads."""
    outcome = Outcome()
    for node in [n for n in model.graph if n.op_type == "SimplifiedLayerNormalization"]:
        transpose = producer(node.inputs[0], "Transpose")
        if transpose is None:
            continue
        source, moved, result = transpose.inputs[0], transpose.outputs[0], node.outputs[0]
        perm = transpose.attributes.get("perm")
        order = [] if perm is None else list(perm.as_ints())
        if source is None or not order or order[-1] != len(order) - 1 or only_reader(moved) is not node:
            outcome.leave("a norm of a transposed tensor whose last axis moves or that others read")
            continue
        node.replace_input_with(0, source)
        turned = ir.node("Transpose", [result], attributes={"perm": order})
        turned.outputs[0].type, turned.outputs[0].shape = result.type, result.shape
        result.replace_all_uses_with(turned.outputs[0])
        turned.replace_input_with(0, result)
        result.shape = source.shape
        node.append(turned)
        outcome.applied += 1
    return outcome


def fuse_skip_norms(model: ir.Model) -> Outcome:
    """SimplifiedLayerNormalization(a + b) -> SkipSimplifiedLayerNormalization, which also gives a + b."""
    outcome = Outcome(fuse_skip_rms_normalization(model))
    for node in model.graph:
        if node.op_type == "SimplifiedLayerNormalization" and producer(node.inputs[0], "Add") is not None:
            outcome.leave("a norm of a sum whose terms have different or unknown shapes")
    return outcome


def fuse_skip_layer_norms(model: ir.Model) -> Outcome:
    """LayerNormalization(a + b) -> SkipLayerNormalization, which also gives a + b."""
    outcome = Outcome(fuse_skip_layer_normalization(model))
    for node in model.graph:
        if node.op_type == "LayerNormalization" and producer(node.inputs[0], "Add") is not None:
            outcome.leave("a layer norm of a sum whose terms have different or unknown shapes")
    return outcome
