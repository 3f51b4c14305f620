"""The training itself: the whole model with rounded layers, taught by the float model's distributions.

The loss is the mean KL divergence of the student's next-token distributions to the teacher's, in nats per token (Hinton
et al., Distilling the Knowledge in a Neural Network, 2015, at temperature 1; for language models Liu et al., LLM-QAT,
2023). It starts from calibrated integers, so that the steps go into what calibration could not mend. Adam (Kingma & Ba,
2015), a linear warm-up and a cosine to zero.

The state after every few steps lies on disk. A run that was killed goes on from there and gives the same integers,
since which text a step sees depends on the seed and the step's number alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from exporter.blockwise.blocks import Blocks
from exporter.models.causal_lm import CausalLM, CausalLMSkeleton
from exporter.models.reference import dequantized_rows, streamed_float_model
from exporter.models.rotating import rotate
from exporter.models.skeleton import PlannedLayer
from exporter.numerics import QuantizedTensor
from exporter.qat.fake_quant import (
    FixedEmbedding,
    FixedLinear,
    TrainedEmbedding,
    TrainedLinear,
    TrainedWeight,
    parameters,
)

Tokens = NDArray[np.int64]
Progress = Callable[[str, float], None]
_LOGIT_ELEMENTS = 1 << 23  # of a block of logits: what is held for the gradient is a few times that
_KEPT = 400_000_000  # bytes of the teacher's weights that stay mapped
_BETAS = (0.9, 0.95)
_CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class Settings:
    """What decides the result."""

    steps: int = 200
    weights: bool = True  # False: scales only
    learning_rate: float = 1e-3  # of weights, in steps between two integers
    scale_rate: float = 2e-4  # of scales, as a share of each
    warm_up: int = 10  # steps
    seed: int = 0
    evaluations: int = 4  # of the held-out windows on the way, evenly
    patience: int = 2  # evaluations without gain until it stops
    checkpoints: int = 50  # steps between them


@dataclass
class History:
    """What a run saw."""

    losses: list[float] = field(default_factory=list)  # of each step, nats per token
    held_out: dict[int, float] = field(default_factory=dict)  # step -> mean KL
    stopped: str = ""


class Training:
    """Teacher, student, and the way from one checkpoint to the next."""

    def __init__(
        self,
        model: CausalLM,
        skeleton: CausalLMSkeleton,
        layers: Sequence[str],
        windows: Tokens,
        held_out: Tokens,
        settings: Settings,
        folder: Path,
    ) -> None:
        """`skeleton`: whose integers are where training begins. `layers`: the trained ones; a tied pair by its owner.
        `windows` (n, length) are gone through in an order that the seed gives, again from the start when they end."""
        self.settings, self.folder = settings, folder
        self.windows, self.held_out = torch.from_numpy(windows), torch.from_numpy(held_out)
        self.held: dict[str, TrainedWeight] = {}
        self.history = History()
        self.best: tuple[float, dict[str, QuantizedTensor]] | None = None
        self._fixed: dict[str, torch.Tensor] = {}
        teacher = streamed_float_model(skeleton, lambda planned: model.weight(planned.info), _KEPT)
        student = skeleton.build(lambda planned: self._layer(model, planned, set(layers)))
        self.teacher, self.student = (Blocks(each, list(skeleton.layers)) for each in (teacher, student))
        for blocks in (self.teacher, self.student):
            blocks.record(self.windows[:1])
        self.rows = max(16, _LOGIT_ELEMENTS // int(model.config.vocab_size))
        found = list(parameters(student))
        self.trained = [parameter for _, parameter in found]
        rates = {"weight": settings.learning_rate, "factor": settings.scale_rate}
        self.optimiser = torch.optim.Adam(
            [
                {"params": [p for name, p in found if name == kind], "lr": rate, "rate": rate}
                for kind, rate in rates.items()
            ],
            betas=_BETAS,
        )

    def _layer(self, model: CausalLM, planned: PlannedLayer, trained: set[str]) -> torch.nn.Module:
        owner = planned.info.tied_to or planned.info.name
        table = planned.info.kind == "embedding"
        if owner not in trained:
            if owner not in self._fixed:
                self._fixed[owner] = dequantized_rows(planned.load(), slice(None))
            return (FixedEmbedding if table else FixedLinear)(planned, self._fixed[owner])
        if owner not in self.held:
            weight = rotate(torch.from_numpy(np.array(model.weight(planned.info))), planned.scheme.rotate)
            self.held[owner] = TrainedWeight(weight, planned.load(), self.settings.weights)
        return (TrainedEmbedding if table else TrainedLinear)(planned, self.held[owner])

    def run(self, progress: Progress) -> dict[str, QuantizedTensor]:
        """Owner -> its integers and scales where the held-out text was best. Raises nothing of its own."""
        settings = self.settings
        order = _order(settings.seed, len(self.windows), settings.steps)
        step = self._resumed()
        if step == 0:
            self._evaluate(0)
        every = max(1, settings.steps // settings.evaluations)
        while step < settings.steps and not self.history.stopped:
            loss = self._step(self.windows[order[step]][None], self._rate(step))
            self.history.losses.append(loss)
            step += 1
            progress(f"step {step} of {settings.steps}, KL {loss:.4f}", step / settings.steps)
            if step % every == 0 or step == settings.steps:
                self._evaluate(step)
            if step % settings.checkpoints == 0:
                self._save(step)
        assert self.best is not None
        return self.best[1]

    def _rate(self, step: int) -> float:
        """Share of the learning rates."""
        warm = min(1.0, (step + 1) / self.settings.warm_up)
        return warm * 0.5 * (1 + math.cos(math.pi * step / self.settings.steps))

    def _step(self, tokens: torch.Tensor, rate: float) -> float:
        """One text forth and back; its mean KL before the step."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["rate"]
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
            lost = _divergence(
                self._logits(self.teacher, goal[:, part]), self._logits(self.student, ends[:, part])
            )
            lost = lost.sum() / tokens.shape[1]
            lost.backward()  # type: ignore[no-untyped-call]
            total += float(lost.detach())
        if states.requires_grad:
            states.backward(ends.grad)  # type: ignore[no-untyped-call]
        for held in self.held.values():
            held.end()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return total

    def _evaluate(self, step: int) -> None:
        """KL on the held-out windows; the integers are kept where it is the least so far."""
        total = 0.0
        with torch.no_grad():
            for number in range(len(self.held_out)):
                tokens = self.held_out[number][None]
                goal = self._teacher_states(tokens)
                states = self.student.first_states(tokens)
                for block in range(len(self.student.blocks)):
                    states = self.student.run(block, states)
                for start in range(0, tokens.shape[1], self.rows):
                    part = slice(start, start + self.rows)
                    found = _divergence(
                        self._logits(self.teacher, goal[:, part]), self._logits(self.student, states[:, part])
                    )
                    total += float(found.sum()) / self.held_out.numel()
        self.history.held_out[step] = total
        if self.best is None or total < self.best[0]:
            self.best = total, {name: held.tensor() for name, held in self.held.items()}
        since = [
            at
            for at in self.history.held_out
            if at > min(self.history.held_out, key=self.history.held_out.__getitem__)
        ]
        if len(since) >= self.settings.patience:
            self.history.stopped = f"after step {step}: {len(since)} evaluations without gain"

    def _teacher_states(self, tokens: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            states = self.teacher.first_states(tokens)
            for block in range(len(self.teacher.blocks)):
                states = self.teacher.run(block, states)
        return states

    @staticmethod
    def _logits(blocks: Blocks, states: torch.Tensor) -> torch.Tensor:
        """(1, n, hidden) -> (n, vocabulary), by the model's own forward."""
        tokens = torch.zeros(states.shape[:2], dtype=torch.int64)
        with blocks.passed(states), torch.set_grad_enabled(states.requires_grad):
            logits: torch.Tensor = blocks.model(tokens, use_cache=False).logits[0]
        return logits

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def _save(self, step: int) -> None:
        best = self.best
        assert best is not None
        held = {name: (t.values, t.scales) for name, t in best[1].items()}
        state: Mapping[str, Any] = {
            "step": step,
            "trained": [parameter.detach() for parameter in self.trained],
            "optimiser": self.optimiser.state_dict(),
            "history": (self.history.losses, self.history.held_out),
            "best": (
                best[0],
                {name: [torch.from_numpy(np.array(a)) for a in pair] for name, pair in held.items()},
            ),
        }
        draft = self.folder / f"{_CHECKPOINT}.partial"
        with draft.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(draft, self.folder / _CHECKPOINT)

    def _resumed(self) -> int:
        """Steps that are done already."""
        path = self.folder / _CHECKPOINT
        if not path.is_file():
            return 0
        state = torch.load(path, weights_only=True)
        with torch.no_grad():
            for parameter, held in zip(self.trained, state["trained"], strict=True):
                parameter.copy_(held)
        self.optimiser.load_state_dict(state["optimiser"])
        self.history = History(*state["history"])
        kl, tensors = state["best"]
        self.best = (
            kl,
            {
                name: QuantizedTensor(values.numpy(), scales.numpy(), None, self.held[name].scheme)
                for name, (values, scales) in tensors.items()
            },
        )
        return int(state["step"])


def _divergence(goal: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """(n, vocabulary) logits -> (n,) KL(goal || found), nats."""
    log_p = torch.log_softmax(goal, dim=-1)
    log_q = torch.log_softmax(found, dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


def _order(seed: int, windows: int, steps: int) -> list[int]:
    """Which window each step sees: all of them in a drawn order, then all of them in another."""
    generator = np.random.default_rng(seed)
    found: list[int] = []
    while len(found) < steps:
        found += [int(index) for index in generator.permutation(windows)]
    return found[:steps]
