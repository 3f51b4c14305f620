"""Dynamic axes that a model cannot take: which, why, and what torch.export suggests, in words."""

from __future__ import annotations

import pytest
import torch

from exporter.errors import TraceError
from exporter.models.exporting import export


class Net(torch.nn.Module):
    """A linear layer behind what a test needs."""

    def __init__(self, before) -> None:
        super().__init__()
        self.before, self.linear = before, torch.nn.Linear(64, 32)

    def forward(self, *x):
        return self.linear(self.before(*x))


def refused(before, shapes, count: int = 1) -> str:
    inputs = tuple(torch.randn(8, 64) for _ in range(count))
    with pytest.raises(TraceError) as caught:
        export(Net(before), inputs, shapes=(tuple(shapes),))
    return str(caught.value)


ROWS = torch.export.Dim("rows", min=2, max=64)
HEAD = "the model does not take every length that dynamic_shapes gives: "
TAIL = "; change dynamic_shapes, or the model's forward"


def test_an_axis_that_is_fixed():
    assert refused(lambda x: x.view(8, 64), [{0: ROWS}]) == (
        f"{HEAD}axis rows can only be 8. torch.export suggests rows = 8{TAIL}"
    )


def test_an_axis_that_must_divide():
    assert refused(lambda x: -x if x.shape[0] % 4 == 0 else x, [{0: ROWS}]) == (
        f"{HEAD}axis rows (rows <= 64) must satisfy (rows % 4) == 0. torch.export suggests "
        f"_rows = Dim('_rows', min=1, max=16), rows = 4*_rows{TAIL}"
    )


def test_axes_that_must_be_equal():
    other = torch.export.Dim("lines", min=2, max=64)
    assert refused(lambda x, y: x + y, [{0: ROWS}, {0: other}], count=2) == (
        f"{HEAD}axes lines and rows must be equal. torch.export suggests lines = rows{TAIL}"
    )


def test_shapes_for_inputs_that_are_not_there():
    assert refused(lambda x: x, [{0: ROWS}, {0: ROWS}]) == (
        "torch.export refused the model: Detected mismatch between the structure of `inputs` and `dynamic_shapes`: "
        "`inputs[0]` has 1 elements, but `dynamic_shapes[0]` has 2 elements (--debug shows where); give dynamic_shapes "
        "one entry for each input"
    )


def test_an_axis_that_is_free_is_free():
    program = export(Net(lambda x: x + 1), (torch.randn(8, 64),), shapes=(({0: ROWS},),))
    assert program.module()(torch.ones(5, 64)).shape == (5, 32)
