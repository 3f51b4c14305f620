"""A convolution over single places as the matrix product that it is."""

from __future__ import annotations

from dataclasses import replace

import torch

from exporter.models.skeleton import PlannedLayer


def as_linear(planned: PlannedLayer) -> PlannedLayer:
    """The layer as a backend's linear one: (out, in, 1, 1) -> (out, in)."""
    shape = (planned.info.shape[0], planned.info.shape[1])
    return replace(planned, info=replace(planned.info, kind="linear", shape=shape))


class Pointwise(torch.nn.Module):
    """A linear layer on the channels of each place of a picture."""

    def __init__(self, linear: torch.nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, in, height, width) -> (batch, out, height, width), by way of (batch, places, channels).

        Three axes, since XNNPACK's passes in ExecuTorch reorder whatever has four.
        """
        places = x.flatten(2).transpose(1, 2)
        found: torch.Tensor = self.linear(places).transpose(1, 2).unflatten(2, x.shape[2:])
        return found
