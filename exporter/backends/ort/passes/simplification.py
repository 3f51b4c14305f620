"""Constants computed, equal nodes merged, unused ones dropped: what torch.onnx's translation leaves.

torch.onnx's own `optimize` runs onnxscript's whole rule set twice over the graph, which is more than
half of an export's time; none of its rewrites but these is needed. Merging comes first: the
translation repeats the arithmetic of sizes for each reshape, and later passes then see a third of the
nodes.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common
from onnxscript.optimizer import fold_constants

from exporter.backends.ort.passes.outcome import Outcome

# Elements. Holds the vector of any norm, but no weight matrix: none is copied.
_FOLD_BELOW = 1 << 13


def simplify(model: ir.Model) -> Outcome:
    """In place; `applied` counts the nodes that went."""
    before = len(list(model.graph))
    for one in (
        common.InlinePass(),
        common.CommonSubexpressionEliminationPass(),
        _fold,
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.RemoveUnusedNodesPass(),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    ):
        one(model)
    return Outcome(before - len(list(model.graph)))


def _fold(model: ir.Model) -> None:
    fold_constants(
        model, onnx_shape_inference=False, input_size_limit=_FOLD_BELOW, output_size_limit=_FOLD_BELOW
    )


def merge_equal(model: ir.Model) -> Outcome:
    """Merge what the fusions made equal and drop what they left unread."""
    before = len(list(model.graph))
    for one in (
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedOpsetsPass(),
    ):
        one(model)
    return Outcome(before - len(list(model.graph)))
