"""The parity ladder for an encoder-decoder model: float -> dequantised weights -> each runtime.

Every model is given the float model's answer and compared on the logits that each of its tokens is chosen from;
then each decodes for itself, and the texts are compared by the task's own measure. Rounding of activations and
noise floors are as in verify/text.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.backends import get_backend
from exporter.backends.base import Backend, Seq2SeqRunner
from exporter.models.encoder_decoder import EncoderDecoder, EncoderDecoderSkeleton
from exporter.models.reference import dequantized_model, round_activations
from exporter.models.seq2seq_reference import TorchSeq2Seq
from exporter.parity import (
    Continuation,
    GreedySample,
    Limits,
    LogitComparison,
    ParityReport,
    Rung,
    RungActivations,
    RungKind,
)
from exporter.parity.tasks import Disagreement, Metric, TaskComparison, TaskReport, generated, transcription
from exporter.recipe import Recipe
from exporter.samples.audio import Clip, clip_notes
from exporter.samples.files import Sample
from exporter.samples.labelled import picture_examples, speech_examples, text_examples
from exporter.tasks import SPECS
from exporter.verify.decoding import DecodingRules, Logits, greedy, rows_after, rules_for
from exporter.verify.outcome import GoldenInput, Verified
from exporter.verify.text import DEQUANTIZED, FLOAT_MODEL, ROUNDED

Progress = Callable[[str, float], None]
Inputs = dict[str, NDArray[Any]]
_FLOOR_FACTOR = 3.0  # times the noise floor, as for language models
_LEAST_NOISE = 1e-3  # nats
_DISTURBANCE = 1e-6  # relative, of the inputs of the first quantised layer: some units in the last place
_GOLDEN = 8  # examples that travel with the files
_SHOWN = 10  # texts that differ, for the report


@dataclass(frozen=True)
class Case:
    """One example: its name, the encoder's inputs, and what is wanted of the decoder, where that is known."""

    name: str
    inputs: Inputs
    target: str | None = None
    language: str | None = None
    sample: Sample | None = None
    noise: bool = False  # nobody's example: its logits are compared, its text is not


def verify_seq2seq(
    model: EncoderDecoder,
    skeleton: EncoderDecoderSkeleton,
    folder: Path,
    recipe: Recipe,
    limits: Limits,
    progress: Progress,
) -> Verified:
    """Run the ladder. `folder` holds one folder per target's backend."""
    cases, notes = cases_for(model, recipe)
    own = model.layers().max_context
    contexts = [target.max_context for target in recipe.targets] + ([] if own is None else [own])
    rules = rules_for(model.generation, min(contexts))
    rounds = any(layer.scheme.activations == "dynamic-int8" for layer in skeleton.layers.values())
    progress(FLOAT_MODEL, 0.0)
    forced = [
        greedy(runner, rules) for runner in _each(TorchSeq2Seq(model.float_model(), model.sizes), cases)
    ]
    exact = _forced(TorchSeq2Seq(model.float_model(), model.sizes), cases, rules, forced)
    progress(DEQUANTIZED, 0.2)
    net = dequantized_model(skeleton, quantize_activations=False)
    dequantized = _forced(TorchSeq2Seq(net, model.sizes), cases, rules, forced)
    rungs = [
        _rung("quantisation", FLOAT_MODEL, DEQUANTIZED, "quantisation", "float", exact, dequantized, limits)
    ]
    rounded, floor = dequantized, None
    if rounds:
        progress(ROUNDED, 0.35)
        round_activations(net, True)
        rounded = _forced(TorchSeq2Seq(net, model.sizes), cases, rules, forced)
        other = _forced(TorchSeq2Seq(net, model.sizes, _DISTURBANCE), cases, rules, forced)
        rung = _rung(
            "noise floor", ROUNDED, f"{ROUNDED}, disturbed", "lowering", "quantised", rounded, other, Limits()
        )
        rungs.append(rung)
        floor = Limits(max_noise_kl=max(_FLOOR_FACTOR * rung.result.kl_mean, _LEAST_NOISE))
    answers = {FLOAT_MODEL: forced}
    for index, target in enumerate(recipe.targets):
        backend = get_backend(target.key)
        progress(backend.name, 0.5 + 0.5 * index / len(recipe.targets))
        place = folder / backend.folder
        rungs.append(_lowering(backend, place, cases, rules, forced, (dequantized, rounded), limits, floor))
        runner = backend.open_seq2seq(place)
        shipped = _forced(runner, cases, rules, forced, stepwise=True)
        acts: RungActivations = "quantised" if rounds else "float"
        rungs.append(
            _rung(
                f"{backend.name} as shipped",
                FLOAT_MODEL,
                backend.name,
                "shipped",
                acts,
                exact,
                shipped,
                limits,
            )
        )
        answers[backend.name] = [greedy(one, rules) for one in _each(runner, cases)]
    return _verified(model, recipe, cases, rules, rungs, answers, notes)


