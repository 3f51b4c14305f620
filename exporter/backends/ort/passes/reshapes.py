"""Reshapes whose new shape is computed from the old one, such as (batch, tokens, 576) -> (batch, tokens, 9, 64): the
axes in front that stay are a 0 in a constant shape (Reshape, ONNX operator set 14), and the arithmetic goes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporter.backends.ort.passes.matching import attribute, initializer
from exporter.backends.ort.passes.outcome import Outcome


def keep_axes(model: ir.Model) -> Outcome:
    """In place."""
    outcome = Outcome()
    for node in [node for node in model.graph if node.op_type == "Reshape"]:
        shape = node.inputs[1]
        if shape is None or shape.const_value is not None or attribute(node, "allowzero", 0):
            continue
        kept = _constant(node.inputs[0], node.outputs[0])
        if kept is None:
            outcome.leave("more than the last axes of a reshape are computed")
            continue
        name = "reshape_" + "_".join(map(str, kept)).replace("-", "m")
        held = model.graph.initializers.get(name)
        if held is None:
            held = initializer(model.graph, name, ir.tensor(np.asarray(kept, np.int64), name=name))
        node.replace_input_with(1, held)
        outcome.applied += 1
    return outcome


def _constant(given: ir.Value | None, made: ir.Value) -> list[int] | None:
    """The shape with 0 for axes in front that stay, or None."""
    if given is None or given.shape is None or made.shape is None:
        return None
    found: list[int] = []
    for axis, size in enumerate(made.shape):
        if isinstance(size, int):
            found.append(size)
        elif axis < len(given.shape) and given.shape[axis] == size and axis == len(found) and not any(found):
            found.append(0)
        else:
            return None
    return found
