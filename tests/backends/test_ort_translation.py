"""The short way from a traced program to ONNX: when it is taken, and that it gives torch.onnx's graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

from exporter.backends.ort import translation
from exporter.backends.ort.tracing import Traced
from exporter.errors import LoweringError

F = torch.nn.functional


class Called(torch.nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


def traced(function: Callable[..., Any], x: torch.Tensor) -> Traced:
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(Called(function), (x,), dynamic_shapes=shapes)
    return Traced(program, ("x",), ("y",), {}, None)


def form(model: ir.Model) -> list[tuple[Any, ...]]:
    """Every node with its attributes, its values numbered in the order in which they come."""
    numbers: dict[ir.Value | None, int] = {None: 0}

    def number(value: ir.Value | None) -> int:
        return numbers.setdefault(value, len(numbers))

    return [
        (
            node.domain,
            node.op_type,
            [number(value) for value in (*node.inputs, *node.outputs)],
            sorted((name, str(attribute.value)) for name, attribute in node.attributes.items()),
        )
        for node in model.graph
    ]


def run(model: ir.Model, x: torch.Tensor) -> Any:
    ClearMetadataAndDocStringPass()(model)
    proto = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(proto, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x.numpy()})[0]


def promotions(x: torch.Tensor) -> torch.Tensor:
    """float32 with int64, with Python's numbers, and with float16; an integer by a division."""
    index = torch.arange(x.shape[-1])
    return x.pow(2) * 3 + index / 2 + x.half() * index + x * x.half()


def conversions(x: torch.Tensor) -> torch.Tensor:
    """A cast, one that changes nothing, and one that is read twice."""
    half = x.to(torch.float16)
    return F.silu(x.to(torch.float32)) + half.to(torch.float32) + x.to(half.device, torch.float32)


def unread(x: torch.Tensor) -> torch.Tensor:
    """A value that nobody reads, of an operator that torch.onnx has no translation of."""
    torch.diff(x)
    return x + 1


@pytest.mark.parametrize("function", [promotions, conversions, unread])
def test_the_short_way_gives_torchs_numbers(
    function: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(translation, "_by_torch", lambda _: pytest.fail("took torch.onnx.export"))
    x = torch.randn(3, 4)
    model = translation.to_onnx(traced(function, x))
    other = torch.randn(5, 4)
    # both run the same float operations; a fused multiply-add or another order of a sum of four terms
    # moves the last place only, and float16 terms carry 2^-11 of their own
    np.testing.assert_allclose(run(model, other), function(other).numpy(), rtol=2.0**-10, atol=2.0**-10)
    assert model.opset_imports[""] == translation.OPSET
    assert [value.name for value in (*model.graph.inputs, *model.graph.outputs)] == ["x", "y"]


def youngest(x: torch.Tensor) -> torch.Tensor:
    """A function that became one ONNX operator in opset 20."""
    return F.gelu(x, approximate="tanh")


@pytest.mark.parametrize("function", [promotions, youngest])
def test_the_graph_is_the_one_of_torch(function: Callable[..., Any]) -> None:
    x = torch.randn(3, 4)
    ours, theirs = translation.to_onnx(traced(function, x)), translation._by_torch(traced(function, x))
    assert form(ours) == form(theirs)


def in_place(x: torch.Tensor) -> torch.Tensor:
    """Writes through a view into what another term reads."""
    y = x.clone()
    y[:, 0].add_(1)
    return y * 2


def decomposed(x: torch.Tensor) -> torch.Tensor:
    """An operator whose parts have translations."""
    return torch.diff(x)


@pytest.mark.parametrize("function", [in_place, decomposed])
def test_what_must_be_decomposed_goes_through_torch(
    function: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(translation, "_direct", lambda *_: pytest.fail("took the short way"))
    x, other = torch.randn(3, 4), torch.randn(5, 4)
    model = translation.to_onnx(traced(function, x))
    np.testing.assert_array_equal(run(model, other), function(other).numpy())  # one addition per number


def test_an_operator_without_a_translation_is_refused() -> None:
    def function(x: torch.Tensor) -> Any:
        return torch.linalg.eigh(x.T @ x)[0]

    with pytest.raises(LoweringError) as caught:
        translation.to_onnx(traced(function, torch.randn(3, 4)))
    assert str(caught.value) == (
        "torch.onnx cannot translate the traced model: Error when translating node %_linalg_eigh :"
        " [num_users=1] = call_function[target=torch.ops.aten._linalg_eigh.default](args = (%matmul,),"
        " kwargs = {}). See the stack trace for more information. (--debug shows where)"
    )
