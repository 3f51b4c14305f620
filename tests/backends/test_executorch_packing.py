"""Queries, keys and values, gate and up as one product: what is joined, what is left and why, what a file holds."""

from __future__ import annotations

import pytest
from ort_skeleton import MemorySkeleton

from exporter.backends import get_backend
from exporter.backends.executorch.operators import members
from exporter.backends.executorch.reading import delegate_graphs, open_program
from exporter.numerics import canonical_granularity
from exporter.schemes import QuantScheme
from exporter.targets import Target

BACKEND = get_backend("executorch")
W4 = QuantScheme("w4", "int4", 32, activations="dynamic-int8")
W8 = QuantScheme("w8", "int8", "channel", activations="dynamic-int8")
LAYERS = 2  # of the tiny checkpoint


def lowered(folder, place, scheme_of):
    from transformers import AutoModelForCausalLM

    skeleton = MemorySkeleton(
        AutoModelForCausalLM.from_pretrained(folder), scheme_of, tokenizer_folder=folder
    )
    facts = BACKEND.lower(skeleton, Target("executorch", max_context=64), place, lambda what, share: None)
    return skeleton, facts["passes"]["packed_siblings"]


def products(place) -> int:
    """Fully-connected nodes with integer weights in all delegates."""
    return sum(len(list(graph.filters())) for graph in delegate_graphs(open_program(place / "model.pte")))


def test_one_product_for_queries_keys_and_values_and_one_for_gate_and_up(tiny_checkpoint, tmp_path):
    skeleton, counts = lowered(tiny_checkpoint, tmp_path, lambda name: W4)
    assert counts == {"applied": 2 * LAYERS, "left": 0, "why": []}
    # a block: q+k+v, o, gate+up, down; and the output layer
    assert products(tmp_path) == 4 * LAYERS + 1
    found = BACKEND.read_back(tmp_path)
    assert found.keys() == skeleton.layers.keys()
    for name, planned in skeleton.layers.items():
        tensor = planned.load()
        scales, _, _ = canonical_granularity(tensor.row_scales(), None, tensor.values.shape[1])
        assert (found[name].values == tensor.values).all(), name
        assert (found[name].scales == scales).all(), name


def test_a_layer_of_other_bits_is_left_and_counted(tiny_checkpoint, tmp_path):
    _, counts = lowered(tiny_checkpoint, tmp_path, lambda name: W8 if "v_proj" in name else W4)
    why = f"{LAYERS} x a layer of other bits, group or activations than those beside it"
    assert counts == {"applied": 2 * LAYERS, "left": LAYERS, "why": [why]}
    assert products(tmp_path) == 5 * LAYERS + 1


def test_rows_are_shared_out_by_the_name():
    assert list(members("a.q=3|a.k=1", 4)) == [("a.q", slice(0, 3)), ("a.k", slice(3, 4))]
    assert list(members("a.q", 4)) == [("a.q", slice(0, 4))]


@pytest.mark.parametrize("name", ["a.q=3|a.k=2", "a.q=3|a.k", "a.q|a.k=4"])
def test_a_name_that_does_not_fit_its_weight_is_refused(name):
    with pytest.raises(ValueError, match=r"does not divide the 4 rows of its weight$"):
        list(members(name, 4))
