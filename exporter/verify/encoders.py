"""The parity ladder for an encoder: float -> dequantised weights -> each runtime, on texts or pictures.

Vectors are compared by their cosine, logits by their distribution and the label that is chosen. A runtime that takes
batches is given texts of different lengths together, padded; the reference sees each alone. Rounding of activations
and noise floors are as in verify/text.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from exporter.backends import get_backend
from exporter.backends.base import ActivationMode, Backend, ProgramRunner
from exporter.memory import VerifyRoom, release_to_system
from exporter.models.pretrained import Pretrained, PretrainedSkeleton
from exporter.models.reference import (
    StreamedLinear,
    dequantized_model,
    release_weights,
    round_activations,
    streamed_float_model,
)
from exporter.models.skeleton import Program
from exporter.parity import (
    ComparisonResult,
    Limits,
    LogitComparison,
    ParityReport,
    Rung,
    RungActivations,
    RungKind,
    VectorComparison,
)
from exporter.parity.tasks import (
    Metric,
    TaskComparison,
    TaskReport,
    embeddings,
    label_agreement,
)
from exporter.recipe import Recipe
from exporter.verify.classifying import Judged, classified
from exporter.verify.encoder_material import Case, EncoderMaterial, Inputs, encoder_material, padded
from exporter.verify.outcome import GoldenInput, Verified
from exporter.verify.text import DEQUANTIZED, FLOAT_MODEL, ROUNDED

Progress = Callable[[str, float], None]
Output = NDArray[np.float32]  # judged rows of one case: (n, classes), or (1, features) of a vector
_FLOOR_FACTOR = 3.0  # times the noise floor, as for language models
_LEAST_NOISE = 1e-3  # nats
_LEAST_DISTANCE = 1e-5  # 1 - cosine
_DISTURBANCE = 1e-6  # relative, of what the first quantised linear layer reads: some units in the last place
_BATCH = 4  # texts of different lengths together
_GOLDEN = 8  # cases that travel with the files
_GOLDEN_TOP = 16  # logits kept of a row


@dataclass(frozen=True)
class _Ladder:
    """What the rungs share."""

    model: Pretrained
    skeleton: PretrainedSkeleton
    material: EncoderMaterial
    limits: Limits

    @property
    def program(self) -> Program:
        """Of the task."""
        return self.skeleton.programs[0]

    @property
    def is_vector(self) -> bool:
        """Whether what is judged has no classes."""
        return self.model.task == "feature-extraction" or self.program.signature.outputs[0].shape[-1] == 1

    def judged(self, found: dict[str, Any], case: Case, row: int = 0) -> Output:
        """Of a program's outputs, what is compared of one case: its vector, or the logits of its rows."""
        name = list(found)[-1]  # the vector of a text stands last
        array: Output = np.asarray(found[name][row], np.float32)
        if case.rows is not None and array.ndim > 1:
            array = array[case.rows]
        return array.reshape(1, -1) if self.is_vector else array.reshape(-1, array.shape[-1])

    def compare(self, expected: Sequence[Output], found: Sequence[Output]) -> ComparisonResult:
        """All cases."""
        if self.is_vector:
            vectors = VectorComparison()
            for case, a, b in zip(self.material.cases, expected, found, strict=True):
                vectors.update(a, b, case.language)
            return vectors.result()
        logits = LogitComparison()
        for case, a, b in zip(self.material.cases, expected, found, strict=True):
            logits.update(a, b, case.targets)
        return logits.result()

    def rung(
        self,
        name: str,
        models: tuple[str, str],
        kind: RungKind,
        acts: RungActivations,
        outputs: tuple[Sequence[Output], Sequence[Output]],
        limits: Limits | None = None,
    ) -> Rung:
        """Reference and candidate, and what they gave."""
        return Rung(name, *models, kind, acts, self.compare(*outputs), limits or self.limits)


