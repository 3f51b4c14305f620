"""Streamed layers that let a gradient through and tell what passes by. PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from exporter.models.reference import StreamedEmbedding, StreamedLinear, product

Told = Callable[[torch.Tensor, torch.Tensor], None]


def tell_all(model: torch.nn.Module, told: Mapping[str, Told]) -> None:
    """tell() for every streamed linear layer, since a gradient passes all of them, and for the embeddings in `told`;
    a layer that is not in it says nothing."""
    for name, module in model.named_modules():
        if isinstance(module, StreamedLinear) or (isinstance(module, StreamedEmbedding) and name in told):
            tell(module, told.get(name, lambda *_: None))


def tell(module: StreamedLinear | StreamedEmbedding, told: Told) -> None:
    """Let a backward pass call `told` with what the layer took and the gradient of what it gave.

    A linear layer: (n, in) inputs and (n, out). An embedding: (n,) row numbers and (n, features). Its weight stays
    without a gradient, and is mapped once more in the backward pass.
    """
    if isinstance(module, StreamedLinear):
        module.forward = _linear(module, told)  # type: ignore[method-assign,assignment]
    else:
        module.forward = _embedding(module, told)  # type: ignore[method-assign,assignment]


def _linear(module: StreamedLinear, told: Told) -> Callable[[torch.Tensor], torch.Tensor]:
    plain = module.forward
    rows, columns = module.planned.info.shape

    class Telling(torch.autograd.Function):
        """The layer, with a backward pass of its own: oneDNN's product has none."""

        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return plain(x)

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
            (x,) = ctx.saved_tensors
            upstream = gradients[0].reshape(-1, rows)
            taken = x.reshape(-1, columns)
            found = torch.zeros_like(taken)
            for start, stop, weight in module.source.blocks(rows, columns):
                found += product(upstream[:, start:stop], weight.T.contiguous())
            told(taken, upstream)
            return found.view_as(x)

    def forward(x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = Telling.apply(x)  # type: ignore[no-untyped-call]
        return result

    return forward


def _embedding(module: StreamedEmbedding, told: Told) -> Callable[[torch.Tensor], torch.Tensor]:
    plain = module.forward

    def forward(ids: torch.Tensor) -> torch.Tensor:
        held = plain(ids)
        index = ids.reshape(-1)
        held.requires_grad_(True)
        held.register_hook(lambda gradient: told(index, gradient.reshape(len(index), -1)))  # type: ignore[no-untyped-call]
        return held

    return forward
