"""The parity ladder for NPUs: float -> the same codes in PyTorch -> each vendor's simulator.

The codes are computed in PyTorch exactly; an NPU rounds once more wherever its arithmetic ends. What that leaves room
for is measured: the PyTorch side again, every value off by up to so many steps before it is rounded as single operators
of that NPU are (tests/npu/test_npu_capabilities.py). A simulator whose error is more than three times that, in RMS,
does not compute the program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log10
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from exporter.backends.npu import BACKENDS
from exporter.errors import QexportError
from exporter.evaluate import load_texts
from exporter.models.npu_models import FixedDecoderModel, FixedModel, PrefillModel
from exporter.models.python_module import ModuleSkeleton, PythonModule
from exporter.models.static_reference import StaticReference
from exporter.parity import (
    ComparisonResult,
    Limits,
    LogitComparison,
    ParityReport,
    Rung,
    VectorComparison,
)
from exporter.parity.tasks import TaskComparison, TaskReport, embeddings, label_agreement
from exporter.recipe import Recipe
from exporter.samples.files import Sample
from exporter.verify.classifying import Judged, classified
from exporter.verify.encoder_material import Case, encoder_material
from exporter.verify.modules import each_output, module_cases
from exporter.verify.outcome import GoldenInput, Verified
from exporter.verify.text import FLOAT_MODEL

CODES = "the same codes in PyTorch"
Arrays = list[NDArray[Any]]
# Most steps that one operator is off by: integers are exact but for the last rounding; of 16-bit values, Qualcomm's HTP
# keeps some 14 bits on the way, and TOSA's tables of functions have 513 entries, with straight lines between.
_STEPS = {("qualcomm", 8): 0.5, ("qualcomm", 16): 3.0, ("arm", 8): 0.5, ("arm", 16): 3.0}
_FACTOR_DB = 20 * log10(3.0)
_RUNS = 3
_SIMULATED = 24  # cases that a simulator is given: it takes a second for each
_STEPS_OF_TEXT = 8  # of a language model, whose steps a simulator takes many seconds for
_PIECES_OF_TEXT = 4  # of a prompt, each as many tokens as the prompt's program takes
_GOLDEN = 4  # cases that travel with the files
_MOST_NUMBERS = 100_000  # of one case's outputs in vectors.json


@dataclass(frozen=True)
class _NpuCase:
    """One example: tensors of the fixed shapes, and which rows of the output count."""

    inputs: tuple[torch.Tensor, ...]
    given: GoldenInput
    rows: NDArray[np.int64] | None = None
    text: Case | None = None
    picture: Judged | None = None

    @property
    def name(self) -> str | None:
        """For a person."""
        return self.picture.name if self.picture else self.text.name if self.text else None


@dataclass(frozen=True)
class _Ladder:
    cases: Sequence[_NpuCase]
    vectors: bool
    classes: Mapping[int, str] | None
    notes: tuple[str, ...]
    role: str = "forward"  # of the program that the cases are for
    states: bool = (
        False  # judged are the new tokens' keys and values, a vector for each head, instead of the output
    )

    @property
    def label(self) -> str:
        """What its rungs are called besides their target."""
        role = "" if self.role == "forward" else f" {self.role}"
        return f"{role} keys and values" if self.states else role

    def rows(self, found: Sequence[Arrays]) -> list[NDArray[np.float32]]:
        """Of each case, what is judged: (n, classes), or one vector."""
        result = []
        for case, arrays in zip(self.cases, found, strict=False):
            if self.states:
                vectors = [np.asarray(state, np.float32) for state in arrays[1:]]
                result.append(np.concatenate([state.reshape(-1, state.shape[-1]) for state in vectors]))
                continue
            array = np.asarray(arrays[0], np.float32)
            if case.rows is not None and array.ndim == 3:
                array = array[:, case.rows]
            columns = array.size // array.shape[0] if array.ndim > 3 or self.vectors else array.shape[-1]
            result.append(array.reshape(-1, columns))
        return result

    def compared(self, expected: Sequence[Arrays], found: Sequence[Arrays]) -> ComparisonResult:
        """Over as many cases as both have."""
        few = min(len(expected), len(found))
        pairs = zip(self.cases[:few], self.rows(expected[:few]), self.rows(found[:few]), strict=True)
        if self.vectors:
            vectors = VectorComparison()
            for case, a, b in pairs:
                vectors.update(a, b, case.text.language if case.text else None)
            return vectors.result()
        logits = LogitComparison()
        for _, a, b in pairs:
            logits.update(a, b)
        return logits.result()


def verify_npu(
    model: PythonModule,
    skeleton: ModuleSkeleton,
    folder: Path,
    recipe: Recipe,
    limits: Limits,
    progress: Callable[[str, float], None],
) -> Verified:
    """Run the ladder. Raises ArtifactError for a file with a node on the CPU or for another chip, QexportError for
    samples that the model does not take."""
    for target in recipe.targets:
        BACKENDS[target.key].check(target, folder / target.key)
    progress(FLOAT_MODEL, 0.0)
    ladder = _ladder(model, recipe)
    first = _exact(model, skeleton, ladder, progress)
    sides = [first]
    if isinstance(model, FixedDecoderModel) and model.prefill and skeleton.prefill:
        sides.append(_exact(model.prefill, skeleton.prefill, _prompts(model.prefill, recipe), progress))
    rungs = [side.quantisation(limits) for side in sides]
    shipped: dict[str, list[Arrays]] = {}
    for index, target in enumerate(recipe.targets):
        key = target.key
        progress(key, 0.5 + 0.5 * index / len(recipe.targets))
        with BACKENDS[key].simulator(skeleton, target, folder / key) as runner:
            for side in sides:
                found = runner.run_many(side.given, side.ladder.role)
                shipped.setdefault(key, found)
                rungs += side.rungs(key, found, limits)
    everything = len(first.few) == len(ladder.cases)
    tasks = _tasks(model, ladder, first.exact, shipped if everything else {CODES: first.codes})
    counted = f"the simulators ran {len(first.few)} of {len(ladder.cases)} cases"
    notes = (
        *(note for side in sides for note in side.ladder.notes),
        *(side.told for side in sides),
        *([] if everything else [f"{counted}; the task's figures are of {CODES}, on all"]),
    )
    return Verified(
        ParityReport(tuple(rungs)),
        _golden(first.few, shipped),
        notes,
        tasks,
        tuple(case.given for case in first.few[:_GOLDEN]),
    )


@dataclass(frozen=True)
class _Exact:
    """What the simulators are held against: one program's cases through the float model, the codes in PyTorch, and
    the codes disturbed."""

    ladder: _Ladder
    exact: Sequence[Arrays]
    codes: Sequence[Arrays]
    disturbed: Sequence[Sequence[Arrays]]
    told: str

    @property
    def few(self) -> Sequence[_NpuCase]:
        """Cases that the simulators run."""
        return self.ladder.cases[:_SIMULATED]

    @property
    def given(self) -> list[Arrays]:
        """Their inputs."""
        return [[tensor.numpy() for tensor in case.inputs] for case in self.few]

    def quantisation(self, limits: Limits) -> Rung:
        """The codes against the float model."""
        result = self.ladder.compared(self.exact, self.codes)
        name = f"quantisation{self.ladder.label}"
        return Rung(name, FLOAT_MODEL, CODES, "shipped", "quantised", result, limits)

    def rungs(self, key: str, found: Sequence[Arrays], limits: Limits) -> Iterator[Rung]:
        """What a simulator gave, against the codes and against the float model; keys and values that another program
        goes on with against the codes."""
        ladder = self.ladder
        judged = (
            [ladder] if ladder.role == "forward" else [ladder, replace(ladder, states=True, vectors=True)]
        )
        for each in judged:
            held = replace(limits, min_noise_db=_floor(each, self.codes, self.disturbed) - _FACTOR_DB)
            result = each.compared(self.codes, found)
            yield Rung(f"{key}{each.label} lowering", CODES, key, "lowering", "quantised", result, held)
        result = ladder.compared(self.exact, found)
        name = f"{key}{ladder.label} as shipped"
        yield Rung(name, FLOAT_MODEL, key, "shipped", "quantised", result, limits)


def _exact(
    model: PythonModule, skeleton: ModuleSkeleton, ladder: _Ladder, progress: Callable[[str, float], None]
) -> _Exact:
    exact = each_output(model.float_model(), ladder.cases)
    progress(CODES, 0.2)
    reference = StaticReference(skeleton, rounds_dynamic=False)
    codes = each_output(reference, ladder.cases)
    progress("the noise floor", 0.4)
    few = ladder.cases[:_SIMULATED]
    bits = 16 if any(p.scheme.activation_limits[1] > 255 for p in skeleton.layers.values()) else 8
    steps = _STEPS[skeleton.dialect, bits]
    disturbed = [each_output(reference.disturbed(seed, steps), few) for seed in range(_RUNS)]
    floor = _floor(ladder, codes, disturbed)
    told = (
        f"noise floor{ladder.label}: every value off by up to {steps:g} steps of its {bits}-bit codes leaves"
    )
    return _Exact(ladder, exact, codes, disturbed, f"{told} {floor:.1f} dB")


def _floor(ladder: _Ladder, codes: Sequence[Arrays], disturbed: Sequence[Sequence[Arrays]]) -> float:
    """dB that the disturbed codes leave at worst."""
    return min(ladder.compared(codes[: len(each)], each).sqnr_db for each in disturbed)


def _golden(cases: Sequence[_NpuCase], shipped: Mapping[str, Sequence[Arrays]]) -> dict[str, Any]:
    """What each simulator gave; inputs lie beside as tensors."""
    return {
        "task": "module",
        "examples": [
            {
                "name": case.name,
                "text": case.text.text if case.text else None,
                "outputs": {key: _kept(found[number]) for key, found in shipped.items()},
            }
            for number, case in enumerate(cases[:_GOLDEN])
        ],
    }


def _kept(outputs: Arrays) -> list[Any]:
    """All outputs, or of very large ones (keys and values) the first alone."""
    small = sum(array.size for array in outputs) <= _MOST_NUMBERS
    return [array.tolist() for array in (outputs if small else outputs[:1])]


def _ladder(model: PythonModule, recipe: Recipe) -> _Ladder:
    if isinstance(model, FixedDecoderModel):
        steps = [step for text in load_texts(recipe.parity.text) for step in model.steps(text.text)]
        chosen = steps[:: max(1, len(steps) // _STEPS_OF_TEXT)][:_STEPS_OF_TEXT]
        note = f"judged on {len(chosen)} steps of the text, each with the float model's keys and values before it"
        return _Ladder([_NpuCase(step, given=_given(model, step)) for step in chosen], False, None, (note,))
    if not isinstance(model, FixedModel):
        found, classes = module_cases(model, recipe)
        cases = [
            _NpuCase(
                case.inputs,
                picture=Judged(case.picture.sample.path.name, case.picture.label, case.picture.source)
                if case.picture
                else None,
                given=GoldenInput(case.picture.sample, case.picture.inputs)
                if case.picture
                else _given(model, case.inputs),
            )
            for case in found
        ]
        return _Ladder(cases, False, classes, ())
    material = encoder_material(model.model, recipe)
    cases = []
    for case in material.cases:
        rows = case.rows
        if model.takes_text and rows is not None:
            rows = rows[rows < model.length]
        inputs = model.fixed(case.inputs)
        cases.append(_NpuCase(inputs, _given(model, inputs, case.sample), rows, case))
    vectors = model.model.task == "feature-extraction"
    return _Ladder(cases, vectors, model.model.labels or None, material.notes)


def _prompts(model: PrefillModel, recipe: Recipe) -> _Ladder:
    """Pieces of the recipe's texts through the program that takes prompts in."""
    pieces = [piece for text in load_texts(recipe.parity.text) for piece in model.steps(text.text)]
    if not pieces:
        raise QexportError(
            f"parity.text: no text has {model.new} tokens, and prefill takes pieces of so many; give a longer one"
        )
    chosen = pieces[:: max(1, len(pieces) // _PIECES_OF_TEXT)][:_PIECES_OF_TEXT]
    note = f"prefill: judged on {len(chosen)} pieces of the text, {model.new} tokens each"
    cases = [_NpuCase(piece, given=_given(model, piece)) for piece in chosen]
    return _Ladder(cases, False, None, (note,), role="prefill")


def _given(model: PythonModule, inputs: Sequence[torch.Tensor], sample: Sample | None = None) -> GoldenInput:
    """The tensors of one case, by the names of the inputs."""
    names = model.input_names or tuple(f"input_{place}" for place in range(len(inputs)))
    return GoldenInput(sample, {n: tensor.numpy() for n, tensor in zip(names, inputs, strict=True)})


def _tasks(
    model: PythonModule, ladder: _Ladder, exact: Sequence[Arrays], found: Mapping[str, Sequence[Arrays]]
) -> TaskReport | None:
    """The task's own figures, of the codes in PyTorch over all cases and of each simulator over its own."""
    comparisons: list[TaskComparison] = []
    task = model.model.task if isinstance(model, FixedModel) else "module"
    for name, arrays in found.items():
        few = len(arrays)
        a, b = ladder.rows(exact[:few]), ladder.rows(arrays)
        cases = ladder.cases[:few]
        if ladder.vectors:
            languages = [case.text.language if case.text else None for case in cases]
            metrics = embeddings(np.concatenate(a), np.concatenate(b), languages if any(languages) else [])
            comparisons.append(TaskComparison(name, FLOAT_MODEL, task, f"{few} texts", metrics))
        elif ladder.classes is not None and all(len(rows) == 1 for rows in a):
            judged = [case.picture or _judged(case) for case in cases]
            pair = (FLOAT_MODEL, name)
            logits = (np.concatenate(a), np.concatenate(b))
            comparisons += classified(pair, task, judged, logits, ladder.classes)
        elif isinstance(model, FixedModel):
            chosen, ours = (np.concatenate([rows.argmax(1) for rows in each]) for each in (a, b))
            metrics = label_agreement(chosen, ours, None, [])
            comparisons.append(TaskComparison(name, FLOAT_MODEL, task, f"{few} texts", metrics))
    return TaskReport(tuple(comparisons)) if comparisons else None


def _judged(case: _NpuCase) -> Judged:
    if case.text is None:
        raise QexportError("a case of a classifier has neither picture nor text")
    return Judged(case.text.name, case.text.label, case.text.source, case.text.language)
