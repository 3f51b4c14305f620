"""Which values become integers, and what the rewritten program computes."""

from __future__ import annotations

import pytest
import torch

from exporter.errors import PlanError, QexportError
from exporter.schemes import QuantScheme
from exporter.static.calibrating import Pass, calibrate
from exporter.static.dialects import with_integers
from exporter.static.graph import functional
from exporter.static.naming import value_names
from exporter.static.placing import place

S8 = QuantScheme("s8", "int8", activations="static-int8")


class Net(torch.nn.Module):
    """A residual, a pooling, a float activation, a concatenation of unlike clamps: what placing decides on."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 3, stride=2)
        self.pad = torch.nn.ZeroPad2d((0, 1, 0, 1))
        self.act = torch.nn.ReLU6()
        self.a = torch.nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.b = torch.nn.Conv2d(8, 8, 1)
        self.head = torch.nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.stem(self.pad(x)))
        x = torch.relu(self.a(x) + x)
        x = torch.nn.functional.silu(self.b(x))
        return self.head(torch.nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Wrapped(torch.nn.Module):
    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


LAYERS = ("stem", "a", "b", "head")
IMAGE = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def traced(module: torch.nn.Module, *inputs: torch.Tensor) -> torch.export.ExportedProgram:
    return functional(torch.export.export(module.eval(), inputs, strict=False))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Net().eval()


def test_values_are_called_the_same_behind_a_wrapper(net):
    plain = value_names(traced(net, IMAGE), LAYERS)
    wrapped = value_names(traced(Wrapped(net), IMAGE), LAYERS)
    assert list(plain.values()) == list(wrapped.values())
    assert set(LAYERS) <= set(plain.values())


def test_what_becomes_integers(net):
    found = place(traced(net, IMAGE), dict.fromkeys(LAYERS, S8))
    # The sum is clamped in its own range; pooling and flattening stand behind a float operator, so they stay float.
    assert set(found.integer.values()) == {
        "input:0",
        "act:hardtanh0",
        "a",
        ":relu0",
        "b",
        ":flatten0",
        "head",
    }
    assert found.layers == {
        "stem": ("input:0", "act:hardtanh0"),
        "a": ("act:hardtanh0", "a"),
        "b": (":relu0", "b"),
        "head": (":flatten0", "head"),
    }
    assert [(border.value, border.into, border.other_side) for border in found.borders] == [
        ("input:0", "integers", "input:0"),
        ("b", "float", ":silu0"),
        (":flatten0", "integers", ":flatten0"),
        ("head", "float", "output"),
    ]
    assert [border.elements for border in found.borders] == [3 * 16 * 16, 8 * 8 * 8, 8, 5]


def test_a_float_layer_between_static_ones(net):
    found = place(traced(net, IMAGE), {"stem": S8, "b": S8})
    # `a` and the sum are float: the stem's value goes to float for both, and comes back before `b`.
    assert set(found.integer.values()) == {"input:0", "act:hardtanh0", ":relu0", "b"}


def test_the_rewritten_program_rounds_and_nothing_else(net):
    program = traced(net, IMAGE)
    schemes = dict.fromkeys(LAYERS, S8)
    placement = place(program, schemes)
    plan, notes = calibrate(
        [Pass(program, placement, lambda: [(IMAGE,)])], "", None, lambda what, share: None
    )
    assert notes == (
        "calibration: observer minmax needs 199 samples and has 1: with fewer, more than 1% of new inputs lie outside "
        "the range that was seen. Set samples: 199, of data that hold as many",
    )
    rewritten = with_integers(traced(net, IMAGE), schemes, plan)
    targets = [str(node.target) for node in rewritten.graph.nodes]
    assert sum("quantize_per_tensor" in t and "dequantize" not in t for t in targets) == 7
    assert not any("relu" in t or "hardtanh" in t for t in targets)  # both are the ends of ranges
    with torch.no_grad():
        exact, found = net(IMAGE), rewritten.module()(IMAGE)
    assert not torch.equal(exact, found)
    # The output's own rounding is half a step; what six values before it lose is of the same order each.
    assert (exact - found).abs().max() < 10 * plan.output_of("head").scale


def test_a_layer_that_is_called_twice():
    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = torch.nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.fc(x))

    with pytest.raises(PlanError) as caught:
        place(traced(Twice(), torch.zeros(1, 4)), {"fc": S8})
    assert str(caught.value) == (
        "layer fc: is called more than once, with ranges that may differ; a layer with static activations is called "
        "once. Give it activations: float or dynamic-int8"
    )


def test_two_kinds_of_codes(net):
    other = QuantScheme("u8", "int8", activations="static-uint8")
    with pytest.raises(PlanError) as caught:
        place(traced(net, IMAGE), {"stem": S8, "b": other})
    assert str(caught.value) == (
        "static layers of one model share one kind of codes, and the recipe asks for static-int8 and static-uint8; "
        "give all of them the same activations"
    )


def test_a_sample_that_the_model_does_not_take(net):
    program = traced(net, IMAGE)
    placement = place(program, dict.fromkeys(LAYERS, S8))
    with pytest.raises(QexportError) as caught:
        calibrate(
            [Pass(program, placement, lambda: [(torch.zeros(1, 4, 16, 16),)])], "", None, lambda *a: None
        )
    assert str(caught.value).startswith(
        "calibration: the model does not take sample 1 (float32 [1, 4, 16, 16]): "
    )


def test_a_range_that_is_not_finite(net):
    program = traced(net, IMAGE)
    placement = place(program, dict.fromkeys(LAYERS, S8))
    bad = IMAGE.clone()
    bad[0, 0, 0, 0] = torch.inf
    with pytest.raises(QexportError) as caught:
        calibrate([Pass(program, placement, lambda: [(IMAGE,), (bad,)])], "", None, lambda *a: None)
    assert str(caught.value) == (
        "calibration: sample 2, value input:0: 1 values are not finite; the range of a value must be finite. Take "
        "the sample out, or keep the layers around it float"
    )


def test_ranges_are_kept_by_content(net, tmp_path):
    program = traced(net, IMAGE)
    placement = place(program, dict.fromkeys(LAYERS, S8))
    calls = []

    def run(sample: torch.Tensor):
        return calibrate(
            [Pass(program, placement, lambda: [(sample,)])], "w", tmp_path, lambda *a: calls.append(a)
        )[0]

    first = run(IMAGE)
    assert calls and run(IMAGE) == first and len(calls) == 1
    assert run(IMAGE * 2) != first and len(calls) == 2
