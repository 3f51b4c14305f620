"""Second moments of what layers take while a block runs. PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from exporter.errors import QexportError


class InputMoments:
    """Mean of x xT over every token that a layer took, each weighed."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._tokens: dict[str, int] = {}

    @contextmanager
    def watching(
        self,
        layers: Mapping[str, torch.nn.Module],
        weights: Callable[[str], torch.Tensor | None] = lambda name: None,
    ) -> Iterator[None]:
        """Inside, the layers' inputs are added up, each token as much as `weights` of the layer says: (n,), None for
        all alike. Raises QexportError naming a layer whose input is not finite."""

        def hook(name: str) -> Any:
            def before(module: Any, given: tuple[torch.Tensor, ...]) -> None:
                self.add(name, given[0], weights(name))

            return before

        handles = [module.register_forward_pre_hook(hook(name)) for name, module in layers.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def add(self, name: str, taken: torch.Tensor, weights: torch.Tensor | None = None) -> None:
        """Take one more tensor, (..., k), that a layer was given; `weights` (n,) of its tokens."""
        rows = taken.detach().reshape(-1, taken.shape[-1])
        total = (rows if weights is None else rows * weights.reshape(-1, 1)).T @ rows
        if not bool(torch.isfinite(total).all()):
            raise QexportError(
                f"layer {name}: what it takes on the calibration text is not finite (or its square is not); look at "
                "the checkpoint, or leave the layer and those before it to method: mse"
            )
        kept = self._sums.setdefault(name, torch.zeros(total.shape, dtype=torch.float64))
        kept += total
        self._tokens[name] = self._tokens.get(name, 0) + len(rows)

    def of(self, name: str) -> NDArray[np.float64]:
        """(k, k) mean over tokens."""
        return (self._sums[name] / self._tokens[name]).numpy()


@contextmanager
def shared_inputs(layers: Mapping[str, torch.nn.Module]) -> Iterator[dict[str, str]]:
    """Inside, one forward pass tells which layers take one tensor: layer -> the first that took it."""
    found: dict[str, str] = {}
    seen: list[tuple[torch.Tensor, str]] = []

    def hook(name: str) -> Any:
        def before(module: Any, given: tuple[torch.Tensor, ...]) -> None:
            found[name] = next((first for tensor, first in seen if tensor is given[0]), name)
            if found[name] == name:
                seen.append((given[0], name))

        return before

    handles = [module.register_forward_pre_hook(hook(name)) for name, module in layers.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
