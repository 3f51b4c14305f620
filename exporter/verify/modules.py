"""The parity ladder for a module of the user's own: pictures, or its example inputs, through each runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from exporter.backends import get_backend
from exporter.backends.base import ModuleRunner
from exporter.errors import QexportError
from exporter.models.python_module import ModuleSkeleton, PythonModule
from exporter.models.reference import dequantized_model, round_activations
from exporter.models.static_reference import StaticReference
from exporter.parity import (
    ComparisonResult,
    Limits,
    LogitComparison,
    ParityReport,
    Rung,
    RungActivations,
    RungKind,
)
from exporter.parity.tasks import TaskReport
from exporter.recipe import Recipe
from exporter.samples.processing import picture_processor
from exporter.verify.classifying import Judged, PictureCase, classified, picture_cases
from exporter.verify.outcome import GoldenInput, Verified
from exporter.verify.text import DEQUANTIZED, FLOAT_MODEL, ROUNDED

Arrays = list[NDArray[Any]]
_NOISE = 3.0  # times the noise floor, as for text
_DISTURBED_RUNS = 4
_DISTURBED_CASES = 16  # how far roundings carry is a mean over this many pictures
_GOLDEN = 8  # pictures that travel with the files
_LEAST_NOISE = 1e-3  # nats; a small model may show no noise at all until the first code moves


class HasInputs(Protocol):
    """One case of a module."""

    @property
    def inputs(self) -> tuple[torch.Tensor, ...]: ...  # noqa: D102


@dataclass(frozen=True)
class _Case:
    """One run of the module: a picture of the recipe, or the function's example inputs."""

    inputs: tuple[torch.Tensor, ...]
    picture: PictureCase | None = None


def verify_module(
    model: PythonModule,
    skeleton: ModuleSkeleton,
    folder: Path,
    recipe: Recipe,
    limits: Limits,
    progress: Callable[[str, float], None],
) -> Verified:
    """Run the ladder on the recipe's pictures, else on the module's example inputs.

    `folder` holds one folder per target's backend. Raises QexportError for pictures that are none or that the module
    does not take.
    """
    progress(FLOAT_MODEL, 0.0)
    cases, classes = module_cases(model, recipe)
    exact = each_output(model.float_model(), cases)
    references = _References(skeleton, cases)
    pair = (FLOAT_MODEL, DEQUANTIZED)
    rungs = [_rung("quantisation", pair, "quantisation", "float", (exact, references.dequantized), limits)]
    acts: RungActivations = "quantised" if references.rounds or references.static else "float"
    if references.static:
        found = references.like(float_dynamic=False).outputs
        name = "static and dynamic rounding" if references.rounds else "static rounding"
        rungs.append(_rung(name, (FLOAT_MODEL, ROUNDED), "quantisation", acts, (exact, found), limits))
    shipped: dict[str, list[Arrays]] = {}
    for index, target in enumerate(recipe.targets):
        backend = get_backend(target.key)
        progress(backend.name, (index + 0.5) / len(recipe.targets))
        found = _runtime(backend.open_module(folder / backend.folder), cases)
        shipped[backend.name] = lowered = found
        float_dynamic = references.rounds and backend.float_activations
        if float_dynamic:
            lowered = _runtime(backend.open_module(folder / backend.folder, "float"), cases)
        like = references.like(float_dynamic)
        rungs.append(
            _rung(
                f"{backend.name} lowering",
                (like.name, backend.name),
                "lowering",
                "quantised" if like.rounds else "float",
                (like.outputs, lowered),
                limits if like.noise is None else replace(limits, max_noise_kl=like.noise),
            )
        )
        pair = (FLOAT_MODEL, backend.name)
        rungs.append(_rung(f"{backend.name} as shipped", pair, "shipped", acts, (exact, found), limits))
    tasks = _tasks(cases, classes, exact, shipped)
    return Verified(
        ParityReport(tuple(rungs)), _golden(cases, shipped), tasks=tasks, inputs=_given(cases[:_GOLDEN])
    )


def module_cases(model: PythonModule, recipe: Recipe) -> tuple[list[_Case], Mapping[int, str] | None]:
    """What is run, and names of the classes where pictures are judged by them."""
    data = recipe.parity.data
    example = model.built[1]
    if data is None:
        return [_Case(example)], None
    if not data.pictures:
        raise QexportError(
            "parity.data: a module is judged on pictures, and the recipe gives none; give parity.data.pictures, or "
            "leave parity.data out, which compares the function's example inputs"
        )
    processor = picture_processor(None, recipe.model.preprocessing)
    with torch.no_grad():
        logits = torch.utils._pytree.tree_leaves(model.float_model()(*example))[0]
    classes = None
    if logits.ndim == 2:
        classes = processor.labels or {number: str(number) for number in range(logits.shape[1])}
        if len(classes) != logits.shape[1]:
            raise QexportError(
                f"{recipe.model.preprocessing.labels if recipe.model.preprocessing else 'labels'}: {len(classes):,} "
                f"labels, the module gives {logits.shape[1]:,} classes; give one line for each class"
            )
    pictures = picture_cases(data.pictures, processor, classes)
    return [
        _Case(model.tensors(picture.inputs, "parity.data.pictures"), picture) for picture in pictures
    ], classes


