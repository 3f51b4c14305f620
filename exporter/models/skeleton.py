"""A model whose big weights are not there: structure and float leftovers from the source, and for
each planned layer the integers, read from disk when a backend asks.

A backend calls `skeleton.build(make_layer)`; it gets a fresh torch module in which every planned
layer has been replaced by what make_layer returned. No float copy of a quantised weight is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from exporter.layers import LayerInfo
from exporter.numerics import QuantizedTensor
from exporter.schemes import QuantScheme
from exporter.signatures import Signature, within
from exporter.static.params import StaticPlan
from exporter.targets import Dialect
from exporter.tasks import Task

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class PlannedLayer:
    """A layer, its scheme and its integers."""

    info: LayerInfo
    scheme: QuantScheme
    load: Callable[[], QuantizedTensor]  # memory-mapped; the tied layer gives its owner's
    bias: torch.Tensor | None  # float32, for linear layers


LayerFactory = Callable[[PlannedLayer], "torch.nn.Module"]


@dataclass(frozen=True)
class Program:
    """One thing that a runtime can run: a file in ONNX Runtime, a method in ExecuTorch."""

    name: str  # "model" where a task has one program only; "encoder", "decoder"
    signature: Signature
    wrap: Callable[
        [torch.nn.Module], torch.nn.Module
    ]  # the built model -> what takes and gives the signature
    examples: Callable[[], tuple[torch.Tensor, ...]]  # inputs to trace with, every length within its axis
    # the same for a runtime that takes one example at a time, none of whose tokens is padding; None: this one
    unpadded: Program | None = None


def planned_layers_of(
    layers: Iterable[LayerInfo],
    schemes: Mapping[str, QuantScheme],
    load: Callable[[str], QuantizedTensor],
    bias: Callable[[str], torch.Tensor | None],
) -> dict[str, PlannedLayer]:
    """The quantised ones by module path; a tied layer loads its owner's integers."""
    return {
        layer.name: PlannedLayer(
            layer, schemes[layer.name], partial(load, layer.tied_to or layer.name), bias(layer.name)
        )
        for layer in layers
        if not schemes[layer.name].is_float
    }


def shortened(program: Program, longest: int) -> Program:
    """The same with no axis but the batch longer than `longest`, its example inputs too."""
    signature = within(program.signature, longest)

    def examples() -> tuple[torch.Tensor, ...]:
        found = []
        for port, tensor in zip(signature.inputs, program.examples(), strict=True):
            for place, axis in enumerate(port.shape):
                if isinstance(axis, str) and tensor.shape[place] > signature.axes[axis].maximum:
                    tensor = tensor.narrow(place, 0, signature.axes[axis].maximum)
            found.append(tensor.contiguous())
        return tuple(found)

    return replace(program, signature=signature, examples=examples)


def static_plan(skeleton: Skeleton) -> StaticPlan | None:
    """Ranges of the static layers' activations; None where a skeleton has no such layer."""
    found: StaticPlan | None = getattr(skeleton, "static", None)
    return found


def dialect_of(skeleton: Skeleton) -> Dialect:
    """In whose operators and codes its static program is written."""
    found: Dialect = getattr(skeleton, "dialect", "cpu")
    return found


def described_examples(skeleton: Skeleton) -> dict[str, object]:
    """Example inputs of a module as a signature describes its inputs: name, type, shape. For the manifest."""
    import torch

    found = []
    for index, leaf in enumerate(torch.utils._pytree.tree_leaves(skeleton.example_inputs)):
        tensor = torch.as_tensor(leaf)
        found.append([f"input_{index}", str(tensor.dtype).removeprefix("torch."), list(tensor.shape)])
    return {"inputs": found}


class Skeleton(Protocol):
    """What a backend lowers."""

    @property
    def task(self) -> Task: ...  # noqa: D102

    @property
    def programs(self) -> tuple[Program, ...]:
        """What is traced, each for itself; empty for text-generation, which each backend wraps in its own way."""

    layers: dict[str, PlannedLayer]  # quantised layers only, by module path
    tokenizer_folder: Path | None  # tokenizer.json, tokenizer_config.json, chat template …
    config: Any  # transformers' PretrainedConfig for text-generation, else None
    example_inputs: tuple[Any, ...]  # module only: positional tensors
    dynamic_shapes: Any  # module only: as torch.export takes it, or None

    @property
    def calibration(self) -> tuple[tuple[int, ...], ...]:
        """Token windows of running text to measure ranges on, each from an empty cache; empty for a module."""

    def build(self, make_layer: LayerFactory, attention: str | None = None) -> torch.nn.Module:
        """A fresh module in eval mode on the CPU: planned layers replaced, everything else float32
        with real values; `attention` is the name registered in transformers' AttentionInterface."""