def verify_encoder(
    model: Pretrained,
    skeleton: PretrainedSkeleton,
    folder: Path,
    recipe: Recipe,
    limits: Limits,
    progress: Progress,
    room: VerifyRoom | None = None,
) -> Verified:
    """Run the ladder. `folder` holds one folder per target's backend; `room` bounds memory."""
    material = encoder_material(model, recipe)
    ladder = _Ladder(model, skeleton, material, limits)
    kept = (room or VerifyRoom.for_layers(model.layers().layers)).kept_bytes
    rounds = any(layer.scheme.activations == "dynamic-int8" for layer in skeleton.layers.values())
    release_to_system()
    progress(FLOAT_MODEL, 0.0)
    net = streamed_float_model(skeleton, lambda layer: model.weight(layer.info), kept)
    exact = _torch(ladder, net)
    release_weights(net)
    progress(DEQUANTIZED, 0.25)
    net = dequantized_model(skeleton, quantize_activations=False, keep=kept)
    dequantized = _torch(ladder, net)
    pair = (FLOAT_MODEL, DEQUANTIZED)
    rungs = [ladder.rung("quantisation", pair, "quantisation", "float", (exact, dequantized))]
    rounded, floor = dequantized, None
    if rounds:
        progress(ROUNDED, 0.4)
        round_activations(net, True)
        rounded = _torch(ladder, net)
        with _disturbed(net):
            other = _torch(ladder, net)
        names = (ROUNDED, f"{ROUNDED}, disturbed")
        rungs.append(ladder.rung("noise floor", names, "lowering", "quantised", (rounded, other), Limits()))
        floor = _floor(rungs[-1].result)
    release_weights(net)
    del net
    release_to_system()
    shipped: dict[str, list[Output]] = {}
    golden: dict[str, list[dict[str, Any]]] = {}
    for index, target in enumerate(recipe.targets):
        backend = get_backend(target.key)
        progress(backend.name, 0.6 + 0.4 * index / len(recipe.targets))
        place = folder / backend.folder
        rungs.append(_lowering(ladder, backend, place, (dequantized, rounded), floor))
        runner = backend.open_program(place, ladder.program.name)
        found, golden[backend.name] = _runtime(ladder, runner)
        acts: RungActivations = "quantised" if rounds else "float"
        rungs.append(
            ladder.rung(
                f"{backend.name} as shipped", (FLOAT_MODEL, backend.name), "shipped", acts, (exact, found)
            )
        )
        shipped[backend.name] = found
        del runner
        release_to_system()
    tasks = TaskReport(
        tuple(c for name, found in shipped.items() for c in _task(ladder, name, exact, found)),
        material.notes,
    )
    given = tuple(
        GoldenInput(case.sample, {} if case.text is not None else case.inputs)
        for case in material.cases[:_GOLDEN]
    )
    return Verified(ParityReport(tuple(rungs)), _golden(ladder, golden), material.notes, tasks, given)


def _torch(ladder: _Ladder, net: torch.nn.Module) -> list[Output]:
    """The PyTorch model on each case alone."""
    program = ladder.program
    module, names = program.wrap(net), [port.name for port in program.signature.inputs]
    outputs = [port.name for port in program.signature.outputs]
    results = []
    for case in ladder.material.cases:
        with torch.no_grad():
            found = module(*(torch.from_numpy(case.inputs[name]) for name in names))
        arrays = {name: tensor.numpy() for name, tensor in zip(outputs, found, strict=True)}
        results.append(ladder.judged(arrays, case))
    return results


def _runtime(ladder: _Ladder, runner: ProgramRunner) -> tuple[list[Output], list[dict[str, Any]]]:
    """A runtime on every case, and its outputs for the golden ones; padded batches where it takes them."""
    cases = list(ladder.material.cases)
    golden = [runner.run(case.inputs) for case in cases[:_GOLDEN]]
    if not runner.takes_batches:
        return [ladder.judged(runner.run(case.inputs), case) for case in cases], golden
    results: list[Output] = []
    for start in range(0, len(cases), _BATCH):
        batch = cases[start : start + _BATCH]
        found = runner.run(_together(ladder, batch))
        results += [ladder.judged(found, case, row) for row, case in enumerate(batch)]
    return results, golden


def _together(ladder: _Ladder, batch: list[Case]) -> Inputs:
    if "input_ids" in batch[0].inputs:
        return padded(batch, ladder.material.processor)
    return {name: np.concatenate([case.inputs[name] for case in batch]) for name in batch[0].inputs}


