"""The rotation of a layer's input (exporter.rotation) as PyTorch computes it and programs are traced with it: layers
of one input share it once a backend's passes have merged what is equal."""

from __future__ import annotations

import torch

from exporter.rotation import hadamard
from exporter.schemes import ROTATIONS


class Rotation(torch.nn.Module):
    """(…, k) float32 -> the same, each `size` neighbours along the last axis mixed by a Hadamard matrix."""

    matrix: torch.Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("matrix", torch.from_numpy(hadamard(size)), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A product with a small matrix, for which every runtime has a kernel."""
        blocks = x.reshape(*x.shape[:-1], x.shape[-1] // self.size, self.size)
        mixed = torch.nn.functional.linear(blocks, self.matrix)  # symmetric: it is its own transpose
        return mixed.reshape(x.shape)


# One for all layers, so that a file holds its matrix once. Made here and not when first asked for: that may be while a
# model is traced, which would keep a tensor without numbers.
_ROTATIONS = {size: Rotation(size) for size in ROTATIONS}


def rotate(x: torch.Tensor, size: int | None) -> torch.Tensor:
    """x H; x itself for None."""
    return x if size is None else _ROTATIONS[size](x)
