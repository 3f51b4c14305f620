"""Codes for every value of a program: what is decided, what is computed beforehand, and what it means in float."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import PlanError
from exporter.models.exporting import export
from exporter.schemes import QuantScheme
from exporter.static.calibrating import Pass, calibrate
from exporter.static.dialects import placed, prepared
from exporter.static.naming import operator_name
from exporter.static.params import (
    StaticPlan,
    ValueParams,
    params_for,
    quantize_bias,
    symmetric_params,
    wide_params,
)
from exporter.static.tidying import constant, constants_of


class Attends(torch.nn.Module):
    """A linear layer, a softmax over masked scores, a product of values, a normalisation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query, self.key = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)
        self.norm = torch.nn.LayerNorm(8)
        self.register_buffer("places", torch.arange(4)[None])
        self.position = torch.nn.Embedding(4, 8)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = x + self.position(self.places)
        scores = torch.matmul(self.query(x), self.key(x).transpose(1, 2)) / 8
        weights = torch.softmax(scores + (mask - 1.0)[:, None] * 100, dim=-1)
        return self.norm(torch.matmul(weights, x).clamp(min=1e-9) * 2)


INPUTS = (torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(1)), torch.ones(1, 4))
HALF = (INPUTS[0], torch.tensor([[1.0, 1.0, 0.0, 0.0]]))
SCHEMES = {name: QuantScheme("s", "int8", "channel", activations="static-int16") for name in ("query", "key")}
DIALECTS = ("qualcomm", "arm")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_prepared_program_computes_what_the_module_does(dialect):
    module = Attends().eval()
    program = prepared(export(module, INPUTS), dialect)
    for inputs in (INPUTS, HALF):
        found = program.module(check_guards=False)(*inputs)
        assert torch.allclose(found, module(*inputs), atol=1e-5)
    called = {operator_name(node) for node in program.graph.nodes if node.op == "call_function"}
    assert not called & {"arange", "embedding", "_assert_tensor_metadata", "div"}
    if dialect == "arm":
        assert not called & {"softmax", "layer_norm", "matmul", "mean"}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_float_value_has_codes(dialect):
    program = prepared(export(Attends().eval(), INPUTS), dialect)
    placement = placed(program, SCHEMES, dialect)
    weights = {"query", "key"}
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor) or value.dtype != torch.float32 or node in placement.through:
            continue
        name = constants_of(program).get(node.name, "")
        if name.partition(".")[0] not in weights:
            assert node in placement.integer, node
    assert placement.symmetric == (dialect == "arm")


def test_what_the_hardware_asks_of_ranges():
    program = prepared(export(Attends().eval(), INPUTS), "qualcomm")
    placement = placed(program, SCHEMES, "qualcomm")
    plan, _ = calibrate([Pass(program, placement, lambda: iter([INPUTS, HALF]))], "x", None, lambda *_: None)
    values = {placement.integer[node]: node for node in placement.integer}
    for name in placement.balanced:  # the second factor of a product, the weight of a normalisation
        assert plan.values[name].zero_point == 0, name
    for name, ends in placement.fixed.items():  # a softmax lies between 0 and 1
        assert operator_name(values[name]) == "softmax"
        assert plan.values[name].scale == 2.0**-16
        assert ends[0] == 0
    (scores,) = placement.scores
    assert plan.values[scores].smallest > -30  # not the 100 that hide a padded token
    (bias,) = placement.wide
    assert plan.values[bias].dtype == "int32"


def test_layers_of_one_program_have_one_kind_of_codes():
    program = prepared(export(Attends().eval(), INPUTS), "qualcomm")
    other = QuantScheme("t", "int8", "channel", activations="static-int8")
    with pytest.raises(PlanError) as caught:
        placed(program, {**SCHEMES, "key": other}, "qualcomm")
    assert str(caught.value) == (
        "the values of one NPU program have one kind of codes, and the recipe asks for static-int16 and static-int8; "
        "give all layers the same activations"
    )


@given(st.floats(-1e3, 0, width=32), st.floats(0, 1e3, width=32))
def test_symmetric_codes_have_zero_in_the_middle_and_reach_both_ends(low, high):
    found = symmetric_params(low, high, (-32768, 32767))
    assert (found.zero_point, found.low, found.high) == (0, -32767, 32767)
    assert found.largest >= max(-low, high) * (1 - 1e-6)


@given(
    st.floats(-1e3, 0, width=32), st.floats(0, 1e3, width=32), st.sampled_from([(-128, 127), (-32768, 32767)])
)
def test_codes_from_zero_on_are_the_same_values(low, high, limits):
    value = params_for(low, high, limits)
    plan = StaticPlan({"x": value}, {}, {})
    moved = plan.unsigned(wide=True).values["x"]
    x = np.linspace(low, high, 33, dtype=np.float32)
    assert moved.low == 0
    assert np.array_equal(moved.values(moved.codes(x)), value.values(value.codes(x)))


@given(st.floats(-1e4, 1e4, width=32))
def test_wide_codes_never_overflow(most):
    found = wide_params(min(most, 0.0), max(most, 0.0))
    assert found.bits == 32
    assert np.abs(found.codes(np.array([most], np.float32))).max() <= 2**30 + 2**7


def test_a_bias_beside_16_bits_may_take_all_of_int32():
    wide = ValueParams(1e-4, 0, -32768, 32767)
    codes, _ = quantize_bias(np.array([100.0], np.float32), wide, np.array([[1e-3]], np.float32))
    assert codes[0] == pytest.approx(10**9, rel=1e-6)
    with pytest.raises(
        ValueError, match=r"^bias\[0\] is 1000, 9999999883 steps of its scale 1e-07; at most 2,147,483,647"
    ):
        quantize_bias(np.array([1000.0], np.float32), wide, np.array([[1e-3]], np.float32))


def test_constants_are_computed_once():
    program = prepared(export(Attends().eval(), INPUTS), "qualcomm")
    held = {name: constant(program, name) for name in constants_of(program).values()}
    assert [value.shape for name, value in held.items() if name.startswith("folded.")] == [(1, 4, 8)]
    assert sorted(value.item() for name, value in held.items() if name.startswith("number.")) == [
        0.125,
        1.0,
        2.0,
        100.0,
    ]
