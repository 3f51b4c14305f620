"""The row of blocks that a language model is, each run by itself on stored hidden states. PyTorch.

No family is named: the blocks are the longest ModuleList with planned layers in it, the first positional argument of a
block is the hidden state, and what else a block is given is recorded from a run of the whole model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from exporter.errors import TraceError


class _Stop(Exception):
    """Carries what a module was given out of a forward pass."""

    def __init__(self, given: torch.Tensor) -> None:
        self.given = given


class Blocks:
    """Blocks of a causal language model, in order."""

    def __init__(self, model: torch.nn.Module, planned: Collection[str]) -> None:
        """`planned`: paths of the layers that are looked for. Raises TraceError where they are in no row of blocks."""
        rows = [
            (sum(name.startswith(f"{path}.") for name in planned), path, module)
            for path, module in model.named_modules()
            if isinstance(module, torch.nn.ModuleList)
        ]
        count, path, row = max(rows, key=lambda each: each[0], default=(0, "", torch.nn.ModuleList()))
        if not count:
            raise TraceError(
                "its layers stand in no list of blocks, which methods that need calibration text run one after the "
                "other; take method: mse"
            )
        self.model, self.path = model, path
        self.blocks: list[torch.nn.Module] = list(row)
        self._options: list[dict[str, Any]] = []
        self._gives_tuple: list[bool] = []

    def layers_of(self, block: int, planned: Collection[str]) -> list[str]:
        """The planned layers in a block, in the plan's order."""
        return [name for name in planned if name.startswith(f"{self.path}.{block}.")]

    def outside(self, planned: Collection[str]) -> list[str]:
        """Planned layers in no block: tables and the output layer."""
        return [name for name in planned if not name.startswith(f"{self.path}.")]

    def record(self, tokens: torch.Tensor) -> None:
        """Learn what each block is given beside hidden states, from one run on (1, length) tokens.

        Masks and positions are the same for every window of this length.
        """
        self._options.clear()
        self._gives_tuple.clear()
        handles = []
        for block in self.blocks:

            def before(module: Any, given: tuple[Any, ...], options: dict[str, Any]) -> None:
                if len(given) != 1:
                    raise TraceError(
                        f"a block of {self.path} takes {len(given)} positional arguments; only hidden states are known"
                    )
                self._options.append(options)

            def after(module: Any, given: Any, result: Any) -> None:
                self._gives_tuple.append(isinstance(result, tuple))

            handles.append(block.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(block.register_forward_hook(after))
        try:
            with torch.no_grad():
                self.model(tokens, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()

    def first_states(self, tokens: torch.Tensor, grad: bool = False) -> torch.Tensor:
        """(n, length) -> (n, length, hidden): what the first block is given; `grad`: with its gradient."""
        return self._caught(self.blocks[0], lambda: self.model(tokens, use_cache=False), grad)

    def run(self, block: int, states: torch.Tensor) -> torch.Tensor:
        """(n, length, hidden) -> the same shape, behind the block."""
        result = self.blocks[block](states, **self._options[block])
        found: torch.Tensor = result[0] if self._gives_tuple[block] else result
        return found

    def given_to(self, module: torch.nn.Module, states: torch.Tensor) -> torch.Tensor:
        """What a module behind the blocks takes, such as the output layer, when they end with these states."""
        with self.passed(states):
            tokens = torch.zeros(states.shape[:2], dtype=torch.int64)
            return self._caught(module, lambda: self.model(tokens, use_cache=False))

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """(1, n, hidden) behind the blocks -> (n, vocabulary), by the model's own forward; with their gradient."""
        tokens = torch.zeros(states.shape[:2], dtype=torch.int64)
        with self.passed(states), torch.set_grad_enabled(states.requires_grad):
            found: torch.Tensor = self.model(tokens, use_cache=False).logits[0]
        return found

    @contextmanager
    def passed(self, states: torch.Tensor) -> Iterator[None]:
        """Inside, the blocks end with these states whatever the model is given."""

        def forward(hidden: torch.Tensor, *given: Any, **options: Any) -> Any:
            return (states,) if self._gives_tuple[0] else states

        kept = [block.forward for block in self.blocks]
        for block in self.blocks:
            block.forward = forward
        try:
            yield
        finally:
            for block, own in zip(self.blocks, kept, strict=True):
                block.forward = own

    @staticmethod
    def _caught(module: torch.nn.Module, run: Any, grad: bool = False) -> torch.Tensor:
        def before(module: Any, given: tuple[torch.Tensor, ...]) -> None:
            raise _Stop(given[0])

        handle = module.register_forward_pre_hook(before)
        try:
            with torch.set_grad_enabled(grad):
                run()
        except _Stop as stop:
            return stop.given
        finally:
            handle.remove()
        raise TraceError(f"{type(module).__name__} was not reached by the model's forward")
