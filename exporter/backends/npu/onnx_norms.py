"""Root mean square norms as one operator, as the QNN provider computes them in integers.

Taken apart, as torch.onnx translates them, their squares and means run in float16 on the HTP without a word: a value
beyond 256 has no square there (docs/npu.md).
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from exporter.backends.ort.passes.matching import only_reader, producer
from exporter.errors import LoweringError


def whole_rms_norms(model: ir.Model) -> None:
    """In place: x / sqrt(mean(x²) + eps) * weight -> SimplifiedLayerNormalization. Raises LoweringError for a mean of
    squares that is no such norm."""
    for mean in [node for node in model.graph if node.op_type == "ReduceMean"]:
        if producer(mean.inputs[0], "Pow") is None:
            continue
        chain = _chain(mean)
        if chain is None:
            raise LoweringError(
                f"{mean.name}: is a mean of squares that is not part of a root mean square norm; on Qualcomm's HTP its "
                "squares would be float16, which end at 65,504. Write the norm as torch.nn.functional.rms_norm"
            )
        shift, inverse, scaled, product = chain
        assert shift.inputs[1] is not None
        epsilon = ir.convenience.get_const_tensor(shift.inputs[1])
        assert epsilon is not None
        x, weight = (_other(node, read.outputs[0]) for node, read in ((scaled, inverse), (product, scaled)))
        norm = ir.node(
            "SimplifiedLayerNormalization",
            [x, weight],
            {"axis": -1, "epsilon": float(epsilon.numpy().item()), "stash_type": 1},
            name=product.name,
        )
        norm.outputs[0].shape, norm.outputs[0].type = product.outputs[0].shape, product.outputs[0].type
        model.graph.insert_before(product, norm)
        product.outputs[0].replace_all_uses_with(norm.outputs[0])
    RemoveUnusedNodesPass()(model)


def _chain(mean: ir.Node) -> tuple[ir.Node, ir.Node, ir.Node, ir.Node] | None:
    """The addition of epsilon, the reciprocal and the products with x and with the weight that follow a mean."""
    found = [mean]
    for kind in ("Add", "Sqrt", "Reciprocal", "Mul", "Mul"):
        reader = only_reader(found[-1].outputs[0])
        if reader is None or reader.op_type != kind:
            return None
        found.append(reader)
    _, shift, _, inverse, scaled, product = found
    return shift, inverse, scaled, product


def _other(node: ir.Node, known: ir.Value) -> ir.Value:
    """The input of a product that is not this one."""
    found = next(value for value in node.inputs if value is not known)
    assert found is not None
    return found
