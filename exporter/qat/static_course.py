"""A module whose layers take and give integers, in training: the program that the runtimes lower, with gradients.

Where the program rounds a value to codes the student rounds it too and the gradient passes where nothing was clipped;
a trained layer's weight is what its integers will stand for, and its bias makes up for what they lose, as that of the
files does (static/weights.make_static). Scales and ranges stay as calibration found them. PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from exporter.models.exporting import export
from exporter.models.python_module import ModuleSkeleton, PythonModule
from exporter.models.static_reference import PlainLayer
from exporter.qat.fake_quant import TrainedWeight
from exporter.qat.training import divergence
from exporter.static.dialects import with_integers
from exporter.static.naming import operator_name
from exporter.static.params import StaticPlan
from exporter.static.weights import BIAS, WEIGHT

Sample = tuple[torch.Tensor, ...]


class _RoundedToCodes(torch.autograd.Function):
    """The value that x's code stands for; backward the identity between the ends of the codes."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, scale: float, zero_point: int, low: int, high: int
    ) -> torch.Tensor:
        codes = torch.round(x * (1.0 / torch.tensor(scale))) + zero_point
        ctx.save_for_backward((codes >= low) & (codes <= high))
        return (codes.clamp_(low, high) - zero_point) * scale

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None, None, None


class _Student(torch.fx.Interpreter):
    """Runs the program of integers in float, its trained layers' weights by `made`."""

    def __init__(self, module: Any, made: Callable[[str, str], torch.Tensor | None]) -> None:
        """`made(layer, part)`: the weight or bias of a trained layer, None of another."""
        super().__init__(module)
        self._made = made

    def run_node(self, n: torch.fx.Node) -> Any:
        """See torch.fx.Interpreter."""
        kind = operator_name(n) if n.op == "call_function" else ""
        if kind == "quantize_per_tensor":
            args, _ = self.fetch_args_kwargs_from_env(n)
            return _RoundedToCodes.apply(*args[:5])  # type: ignore[no-untyped-call]
        if kind == "dequantize_per_tensor":
            args, _ = self.fetch_args_kwargs_from_env(n)
            if args[0].is_floating_point():  # what _RoundedToCodes gave: a value, no code
                return args[0]
        source = n.args[0] if kind.startswith("dequantize_per_") else None
        if isinstance(source, torch.fx.Node) and source.op == "get_attr":
            layer, _, part = str(source.target).removesuffix(".values").rpartition(".")
            found = self._made(layer, part)
            if found is not None:
                return found
        return super().run_node(n)


class StaticCourse:
    """See exporter.qat.training.Course."""

    def __init__(
        self,
        model: PythonModule,
        skeleton: ModuleSkeleton,
        layers: Sequence[str],
        samples: Sequence[Sample],
        held_out: Sequence[Sample],
    ) -> None:
        """`skeleton`: whose integers are where training begins. `layers`: the trained ones, all static. Raises
        TraceError."""
        assert skeleton.static is not None
        self._plan: StaticPlan = skeleton.static
        self._given, self._held_out, self.samples = samples, held_out, len(samples)
        module = skeleton.build(lambda planned: PlainLayer(planned, True))
        program = export(module, skeleton.example_inputs, shapes=skeleton.dynamic_shapes)
        schemes = {name: planned.scheme for name, planned in skeleton.layers.items()}
        integers = with_integers(program, schemes, self._plan, skeleton.dialect)
        self._student = _Student(integers.module(check_guards=False), self._part)
        self._teacher = model.float_model()
        self._exact: dict[str, torch.Tensor] = {}
        self.held: dict[str, TrainedWeight] = {}
        self._forms: dict[str, tuple[tuple[int, ...], int, torch.Tensor]] = {}  # shape, groups, float bias
        for name in layers:
            layer = model.submodule(name)
            exact = layer.get_parameter("weight").detach()
            bias = layer._parameters.get("bias")
            own = torch.zeros(len(exact)) if bias is None else bias.detach()
            self._forms[name] = tuple(exact.shape), int(getattr(layer, "groups", 1)), own
            self._exact[name] = exact.reshape(len(exact), -1)
            self.held[name] = TrainedWeight(self._exact[name], skeleton.layers[name].load(), True)
            self.held[name].weight.requires_grad_(True)

    def parameters(self) -> Iterable[tuple[str, torch.nn.Parameter]]:
        """See Course; weights alone, since kernels bound the scales from below."""
        return [("weight", held.weight) for held in self.held.values()]

    def step(self, sample: int) -> float:
        """One sample forth and back."""
        for held in self.held.values():
            held.begin()
        lost = self._lost(self._given[sample])
        lost.backward()  # type: ignore[no-untyped-call]
        for held in self.held.values():
            held.end()
        return float(lost.detach())

    def judged(self) -> float:
        """Mean KL on the held-out samples."""
        return float(np.mean([float(self._lost(sample)) for sample in self._held_out]))

    def _lost(self, sample: Sample) -> torch.Tensor:
        """Mean over the rows of the first output, which parity judges by as well."""
        with torch.no_grad():
            goal = _first(self._teacher(*sample))
        found = _first(self._student.run(*sample))
        return divergence(goal.reshape(-1, goal.shape[-1]), found.reshape(-1, goal.shape[-1])).mean()

    def _part(self, layer: str, part: str) -> torch.Tensor | None:
        """The weight or the bias of a trained layer as the program has it."""
        if layer not in self.held:
            return None
        shape, groups, own = self._forms[layer]
        held: torch.Tensor = self.held[layer]()
        if part == WEIGHT:
            return held.view(shape)
        assert part == BIAS
        # exporter.static.params.bias_correction, with a gradient
        error = (self._exact[layer] - held).view(*shape[:2], -1).sum(dim=2)
        means = torch.tensor(self._plan.means[layer]).reshape(groups, -1)
        correction = (error * means.repeat_interleave(shape[0] // groups, dim=0)).sum(dim=1)
        return own + correction


def _first(outputs: Any) -> torch.Tensor:
    """The first tensor of what a module gives."""
    return next(x for x in torch.utils._pytree.tree_leaves(outputs) if isinstance(x, torch.Tensor))
