"""The PyTorch side of a model with static layers: the same program, with the same integers, that runtimes lower."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from exporter.models.activations import fake_quantize_activations
from exporter.models.exporting import export
from exporter.models.rotating import rotate
from exporter.models.skeleton import PlannedLayer, Skeleton, dialect_of, static_plan
from exporter.static.dialects import with_integers
from exporter.static.naming import operator_name
from exporter.static.whole import MOVING

Run = Callable[..., Any]
_DISTURBANCE = 1e-6  # relative; float32 arithmetic in another order does as much
_SEED = 0


class PlainLayer(torch.nn.Module):
    """A layer with float or dynamic activations, its weight what the integers stand for."""

    def __init__(self, planned: PlannedLayer, rounds: bool) -> None:
        """`rounds`: whether dynamic-int8 rounds its input."""
        super().__init__()
        self.rounds = rounds and planned.scheme.activations == "dynamic-int8"
        self.register_buffer("held", torch.from_numpy(planned.load().dequantized()))
        self.register_buffer("shift", planned.bias)
        self.is_table = planned.info.kind == "embedding"
        self.size = planned.scheme.rotate
        self.held: torch.Tensor
        self.shift: torch.Tensor | None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As nn.Linear or nn.Embedding."""
        if self.is_table:
            return rotate(torch.nn.functional.embedding(x, self.held), self.size)
        x = rotate(x, self.size)
        x = fake_quantize_activations(x) if self.rounds else x
        return torch.nn.functional.linear(x, self.held, self.shift)


class StaticReference:
    """The program with integers between its static layers, run by PyTorch."""

    def __init__(self, skeleton: Skeleton, rounds_dynamic: bool) -> None:
        """`rounds_dynamic`: whether layers with dynamic-int8 round their inputs. Raises TraceError."""
        module = skeleton.build(lambda planned: PlainLayer(planned, rounds_dynamic))
        program = export(module, skeleton.example_inputs, shapes=skeleton.dynamic_shapes)
        schemes = {name: planned.scheme for name, planned in skeleton.layers.items()}
        plan = static_plan(skeleton)
        integers = with_integers(program, schemes, plan, dialect_of(skeleton))
        self._module = integers.module()
        self.output_step = _output_step(integers)

    def __call__(self, *inputs: torch.Tensor) -> Any:
        """Run it."""
        return self._module(*inputs)

    def disturbed(self, seed: int, steps: float = 0.0) -> Run:
        """The same, every value off by a float32 rounding or so before it is rounded to a code.

        `steps`: off by up to so many steps of its codes instead, as arithmetic is that itself rounds to codes.
        """
        generator = torch.Generator().manual_seed(_SEED + seed)
        return _Disturbed(self._module, generator, steps).run


class _Disturbed(torch.fx.Interpreter):
    """Multiplies what is about to become integers by 1 + noise, or adds up to some steps of the codes."""

    def __init__(self, module: Any, generator: torch.Generator, steps: float) -> None:
        super().__init__(module)
        self._generator = generator
        self._steps = steps

    def run_node(self, n: torch.fx.Node) -> Any:
        """See torch.fx.Interpreter."""
        if n.op == "call_function" and operator_name(n) == "quantize_per_tensor":
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            value = args[0]
            if self._steps and not _computes(n.args[0]):
                return super().run_node(n)
            if self._steps:
                noise = (torch.rand(value.shape, generator=self._generator) * 2 - 1) * (self._steps * args[1])
                return self.call_function(n.target, (value + noise, *args[1:]), kwargs)
            noise = torch.randn(value.shape, generator=self._generator)
            return self.call_function(n.target, (value * (1 + _DISTURBANCE * noise), *args[1:]), kwargs)
        return super().run_node(n)


def _computes(value: Any) -> bool:
    """Whether an operator that rounds gives this value: no input, and none that only moves values."""
    computes: bool = value.op == "call_function" and operator_name(value) not in {
        *MOVING,
        "dequantize_per_tensor",
    }
    return computes


def _output_step(program: torch.export.ExportedProgram) -> float:
    """The largest step between two values of an output that comes straight from integers; 0 where none does."""
    output = next(node for node in program.graph.nodes if node.op == "output")
    steps = [
        float(node.args[1])  # type: ignore[arg-type]
        for node in output.args[0]
        if isinstance(node, torch.fx.Node)
        and node.op == "call_function"
        and operator_name(node) == "dequantize_per_tensor"
    ]
    return max(steps, default=0.0)