def _lowering(
    ladder: _Ladder,
    backend: Backend,
    place: Path,
    references: tuple[list[Output], list[Output]],
    floor: Limits | None,
) -> Rung:
    """What lowering alone changes: against the dequantised model, or the rounding one where the runtime rounds."""
    dequantized, rounded = references
    name = f"{backend.name} lowering"
    if floor is None or backend.float_activations:
        mode: ActivationMode = "as-shipped" if floor is None else "float"
        found = _runtime(ladder, backend.open_program(place, ladder.program.name, mode))[0]
        return ladder.rung(name, (DEQUANTIZED, backend.name), "lowering", "float", (dequantized, found))
    found = _runtime(ladder, backend.open_program(place, ladder.program.name))[0]
    return ladder.rung(name, (ROUNDED, backend.name), "lowering", "quantised", (rounded, found), floor)


def _floor(noise: ComparisonResult) -> Limits:
    """What rounding on the way leaves room for."""
    if noise.cosine_mean is not None:
        return Limits(max_noise_distance=max(_FLOOR_FACTOR * (1 - noise.cosine_mean), _LEAST_DISTANCE))
    return Limits(max_noise_kl=max(_FLOOR_FACTOR * noise.kl_mean, _LEAST_NOISE))


@contextmanager
def _disturbed(net: torch.nn.Module) -> Iterator[None]:
    """Inside, what the first quantised linear layer reads differs in its last places."""
    noise = torch.Generator().manual_seed(0)

    def shake(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        x, *rest = args
        return (x * (1 + _DISTURBANCE * torch.randn(x.shape, generator=noise)), *rest)

    first = next(module for module in net.modules() if isinstance(module, StreamedLinear))
    hook = first.register_forward_pre_hook(shake)
    try:
        yield
    finally:
        hook.remove()


def _task(ladder: _Ladder, name: str, exact: list[Output], found: list[Output]) -> tuple[TaskComparison, ...]:
    """The task's own measure."""
    what = "pictures" if "input_ids" not in ladder.material.cases[0].inputs else "texts"
    if ladder.model.task in ("text-classification", "image-classification") and not ladder.is_vector:
        examples = [Judged(c.name, c.label, c.source, c.language) for c in ladder.material.cases]
        return classified(
            (FLOAT_MODEL, name),
            ladder.model.task,
            examples,
            (np.concatenate(exact), np.concatenate(found)),
            ladder.model.processor.labels or ladder.model.labels,
            what,
        )
    cases = ladder.material.cases
    groups = [case.language for case in cases]
    languages = groups if any(groups) else []
    metrics: tuple[Metric, ...] = ()
    if ladder.model.sentence is not None:
        metrics = embeddings(np.concatenate(exact), np.concatenate(found), languages)
    elif not ladder.is_vector:
        chosen, ours = (np.concatenate([rows.argmax(1) for rows in each]) for each in (exact, found))
        each = [case.language for case, rows in zip(cases, exact, strict=True) for _ in rows]
        targets = [case.targets for case in cases if case.targets is not None]
        wanted = np.concatenate(targets) if len(targets) == len(cases) else None
        metrics = label_agreement(chosen, ours, wanted, each if languages else [])
    return (TaskComparison(name, FLOAT_MODEL, ladder.model.task, f"{len(cases)} {what}", metrics),)


def _golden(ladder: _Ladder, outputs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Raw inputs, tensors, and what each runtime gave: vectors whole, of logits the largest of each row."""
    examples = []
    for number, case in enumerate(ladder.material.cases[:_GOLDEN]):
        tensors = (
            {name: array.tolist() for name, array in case.inputs.items()} if case.text is not None else {}
        )
        examples.append(
            {
                "name": case.name,
                "text": case.text,
                "inputs": tensors,
                "outputs": {name: _kept(ladder, found[number], case) for name, found in outputs.items()},
            }
        )
    return {"task": ladder.model.task, "examples": examples}


def _kept(ladder: _Ladder, found: dict[str, Any], case: Case) -> dict[str, Any]:
    rows = ladder.judged(found, case)
    if ladder.is_vector:
        return {"vector": rows[0].tolist()}
    top = np.argsort(-rows, axis=1, kind="stable")[:, :_GOLDEN_TOP]
    return {
        "rows": None if case.rows is None else case.rows.tolist(),
        "classes": top.tolist(),
        "logits": np.take_along_axis(rows, top, axis=1).tolist(),
    }
