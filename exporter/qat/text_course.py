"""A language model in training: the whole of it, block by block, on windows of text. PyTorch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from exporter.blockwise.blocks import Blocks
from exporter.models.causal_lm import CausalLM, CausalLMSkeleton
from exporter.models.reference import dequantized_rows, streamed_float_model
from exporter.models.rotating import rotate
from exporter.models.skeleton import PlannedLayer
from exporter.qat.fake_quant import (
    FixedEmbedding,
    FixedLinear,
    TrainedEmbedding,
    TrainedLinear,
    TrainedWeight,
    parameters,
)
from exporter.qat.training import divergence

Tokens = NDArray[np.int64]
_LOGIT_ELEMENTS = 1 << 23  # of a block of logits: what is held for the gradient is a few times that
_KEPT = 400_000_000  # bytes of the teacher's weights that stay mapped


class TextCourse:
    """See exporter.qat.training.Course."""

    def __init__(
        self,
        model: CausalLM,
        skeleton: CausalLMSkeleton,
        layers: Sequence[str],
        windows: Tokens,
        held_out: Tokens,
        weights: bool = True,
    ) -> None:
        """`skeleton`: whose integers are where training begins. `layers`: the trained ones; a tied pair by its owner.
        `windows` (n, length). `weights`: False trains scales only."""
        self.windows, self.held_out = torch.from_numpy(windows), torch.from_numpy(held_out)
        self.samples, self._weights = len(windows), weights
        self.held: dict[str, TrainedWeight] = {}
        self._fixed: dict[str, torch.Tensor] = {}
        teacher = streamed_float_model(skeleton, lambda planned: model.weight(planned.info), _KEPT)
        self._net = skeleton.build(lambda planned: self._layer(model, planned, set(layers)))
        self.teacher, self.student = (Blocks(each, list(skeleton.layers)) for each in (teacher, self._net))
        for blocks in (self.teacher, self.student):
            blocks.record(self.windows[:1])
        self.rows = max(16, _LOGIT_ELEMENTS // int(model.config.vocab_size))

    def parameters(self) -> Iterable[tuple[str, torch.nn.Parameter]]:
        """See Course."""
        return parameters(self._net)

    def _layer(self, model: CausalLM, planned: PlannedLayer, trained: set[str]) -> torch.nn.Module:
        owner = planned.info.tied_to or planned.info.name
        table = planned.info.kind == "embedding"
        if owner not in trained:
            if owner not in self._fixed:
                self._fixed[owner] = dequantized_rows(planned.load(), slice(None))
            return (FixedEmbedding if table else FixedLinear)(planned, self._fixed[owner])
        if owner not in self.held:
            weight = rotate(torch.from_numpy(np.array(model.weight(planned.info))), planned.scheme.rotate)
            self.held[owner] = TrainedWeight(weight, planned.load(), self._weights)
        return (TrainedEmbedding if table else TrainedLinear)(planned, self.held[owner])

    def step(self, sample: int) -> float:
        """One text forth and back."""
        tokens = self.windows[sample][None]
        goal = self._teacher_states(tokens)
        for held in self.held.values():
            held.begin()
        states = self.student.first_states(tokens, grad=True)
        for block in range(len(self.student.blocks)):
            states = self.student.run(block, states)
        ends = states.detach().requires_grad_(True)
        total = 0.0
        for start in range(0, tokens.shape[1], self.rows):
            part = slice(start, start + self.rows)
            lost = divergence(self.teacher.logits(goal[:, part]), self.student.logits(ends[:, part]))
            lost = lost.sum() / tokens.shape[1]
            lost.backward()  # type: ignore[no-untyped-call]
            total += float(lost.detach())
        if states.requires_grad:
            states.backward(ends.grad)  # type: ignore[no-untyped-call]
        for held in self.held.values():
            held.end()
        return total

    def judged(self) -> float:
        """Mean KL on the held-out windows."""
        total = 0.0
        for number in range(len(self.held_out)):
            tokens = self.held_out[number][None]
            goal = self._teacher_states(tokens)
            states = self.student.first_states(tokens)
            for block in range(len(self.student.blocks)):
                states = self.student.run(block, states)
            for start in range(0, tokens.shape[1], self.rows):
                part = slice(start, start + self.rows)
                found = divergence(self.teacher.logits(goal[:, part]), self.student.logits(states[:, part]))
                total += float(found.sum()) / self.held_out.numel()
        return total

    def _teacher_states(self, tokens: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            states = self.teacher.first_states(tokens)
            for block in range(len(self.teacher.blocks)):
                states = self.teacher.run(block, states)
        return states
