"""The training itself: a model with rounded layers, taught by the float model's distributions.

The loss is the mean KL divergence of the student's distributions to the teacher's, in nats (Hinton et al., Distilling
the Knowledge in a Neural Network, 2015, at temperature 1; for language models Liu et al., LLM-QAT, 2023). It starts
from calibrated integers, so that the steps go into what calibration could not mend. Adam (Kingma & Ba, 2015), a linear
warm-up and a cosine to zero. What a student is, of text or of a module, is a Course's business.

The state after every few steps lies on disk. A run that was killed goes on from there and gives the same integers,
since which sample a step sees depends on the seed and the step's number alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from exporter.numerics import QuantizedTensor
from exporter.qat.fake_quant import TrainedWeight

Progress = Callable[[str, float], None]
_BETAS = (0.9, 0.95)
_CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class Settings:
    """What decides the result."""

    steps: int = 200
    learning_rate: float = 1e-3  # of weights, in steps between two integers
    scale_rate: float = 2e-4  # of scales, as a share of each
    warm_up: int = 10  # steps
    seed: int = 0
    evaluations: int = 4  # of the held-out samples on the way, evenly
    patience: int = 2  # evaluations without gain until it stops
    checkpoints: int = 50  # steps between them


@dataclass
class History:
    """What a run saw."""

    losses: list[float] = field(default_factory=list)  # of each step, nats per token
    held_out: dict[int, float] = field(default_factory=dict)  # step -> mean KL
    stopped: str = ""


class Course(Protocol):
    """A student and its teacher."""

    @property
    def held(self) -> Mapping[str, TrainedWeight]:
        """By the layer that owns the weight."""

    @property
    def samples(self) -> int:
        """How many are trained on."""

    def parameters(self) -> Iterable[tuple[str, torch.nn.Parameter]]:
        """What is trained, each as `weight` or as `factor` of scales."""

    def step(self, sample: int) -> float:
        """The sample's loss, whose gradient is added to that of the parameters."""

    def judged(self) -> float:
        """Mean loss on samples that nothing is trained on."""


class Training:
    """The way from one checkpoint to the next."""

    def __init__(self, course: Course, settings: Settings, folder: Path) -> None:
        """`course`: whose integers are where training begins; its samples are gone through in an order that the seed
        gives, again from the start when they end."""
        self.course, self.settings, self.folder = course, settings, folder
        self.history = History()
        self.best: tuple[float, dict[str, QuantizedTensor]] | None = None
        found = list(course.parameters())
        self.trained = [parameter for _, parameter in found]
        self.optimiser = adam(found, settings)

    def run(self, progress: Progress) -> dict[str, QuantizedTensor]:
        """Owner -> its integers and scales where the held-out samples were best. Raises nothing of its own."""
        settings = self.settings
        order = order_of(settings.seed, self.course.samples, settings.steps)
        step = self._resumed()
        if step == 0:
            self._evaluate(0)
        every = max(1, settings.steps // settings.evaluations)
        while step < settings.steps and not self.history.stopped:
            rate_at(self.optimiser, step, settings)
            loss = self.course.step(order[step])
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)
            self.history.losses.append(loss)
            step += 1
            progress(f"step {step} of {settings.steps}, KL {loss:.4f}", step / settings.steps)
            if step % every == 0 or step == settings.steps:
                self._evaluate(step)
            if step % settings.checkpoints == 0:
                self._save(step)
        assert self.best is not None
        return self.best[1]

    def _evaluate(self, step: int) -> None:
        """Loss on the held-out samples; the integers are kept where it is the least so far."""
        with torch.no_grad():
            total = self.course.judged()
        self.history.held_out[step] = total
        if self.best is None or total < self.best[0]:
            self.best = total, {name: held.tensor() for name, held in self.course.held.items()}
        since = [
            at
            for at in self.history.held_out
            if at > min(self.history.held_out, key=self.history.held_out.__getitem__)
        ]
        if len(since) >= self.settings.patience:
            self.history.stopped = f"after step {step}: {len(since)} evaluations without gain"

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
                name: QuantizedTensor(values.numpy(), scales.numpy(), None, self.course.held[name].scheme)
                for name, (values, scales) in tensors.items()
            },
        )
        return int(state["step"])


def divergence(goal: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """(n, vocabulary) logits -> (n,) KL(goal || found), nats."""
    log_p = torch.log_softmax(goal, dim=-1)
    log_q = torch.log_softmax(found, dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


def adam(trained: Iterable[tuple[str, torch.nn.Parameter]], settings: Settings) -> torch.optim.Adam:
    """Of parameters named `weight` or `factor`, each with its rate."""
    found = list(trained)
    rates = {"weight": settings.learning_rate, "factor": settings.scale_rate}
    groups = [
        {"params": held, "lr": rate, "rate": rate}
        for kind, rate in rates.items()
        if (held := [parameter for name, parameter in found if name == kind])
    ]
    return torch.optim.Adam(groups, betas=_BETAS)


def rate_at(optimiser: torch.optim.Adam, step: int, settings: Settings) -> None:
    """Set the rates of a step, counted from 0."""
    warm = min(1.0, (step + 1) / settings.warm_up)
    share = warm * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
    for group in optimiser.param_groups:
        group["lr"] = share * group["rate"]


def order_of(seed: int, samples: int, steps: int) -> list[int]:
    """Which sample each step sees: all of them in a drawn order, then all of them in another."""
    generator = np.random.default_rng(seed)
    found: list[int] = []
    while len(found) < steps:
        found += [int(index) for index in generator.permutation(samples)]
    return found[:steps]