def cases_for(model: EncoderDecoder, recipe: Recipe) -> tuple[list[Case], tuple[str, ...]]:
    """The recipe's examples, ready for the encoder; without any, noise, and a note that says so."""
    medium = SPECS[model.task].medium
    data = recipe.parity.data
    found: Sequence[Any] = ()
    if data is not None and medium == "audio" and data.audio is not None:
        found = speech_examples(data.audio)
    elif data is not None and medium == "image" and data.pictures:
        found = [example for pictures in data.pictures for example in picture_examples(pictures)]
    elif data is not None and medium == "text" and data.text is not None:
        found = text_examples(data.text)
    if found:
        cases, clips = [], []
        for example in found:
            content = model.processor.read(example.sample)
            if isinstance(content, Clip):
                clips.append(content)
            inputs = model.processor.prepare(content)
            name = example.sample.path.name
            cases.append(Case(name, inputs, example.target, example.language, example.sample))
        return cases, clip_notes(clips)
    if medium == "text" and recipe.parity.prompts:
        return [Case(prompt, model.processor.prepare(prompt)) for prompt in recipe.parity.prompts], ()
    noise = np.random.default_rng(0)
    inputs = {
        name: noise.integers(0, model.sizes.vocabulary, tensor[:1].shape)
        if name == "input_ids"
        else np.ones(tensor[:1].shape, np.int64)
        if not tensor.is_floating_point()
        else noise.standard_normal(tensor[:1].shape).astype(np.float32)
        for name, tensor in model.inputs[0].items()
    }
    return [Case("noise", inputs, noise=True)], (
        "parity: the recipe names no examples (parity.data), so logits were compared on noise and no text was judged",
    )


def _each(runner: Seq2SeqRunner, cases: Sequence[Case]) -> Any:
    """The runner once for each case, which it has encoded."""
    for case in cases:
        runner.encode(case.inputs)
        yield runner


def _forced(
    runner: Seq2SeqRunner,
    cases: Sequence[Case],
    rules: DecodingRules,
    answers: Sequence[tuple[int, ...]],
    stepwise: bool = False,
) -> list[Logits]:
    """Logits for each case, the answer being given."""
    return [
        rows_after(one, rules.prompt, answer, stepwise)
        for one, answer in zip(_each(runner, cases), answers, strict=True)
    ]


def _lowering(
    backend: Backend,
    place: Path,
    cases: Sequence[Case],
    rules: DecodingRules,
    answers: Sequence[tuple[int, ...]],
    references: tuple[list[Logits], list[Logits]],
    limits: Limits,
    floor: Limits | None,
) -> Rung:
    """What lowering alone changes: against the dequantised model, or the rounding one where the runtime rounds."""
    name = f"{backend.name} lowering"
    dequantized, rounded = references
    if floor is None or backend.float_activations:
        mode: Any = "as-shipped" if floor is None else "float"
        found = _forced(backend.open_seq2seq(place, mode), cases, rules, answers)
        return _rung(name, DEQUANTIZED, backend.name, "lowering", "float", dequantized, found, limits)
    found = _forced(backend.open_seq2seq(place), cases, rules, answers)
    return _rung(name, ROUNDED, backend.name, "lowering", "quantised", rounded, found, floor)


def _rung(
    name: str,
    reference: str,
    candidate: str,
    kind: RungKind,
    acts: RungActivations,
    expected: Sequence[Logits],
    found: Sequence[Logits],
    limits: Limits,
) -> Rung:
    comparison = LogitComparison()
    for a, b in zip(expected, found, strict=True):
        comparison.update(a, b)
    return Rung(name, reference, candidate, kind, acts, comparison.result(), limits)


def _verified(
    model: EncoderDecoder,
    recipe: Recipe,
    cases: Sequence[Case],
    rules: DecodingRules,
    rungs: Sequence[Rung],
    answers: dict[str, list[tuple[int, ...]]],
    notes: tuple[str, ...],
) -> Verified:
    tokenizer = model.tokenizer()
    texts = {
        who: [tokenizer.decode(list(tokens), skip_special_tokens=True).strip() for tokens in each]
        for who, each in answers.items()
    }
    samples = tuple(
        GreedySample(
            case.name,
            FLOAT_MODEL,
            {who: Continuation(texts[who][i], answers[who][i]) for who in answers},
        )
        for i, case in enumerate(cases)
    )
    comparisons = tuple(
        TaskComparison(
            who,
            FLOAT_MODEL,
            model.task,
            f"{len(cases)} examples",
            _metrics(model.task, texts[FLOAT_MODEL], texts[who], cases),
            _disagreements(cases, texts[FLOAT_MODEL], texts[who]),
        )
        for who in answers
        if who != FLOAT_MODEL and not cases[0].noise
    )
    golden = {
        "prompt": list(rules.prompt),
        "examples": [
            {"name": case.name, "tokens": {who: list(answers[who][i]) for who in answers}}
            for i, case in enumerate(cases[:_GOLDEN])
        ],
    }
    report = TaskReport(comparisons, notes)
    given = tuple(GoldenInput(case.sample, case.inputs) for case in cases[:_GOLDEN])
    return Verified(ParityReport(tuple(rungs), samples), golden, notes, report, given)


def _metrics(task: str, reference: list[str], found: list[str], cases: Sequence[Case]) -> tuple[Metric, ...]:
    targets = [case.target for case in cases]
    known = [target for target in targets if target is not None]
    wanted = known if len(known) == len(targets) else None
    languages = [case.language for case in cases]
    measure = transcription if SPECS[task].medium == "audio" else generated
    return measure(reference, found, wanted, languages if any(languages) else ())


def _disagreements(cases: Sequence[Case], reference: list[str], found: list[str]) -> tuple[Disagreement, ...]:
    return tuple(
        Disagreement(case.name, a, b, case.target)
        for case, a, b in zip(cases, reference, found, strict=True)
        if a != b
    )[:_SHOWN]
