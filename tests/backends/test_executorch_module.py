"""Any other torch.nn.Module: convolutions stay float, planned linears are lowered, errors name the operator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ort_skeleton import MemorySkeleton

from exporter.backends import get_backend
from exporter.errors import LoweringError, TraceError
from exporter.models.reference import dequantized_model
from exporter.schemes import QuantScheme
from exporter.targets import Target

BACKEND = get_backend("executorch")
TARGET = Target("executorch")
W8 = QuantScheme("w8", "int8", "channel")


class Classifier(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(8)
        self.head = torch.nn.Linear(8 * 4 * 4, 10)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = torch.relu(self.norm(self.conv(image)))
        return self.head(features.flatten(1)), features.mean((2, 3), keepdim=True)


class SingularValues(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.svdvals(x)


class DataDependent(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if x.sum() > 0 else x - 1


def lower(model, inputs, folder, dynamic_shapes=None):
    skeleton = MemorySkeleton(model, lambda name: W8, "module", inputs, dynamic_shapes)
    BACKEND.lower(skeleton, TARGET, folder, lambda what, share: None)
    return skeleton


def test_outputs_in_the_order_of_the_module(tmp_path):
    torch.manual_seed(0)
    image = torch.randn(1, 3, 4, 4)
    skeleton = lower(Classifier(), (image,), tmp_path)
    with torch.no_grad():
        expected = dequantized_model(skeleton, quantize_activations=False)(image)
    found = BACKEND.open_module(tmp_path).run([image.numpy()])
    # Sums over 27 and 128 products in another order, batch norm folded into the convolution:
    # (27 + 128 + 8) roundings of 2^-24, each at most of the largest partial sum.
    for output, reference in zip(found, expected, strict=True):
        tolerance = 163 * 2.0**-24 * max(1.0, float(reference.abs().max()))
        np.testing.assert_allclose(output, reference.numpy(), rtol=0, atol=tolerance)
    assert set(BACKEND.read_back(tmp_path)) == {"head"}


def test_dynamic_batch(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    shapes = ({0: torch.export.Dim("batch", max=16)},)
    skeleton = lower(model, (torch.randn(3, 64),), tmp_path, shapes)
    reference = dequantized_model(skeleton, quantize_activations=False)
    runner = BACKEND.open_module(tmp_path)
    for batch in (1, 5, 16):
        x = torch.randn(batch, 64)
        with torch.no_grad():
            expected = reference(x).numpy()
        (found,) = runner.run([x.numpy()])
        np.testing.assert_allclose(found, expected, rtol=0, atol=100 * 2.0**-24 * 4)


def test_an_operator_without_a_kernel_is_named(tmp_path):
    with pytest.raises(LoweringError) as caught:
        lower(SingularValues(), (torch.randn(4, 4),), tmp_path)
    assert str(caught.value) == (
        "ExecuTorch's runtime has no kernel for aten::_linalg_svd.U; change the model, or take the onnxruntime "
        "target"
    )


def test_a_model_that_cannot_be_traced(tmp_path):
    with pytest.raises(TraceError, match=r"^torch\.export refused the model: Could not guard"):
        lower(DataDependent(), (torch.randn(4),), tmp_path)
