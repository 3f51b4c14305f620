"""The parity ladder for a model that is no language model: its example inputs through each runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from exporter.backends import get_backend
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
from exporter.targets import Target
from exporter.verify.outcome import Verified
from exporter.verify.text import DEQUANTIZED, FLOAT_MODEL, ROUNDED

Arrays = list[NDArray[Any]]
_NOISE = 3.0  # times the noise floor, as for text
_DISTURBED_RUNS = 4
_LEAST_NOISE = 1e-3  # nats; a small model may show no noise at all until the first code moves


def verify_module(
    model: PythonModule,
    skeleton: ModuleSkeleton,
    folder: Path,
    targets: Sequence[Target],
    limits: Limits,
    progress: Callable[[str, float], None],
) -> Verified:
    """Run the ladder on the module's example inputs. `folder` holds one folder per target's backend."""
    inputs = [tensor.detach().numpy() for tensor in skeleton.example_inputs]
    exact = _run(model.float_model(), skeleton.example_inputs)
    references = _References(skeleton)
    rungs = [
        _rung(
            "quantisation",
            FLOAT_MODEL,
            DEQUANTIZED,
            "quantisation",
            "float",
            exact,
            references.dequantized,
            limits,
        )
    ]
    acts: RungActivations = "quantised" if references.rounds or references.static else "float"
    if references.static:
        found = references.like(float_dynamic=False).outputs
        name = "static and dynamic rounding" if references.rounds else "static rounding"
        rungs.append(_rung(name, FLOAT_MODEL, ROUNDED, "quantisation", acts, exact, found, limits))
    outputs: dict[str, Any] = {}
    for index, target in enumerate(targets):
        backend = get_backend(target.backend)
        progress(backend.name, (index + 0.5) / len(targets))
        found = backend.open_module(folder / backend.folder).run(inputs)
        outputs[backend.name] = [array.tolist() for array in found]
        float_dynamic = references.rounds and backend.float_activations
        lowered = found
        if float_dynamic:
            lowered = backend.open_module(folder / backend.folder, "float").run(inputs)
        like = references.like(float_dynamic)
        rungs.append(
            _rung(
                f"{backend.name} lowering",
                like.name,
                backend.name,
                "lowering",
                "quantised" if like.rounds else "float",
                like.outputs,
                lowered,
                limits if like.noise is None else replace(limits, max_noise_kl=like.noise),
            )
        )
        rungs.append(
            _rung(
                f"{backend.name} as shipped", FLOAT_MODEL, backend.name, "shipped", acts, exact, found, limits
            )
        )
    golden = {"inputs": [array.tolist() for array in inputs], "outputs": outputs}
    return Verified(ParityReport(tuple(rungs)), golden)


@dataclass(frozen=True)
class _Reference:
    """What PyTorch gives, and what a runtime that computes the same may differ by."""

    name: str
    outputs: Arrays
    rounds: bool  # whether activations are rounded on the way
    noise: float | None  # KL, nats; None where a bound on the numbers themselves holds


class _References:
    """The PyTorch models that runtimes are compared with, on the example inputs."""

    def __init__(self, skeleton: ModuleSkeleton) -> None:
        self.skeleton = skeleton
        schemes = [layer.scheme for layer in skeleton.layers.values()]
        self.rounds = any(scheme.activations == "dynamic-int8" for scheme in schemes)
        self.static = any(scheme.is_static for scheme in schemes)
        self._module = dequantized_model(skeleton, quantize_activations=False)
        self.dequantized = _run(self._module, skeleton.example_inputs)
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
        outputs = _run(self._module, self.skeleton.example_inputs)
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
        inputs = self.skeleton.example_inputs
        reference = StaticReference(self.skeleton, not float_dynamic)
        outputs = _run(reference, inputs)
        floor = max(
            _compared(outputs, _run(reference.disturbed(seed), inputs)).kl_mean
            for seed in range(_DISTURBED_RUNS)
        )
        return _Reference(
            ROUNDED, outputs, True, max(_NOISE * floor, reference.output_step**2 / 2, _LEAST_NOISE)
        )


def _run(module: Callable[..., Any], inputs: Sequence[torch.Tensor]) -> Arrays:
    with torch.no_grad():
        out = module(*inputs)
    leaves = torch.utils._pytree.tree_leaves(out)
    return [tensor.numpy() for tensor in leaves if isinstance(tensor, torch.Tensor)]


def _rung(
    name: str,
    reference: str,
    candidate: str,
    kind: RungKind,
    acts: RungActivations,
    expected: Arrays,
    found: Arrays,
    limits: Limits,
) -> Rung:
    return Rung(name, reference, candidate, kind, acts, _compared(expected, found), limits)


def _compared(expected: Arrays, found: Arrays) -> ComparisonResult:
    comparison = LogitComparison()
    for a, b in zip(expected, found, strict=True):
        if np.issubdtype(a.dtype, np.floating):
            # of four axes, a picture of features, an example is a row: a line of it may be all zeros behind a ReLU
            columns = a.size // a.shape[0] if a.ndim > 3 else a.shape[-1] if a.ndim > 1 else a.size
            comparison.update(a.reshape(-1, columns), np.asarray(b).reshape(-1, columns))
    return comparison.result()
