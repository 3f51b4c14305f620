"""The parity ladder for a model that is no language model: its example inputs through each runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from exporter.backends import get_backend
from exporter.models.python_module import ModuleSkeleton, PythonModule
from exporter.models.reference import dequantized_model, round_activations
from exporter.parity import Limits, LogitComparison, ParityReport, Rung, RungActivations, RungKind
from exporter.targets import Target
from exporter.verify.text import DEQUANTIZED, FLOAT_MODEL, ROUNDED, Verified

Arrays = list[NDArray[Any]]


def verify_module(
    model: PythonModule,
    skeleton: ModuleSkeleton,
    folder: Path,
    targets: Sequence[Target],
    limits: Limits,
    progress: Callable[[str, float], None],
) -> Verified:
    """Run the ladder on the module's example inputs. `folder` holds one folder per target's backend."""
    rounds = any(layer.scheme.activations == "dynamic-int8" for layer in skeleton.layers.values())
    inputs = [tensor.detach().numpy() for tensor in skeleton.example_inputs]
    exact = _run(model.float_model(), skeleton.example_inputs)
    module = dequantized_model(skeleton, quantize_activations=False)
    dequantized = _run(module, skeleton.example_inputs)
    round_activations(module, True)
    rounded = _run(module, skeleton.example_inputs)
    acts: RungActivations = "quantised" if rounds else "float"
    rungs = [
        _rung("quantisation", FLOAT_MODEL, DEQUANTIZED, "quantisation", "float", exact, dequantized, limits)
    ]
    outputs: dict[str, Any] = {}
    for index, target in enumerate(targets):
        backend = get_backend(target.backend)
        progress(backend.name, (index + 0.5) / len(targets))
        found = backend.open_module(folder / backend.folder).run(inputs)
        lowered, lowered_acts = found, acts
        if rounds and backend.float_activations:
            lowered = backend.open_module(folder / backend.folder, "float").run(inputs)
            lowered_acts = "float"
        outputs[backend.name] = [array.tolist() for array in found]
        like, reference = (rounded, ROUNDED) if lowered_acts == "quantised" else (dequantized, DEQUANTIZED)
        rungs.append(
            _rung(
                f"{backend.name} lowering",
                reference,
                backend.name,
                "lowering",
                lowered_acts,
                like,
                lowered,
                limits,
            )
        )
        rungs.append(
            _rung(
                f"{backend.name} as shipped", FLOAT_MODEL, backend.name, "shipped", acts, exact, found, limits
            )
        )
    golden = {"inputs": [array.tolist() for array in inputs], "outputs": outputs}
    return Verified(ParityReport(tuple(rungs)), golden)


def _run(module: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> Arrays:
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
    comparison = LogitComparison()
    for a, b in zip(expected, found, strict=True):
        if np.issubdtype(a.dtype, np.floating):
            columns = a.shape[-1] if a.ndim > 1 else a.size
            comparison.update(a.reshape(-1, columns), np.asarray(b).reshape(-1, columns))
    return Rung(name, reference, candidate, kind, acts, comparison.result(), limits)
