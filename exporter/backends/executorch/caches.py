"""KV caches that the program owns: one per attention layer, in float32, float16 or int8, whole or as a ring.

A layer that sees every past token has a slot for each of max_context tokens. A layer with a sliding window
keeps a ring: its window, and room for the tokens of one call, which are written before they are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import executorch.extension.llm.custom_ops.custom_ops  # noqa: F401  registers llama::custom_sdpa, update_cache
import torch
import torch.ao.quantization.fx._decomposed

from exporter.backends.executorch.capabilities import cache_slots
from exporter.layers import CacheShape
from exporter.targets import Target

_NUMBER = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}
_MASKED = -1e9  # a score so far below any other that its exponential is 0 in float32


class LayerCache(torch.nn.Module):
    """Keys and values of one layer as buffers (1, slots, kv heads, head size)."""

    def __init__(self, shape: CacheShape, target: Target) -> None:
        super().__init__()
        self.shape = shape
        self.slots = cache_slots(target, shape)
        self.window = shape.window if shape.window is not None and shape.window < target.max_context else None
        self.is_int8 = target.kv_cache == "int8"
        self.number = _NUMBER[target.kv_cache]
        rows = (1, self.slots, shape.kv_heads)
        for name in ("keys", "values"):
            self._buffer(name, torch.zeros(*rows, shape.head_size, dtype=self.number))
            if self.is_int8:
                self._buffer(f"{name}_scales", torch.zeros(*rows, 1))
                self._buffer(f"{name}_zero_points", torch.zeros(*rows, 1, dtype=torch.int8))

    def _buffer(self, name: str, value: torch.Tensor) -> None:
        self.register_buffer(name, value, persistent=False)

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        step: Step,
        scaling: float | None,
    ) -> torch.Tensor:
        """query (1, S, heads, size), key and value (1, S, kv heads, size) -> (1, S, heads, size)."""
        mask = None if self.window is None else step.window_mask(self.window, self.slots)
        # With a mask, which says all there is to say, custom_sdpa wants neither start nor causality.
        options = (step.start, None, 0.0, True, scaling) if mask is None else (0, mask, 0.0, False, scaling)
        if self.is_int8:
            return self._attend_int8(query, key, value, step, options)
        self._write("keys", key.to(self.number), step)
        self._write("values", value.to(self.number), step)
        query = query.to(self.number)
        result: torch.Tensor = torch.ops.llama.custom_sdpa(query, self.keys, self.values, *options)
        return result.to(torch.float32)

    def _attend_int8(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        step: Step,
        options: tuple[Any, ...],
    ) -> torch.Tensor:
        """The same with a scale and a zero point for each token and head, as ExecuTorch's own
        QuantizedSDPA does (examples/models/llama/source_transformation/sdpa.py)."""
        for name, states in (("keys", key), ("values", value)):
            codes, scales, zero_points = _quantized(states)
            self._write(name, codes, step)
            self._write(f"{name}_scales", scales, step)
            self._write(f"{name}_zero_points", zero_points, step)
        codes, scales, zero_points = _quantized(query)
        parameters = [
            zero_points,
            scales,
            self.keys_zero_points,
            self.keys_scales,
            self.values_zero_points,
            self.values_scales,
        ]
        result: torch.Tensor = torch.ops.llama.custom_quantized_sdpa(
            codes, self.keys, self.values, *options, *parameters
        )
        return result

    def _write(self, name: str, states: torch.Tensor, step: Step) -> None:
        buffer = getattr(self, name)
        if self.window is not None:
            indices = step.ring_indices(self.slots)
            torch.ops.llama.update_cache_with_indices(states, buffer, 0, indices)
        else:
            torch.ops.llama.update_cache(states, buffer, step.start)


def _quantized(states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(…, size) float32 -> int8 codes, float32 scales (…, 1), int8 zero points (…, 1)."""
    ops = torch.ops.quantized_decomposed
    scales, zero_points = ops.choose_qparams_per_token_asymmetric(states, torch.int8)
    codes = ops.quantize_per_token(states, scales, zero_points, -128, 127, torch.int8)
    return codes, scales.to(torch.float32), zero_points.to(torch.int8)


@dataclass
class Step:
    """One call of the program: where its tokens stand, and what several layers compute from that."""

    caches: Sequence[LayerCache]
    input_pos: torch.Tensor  # (1,) int64: position of the first token
    start: Any  # the same as a number: int, a SymInt while tracing
    positions: torch.Tensor  # (S,) int64
    used: set[int] = field(default_factory=set)  # layer indices that attention was called for
    _rings: dict[int, torch.Tensor] = field(default_factory=dict)
    _masks: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)

    def ring_indices(self, slots: int) -> torch.Tensor:
        """Slots that the tokens are written to, (1, S) int64."""
        if slots not in self._rings:
            self._rings[slots] = torch.remainder(self.positions, slots)[None]
        return self._rings[slots]

    def window_mask(self, window: int, slots: int) -> torch.Tensor:
        """(S, slots) float32, added to the scores: 0 where the token sees the slot, else -1e9 or less.

        A slot holds the newest position that falls on it. The two-dimensional part is float arithmetic,
        which XNNPACK runs; -1e9 for each position that the slot lies outside the window.
        """
        if (window, slots) not in self._masks:
            slot = torch.arange(slots)
            newest = self.input_pos + (self.positions.shape[0] - 1)  # (1,)
            held = newest - torch.remainder(newest - slot, slots)  # (slots,); negative: nothing yet
            empty = (held < 0).to(torch.float32) * float(2 * slots + window)
            distance = self.positions.to(torch.float32)[:, None] - (held.to(torch.float32) - empty)[None]
            outside = distance - torch.clamp(distance, 0.0, float(window - 1))
            self._masks[window, slots] = torch.abs(outside) * _MASKED
        return self._masks[window, slots]


_active: list[Step] = []


@contextmanager
def active_step(step: Step) -> Iterator[None]:
    """Let attention read and write these caches."""
    _active.append(step)
    try:
        yield
    finally:
        _active.pop()


def current_step() -> Step:
    """The step that runs, within active_step()."""
    return _active[-1]