def _tasks(
    cases: Sequence[_Case],
    classes: Mapping[int, str] | None,
    exact: Sequence[Arrays],
    shipped: Mapping[str, list[Arrays]],
) -> TaskReport | None:
    """Accuracy and agreement, for a module that gives each picture one row of logits."""
    if classes is None:
        return None
    examples = [
        Judged(case.picture.sample.path.name, case.picture.label, case.picture.source)
        for case in cases
        if case.picture
    ]
    logits = np.concatenate([outputs[0] for outputs in exact])
    return TaskReport(
        tuple(
            comparison
            for name, found in shipped.items()
            for comparison in classified(
                (FLOAT_MODEL, name),
                "module",
                examples,
                (logits, np.concatenate([outputs[0] for outputs in found])),
                classes,
            )
        )
    )


def _golden(cases: Sequence[_Case], shipped: Mapping[str, list[Arrays]]) -> dict[str, Any]:
    """What a device replays: the example inputs, or some pictures, and what each runtime gave."""
    if cases[0].picture is None:
        inputs = [tensor.detach().numpy().tolist() for tensor in cases[0].inputs]
        return {
            "inputs": inputs,
            "outputs": {name: [a.tolist() for a in found[0]] for name, found in shipped.items()},
        }
    examples = [
        {
            "name": case.picture.sample.path.name if case.picture else None,
            "outputs": {name: [a.tolist() for a in found[i]] for name, found in shipped.items()},
        }
        for i, case in enumerate(cases[:_GOLDEN])
    ]
    return {"task": "module", "examples": examples}


def _given(cases: Sequence[_Case]) -> tuple[GoldenInput, ...]:
    return tuple(GoldenInput(c.picture.sample, c.picture.inputs) for c in cases if c.picture)


@dataclass(frozen=True)
class _Reference:
    """What PyTorch gives, and what a runtime that computes the same may differ by."""

    name: str
    outputs: list[Arrays]  # of each case
    rounds: bool  # whether activations are rounded on the way
    noise: float | None  # KL, nats; None where a bound on the numbers themselves holds


class _References:
    """The PyTorch models that runtimes are compared with."""

    def __init__(self, skeleton: ModuleSkeleton, cases: Sequence[_Case]) -> None:
        self.skeleton, self.cases = skeleton, cases
        schemes = [layer.scheme for layer in skeleton.layers.values()]
        self.rounds = any(scheme.activations == "dynamic-int8" for scheme in schemes)
        self.static = any(scheme.is_static for scheme in schemes)
        self._module = dequantized_model(skeleton, quantize_activations=False)
        self.dequantized = each_output(self._module, cases)
        self._made: dict[bool, _Reference] = {}

    def like(self, float_dynamic: bool) -> _Reference:
        """What a runtime computes that leaves dynamic activations in float, or rounds them."""
        if float_dynamic not in self._made:
            self._made[float_dynamic] = (
                self._static(float_dynamic) if self.static else self._dynamic(float_dynamic)
            )
        return self._made[float_dynamic]

    def _dynamic(self, float_dynamic: bool) -> _Reference:
        if float_dynamic or not self.rounds:
            return _Reference(DEQUANTIZED, self.dequantized, False, None)
        round_activations(self._module, True)
        outputs = each_output(self._module, self.cases)
        round_activations(self._module, False)
        return _Reference(ROUNDED, outputs, True, None)

    def _static(self, float_dynamic: bool) -> _Reference:
        """With integers between static layers.

        A value that lies between two codes goes to either, by a last bit; the layers behind see another code, and
        some of theirs move too. How far that goes is measured: the reference against itself, every value disturbed
        by a float32 rounding. A runtime further than _NOISE times that fails. One step of an output that is integers
        is always allowed: such a change of all logits is a KL divergence of at most half its square (Hoeffding's
        lemma, logits within plus or minus one step).
        """
        reference = StaticReference(self.skeleton, not float_dynamic)
        outputs = each_output(reference, self.cases)
        few = self.cases[:_DISTURBED_CASES]
        floor = max(
            _compared(outputs[: len(few)], each_output(reference.disturbed(seed), few)).kl_mean
            for seed in range(_DISTURBED_RUNS)
        )
        return _Reference(
            ROUNDED, outputs, True, max(_NOISE * floor, reference.output_step**2 / 2, _LEAST_NOISE)
        )


def each_output(module: Callable[..., Any], cases: Sequence[HasInputs]) -> list[Arrays]:
    """The PyTorch module on each case."""
    found = []
    for case in cases:
        with torch.no_grad():
            leaves = torch.utils._pytree.tree_leaves(module(*case.inputs))
        found.append([tensor.numpy() for tensor in leaves if isinstance(tensor, torch.Tensor)])
    return found


def _runtime(runner: ModuleRunner, cases: Sequence[_Case]) -> list[Arrays]:
    """A runtime on each case."""
    return [runner.run([tensor.detach().numpy() for tensor in case.inputs]) for case in cases]


def _rung(
    name: str,
    models: tuple[str, str],
    kind: RungKind,
    acts: RungActivations,
    outputs: tuple[Sequence[Arrays], Sequence[Arrays]],
    limits: Limits,
) -> Rung:
    """Reference and candidate, and what they gave."""
    return Rung(name, *models, kind, acts, _compared(*outputs), limits)


def _compared(expected: Sequence[Arrays], found: Sequence[Arrays]) -> ComparisonResult:
    comparison = LogitComparison()
    for ours, theirs in zip(expected, found, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            if np.issubdtype(a.dtype, np.floating):
                # of four axes, a picture of features, an example is a row: a line of it may be all zeros behind a ReLU
                columns = a.size // a.shape[0] if a.ndim > 3 else a.shape[-1] if a.ndim > 1 else a.size
                comparison.update(a.reshape(-1, columns), np.asarray(b).reshape(-1, columns))
    return comparison.result()
