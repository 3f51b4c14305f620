"""Every scheme that capabilities.unsupported lets through is lowered and run; the others are refused."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from ort_skeleton import MemorySkeleton

from exporter.backends import get_backend
from exporter.layers import LayerInfo
from exporter.models.activations import fake_quantize_activations
from exporter.numerics import canonical_granularity
from exporter.schemes import FLOAT, QuantScheme
from exporter.targets import Target

BACKEND = get_backend("executorch")
TARGET = Target("executorch")
IN, OUT = 256, 48

ALL = [
    QuantScheme("s", weights, group, symmetric, activations, "rtn")
    for weights, group, symmetric, activations in itertools.product(
        ("int4", "int8"), (16, 32, 64, 128, "channel", "tensor"), (True, False), ("float", "dynamic-int8")
    )
]


def reason(kind: str, scheme: QuantScheme, target: Target = TARGET) -> str | None:
    return BACKEND.unsupported(LayerInfo("layer", kind, (OUT, IN)), scheme, target)


LINEAR = [scheme for scheme in ALL if reason("linear", scheme) is None]
EMBEDDING = [scheme for scheme in ALL if scheme.activations == "float"]


class OneLinear(torch.nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(IN, OUT, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


class OneEmbedding(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Embedding(OUT, IN)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.layer(tokens)


def lowered(model: torch.nn.Module, scheme: QuantScheme, inputs: tuple, folder) -> MemorySkeleton:
    skeleton = MemorySkeleton(model, lambda name: scheme, "module", inputs)
    BACKEND.lower(skeleton, TARGET, folder, lambda what, share: None)
    return skeleton


def assert_read_back(skeleton: MemorySkeleton, folder) -> None:
    planned = skeleton.layers["layer"]
    quantized, found = planned.load(), BACKEND.read_back(folder)["layer"]
    scales, zero_points, group = canonical_granularity(
        quantized.row_scales(), quantized.row_zero_points(), quantized.values.shape[1]
    )
    np.testing.assert_array_equal(found.values, quantized.values)
    np.testing.assert_array_equal(found.scales, scales)
    if zero_points is None:
        assert found.zero_points is None
    else:
        np.testing.assert_array_equal(found.zero_points, zero_points)
    assert (found.bits, found.group) == (planned.scheme.bits, group)
    assert found.bytes == BACKEND.layer_bytes(planned.info, planned.scheme, TARGET)


@pytest.mark.parametrize("scheme", LINEAR, ids=QuantScheme.describe)
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
def test_linear_runs_as_pytorch_does(scheme, bias, tmp_path):
    torch.manual_seed(0)
    x = torch.randn(1, 7, IN)
    skeleton = lowered(OneLinear(bias), scheme, (x,), tmp_path)
    (found,) = BACKEND.open_module(tmp_path).run([x.numpy()])
    rounded = fake_quantize_activations(x) if scheme.activations == "dynamic-int8" else x
    weight = torch.from_numpy(skeleton.layers["layer"].load().dequantized())
    offset = None if skeleton.layers["layer"].bias is None else skeleton.layers["layer"].bias.detach()
    expected = torch.nn.functional.linear(rounded, weight, offset).numpy()
    # Two summations of IN products each, in any order: 2 * IN * 2^-24 of the sum of magnitudes
    # (Higham, Accuracy and Stability, section 3.1); plus 4 roundings for scales and bias.
    magnitude = torch.nn.functional.linear(rounded.abs(), weight.abs()).numpy()
    magnitude = magnitude + (0 if offset is None else offset.abs().numpy())
    assert (np.abs(found - expected) <= (2 * IN + 4) * 2.0**-24 * magnitude).all()
    assert_read_back(skeleton, tmp_path)


@pytest.mark.parametrize("scheme", EMBEDDING, ids=QuantScheme.describe)
def test_embedding_gives_the_integers_rows(scheme, tmp_path):
    assert reason("embedding", scheme) is None
    torch.manual_seed(0)
    tokens = torch.tensor([[0, 5, OUT - 1]])
    skeleton = lowered(OneEmbedding(), scheme, (tokens,), tmp_path)
    (found,) = BACKEND.open_module(tmp_path).run([tokens.numpy()])
    expected = skeleton.layers["layer"].load().dequantized()[tokens.numpy()]
    np.testing.assert_array_equal(found, expected)  # one subtraction, exact, and one product
    assert_read_back(skeleton, tmp_path)


@pytest.mark.parametrize(
    ("scheme", "kind", "expected"),
    [
        (
            QuantScheme("s", "int4", 16, activations="dynamic-int8"),
            "linear",
            "XNNPACK's int4 groups are multiples of 32; set `group: 32`",
        ),
        (
            QuantScheme("s", "int8", 32, activations="dynamic-int8"),
            "linear",
            "XNNPACK has groups for int4 only; set `group: channel`",
        ),
        (
            QuantScheme("s", "int4", 32),
            "linear",
            "XNNPACK has int4 groups with int8 activations only; set `activations: dynamic-int8`, or "
            "`group: channel`",
        ),
        (
            QuantScheme("s", "int8", "channel", symmetric=False, activations="dynamic-int8"),
            "linear",
            "XNNPACK's linear weights have no zero point; set `symmetric: true`",
        ),
        (
            QuantScheme("s", "int8", "channel"),
            "conv",
            "a convolution of several places is quantised with static activations only: XNNPACK has no kernel with "
            "8-bit weights and float input; set `activations: static-int8`, or `scheme: float` for this layer",
        ),
    ],
    ids=lambda value: value.describe() if isinstance(value, QuantScheme) else None,
)
def test_refusals_name_the_limit_and_the_way_out(scheme, kind, expected):
    assert reason(kind, scheme) == expected


def test_a_tied_layer_names_the_layer_that_decides():
    layer = LayerInfo("lm_head", "linear", (OUT, IN), tied_to="model.embed_tokens")
    scheme = QuantScheme("s", "int8", "channel", symmetric=False)
    assert BACKEND.unsupported(layer, scheme, TARGET) == (
        "XNNPACK's linear weights have no zero point; set `symmetric: true` for model.embed_tokens, whose "
        "table this layer shares"
    )


def test_odd_input_features_cannot_be_packed_to_four_bits():
    layer = LayerInfo("layer", "linear", (4, 33))
    assert BACKEND.unsupported(layer, QuantScheme("s", "int4", "channel"), TARGET) == (
        "ExecuTorch packs two int4 weights into a byte and 33 input features are odd; set int8 or "
        "`scheme: float`"
    )


def test_unknown_delegate_is_refused_even_for_float():
    target = Target("executorch", delegate="vulkan")
    assert reason("linear", FLOAT, target) == "delegate 'vulkan' is not known; there is: xnnpack"


def test_float_is_always_allowed():
    assert [reason(kind, FLOAT) for kind in ("linear", "embedding", "conv")] == [None, None, None]


def test_a_refused_group_is_refused_by_the_runtime_too(tmp_path):
    """The reason behind `multiples of 32`: XNNPACK itself does not load such a layer."""
    scheme = QuantScheme("s", "int4", 16, activations="dynamic-int8", method="rtn")
    lowered(OneLinear(False), scheme, (torch.randn(1, 3, IN),), tmp_path)
    with pytest.raises(RuntimeError, match="Failed to load method forward"):
        BACKEND.open_module(tmp_path)


def test_zero_points_stay_within_int8_and_scales_are_per_token():
    x = torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 255.0], [-255.0, -1.0, 0.0], [-1.0, 0.5, 1.0]])
    rounded = fake_quantize_activations(x)
    # Half a step of (largest - smallest) / 255 per row, the range widened to hold zero; the zero point's
    # own rounding moves every value by up to half a step more.
    spans = torch.tensor([0.0, 255.0, 255.0, 2.0])[:, None]
    assert ((rounded - x).abs() <= spans / 255 * (1 + 1e-6)).all()
    torch.testing.assert_close(rounded[1], x[1], rtol=0, atol=1e-4)  # steps of exactly 1
    assert (rounded[0] == 0).all()
