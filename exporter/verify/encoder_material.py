"""What an encoder is judged on: texts or pictures, each ready for the model, and which rows of its output count."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.errors import QexportError
from exporter.evaluate import load_texts
from exporter.models.pretrained import Pretrained
from exporter.recipe import Recipe
from exporter.samples.files import Sample
from exporter.samples.labelled import Example, class_numbers, text_examples
from exporter.samples.processing import Processor, TextSteps, text_processor
from exporter.samples.text import read_text
from exporter.tasks import SPECS
from exporter.verify.classifying import picture_cases

Inputs = dict[str, NDArray[Any]]
MOST_OWN = 48  # sentences of the package's own text, or lines of the recipe's: seconds, not minutes
_MASK_EVERY = 7  # of the tokens that fill-mask has to find again, about one in seven, as in training
_MASK_FIRST = 3
_NAME = 60  # characters of a text that stand for it


@dataclass(frozen=True)
class Case:
    """One example, batch 1. `rows`: of its tokens, those that are judged; None where the output has none."""

    name: str
    inputs: Inputs
    text: str | None = None
    rows: NDArray[np.int64] | None = None
    targets: NDArray[np.int64] | None = None  # fill-mask: the tokens that stood there
    label: int | None = None
    language: str | None = None
    sample: Sample | None = None
    source: str = ""  # the set of pictures that it is of


@dataclass(frozen=True)
class EncoderMaterial:
    """All cases, what made them, and what a person should know of it."""

    cases: tuple[Case, ...]
    processor: Processor
    prompt: str
    notes: tuple[str, ...] = ()


def encoder_material(model: Pretrained, recipe: Recipe) -> EncoderMaterial:
    """The recipe's examples; else the lines of its text, or sentences of the package's own. Pictures: noise, where
    the recipe has none, and a note that says so. Raises QexportError for data that do not fit."""
    if SPECS[model.task].medium == "image":
        return _pictures(model, recipe)
    longest = min([model.longest, *(t.length if t.on_npu else t.max_context for t in recipe.targets)])
    processor = text_processor(model.folder, longest)
    prompt = model.sentence.prompt if model.sentence else ""
    data = recipe.parity.data
    notes: tuple[str, ...] = ()
    if data is not None and data.text is not None:
        examples = text_examples(data.text)
        labels = _labels(model, examples, "parity.data.text")
        texts = [(read_text(e.sample), labels[i], e.language) for i, e in enumerate(examples)]
    else:
        found = _lines(recipe)
        if len(found) > MOST_OWN:
            step = len(found) / MOST_OWN
            notes = (f"parity text: {MOST_OWN} of its {len(found)} texts are used",)
            found = [found[int(i * step)] for i in range(MOST_OWN)]
        texts = [(text, None, None) for text in found]
        texts.append((" ".join(found), None, None))  # as long as the model takes
    cases = tuple(_text_case(model, processor, prompt, *each) for each in texts)
    return EncoderMaterial(tuple(case for case in cases if case is not None), processor, prompt, notes)


def padded(cases: list[Case], processor: Processor, to: int | None = None) -> Inputs:
    """Cases of different lengths as one batch, padded on the right: ids by the tokenizer's padding, the rest by 0."""
    assert isinstance(processor.steps, TextSteps)
    pad = processor.steps.special_tokens.get("pad", 0)
    width = to or max(case.inputs["input_ids"].shape[1] for case in cases)
    batch: Inputs = {}
    for name in cases[0].inputs:
        fill = pad if name == "input_ids" else 0
        rows = [
            np.pad(case.inputs[name][0], (0, width - case.inputs[name].shape[1]), constant_values=fill)
            for case in cases
        ]
        batch[name] = np.stack(rows)
    return batch


def _lines(recipe: Recipe) -> list[str]:
    """The recipe's text by lines; the package's own by sentences."""
    found: list[str] = []
    for text in load_texts(recipe.parity.text):
        if recipe.parity.text:
            found += [line.strip() for line in text.text.splitlines() if line.strip()]
        else:
            found += [part.strip() for part in re.split(r"(?<=[.!?])\s+", text.text) if part.strip()]
    return found


def _text_case(
    model: Pretrained, processor: Processor, prompt: str, text: str, label: int | None, language: str | None
) -> Case | None:
    inputs = processor.prepare(prompt + text)
    inputs.setdefault("attention_mask", np.ones_like(inputs["input_ids"]))
    rows = targets = None
    if model.task == "fill-mask":
        rows = _masked(model, inputs)
        if not len(rows):
            return None  # too short to hide a word of it
        targets = inputs["input_ids"][0, rows].copy()
        inputs = {**inputs, "input_ids": inputs["input_ids"].copy()}
        inputs["input_ids"][0, rows] = _mask_token(model)
    elif model.task in ("token-classification", "feature-extraction"):
        rows = np.arange(inputs["input_ids"].shape[1])
    name = text if len(text) <= _NAME else text[: _NAME - 1] + "…"
    return Case(name, inputs, prompt + text, rows, targets, label, language)


def _masked(model: Pretrained, inputs: Inputs) -> NDArray[np.int64]:
    """Places of the tokens that are hidden: every seventh, none of the tokenizer's own marks."""
    special = np.isin(inputs["input_ids"][0], model.tokenizer().all_special_ids)
    places = np.flatnonzero(~special)
    return places[_MASK_FIRST::_MASK_EVERY]


def _mask_token(model: Pretrained) -> int:
    token = model.tokenizer().mask_token_id
    if token is None:
        raise QexportError(
            f"{model.folder}: task fill-mask needs a tokenizer with a mask token; tokenizer_config.json names none"
        )
    return int(token)


def _labels(model: Pretrained, examples: tuple[Example, ...], where: str) -> list[int | None]:
    """Classes by number, for a task that has one for each example and data that name them."""
    if model.task != "text-classification" or all(example.label is None for example in examples):
        return [None] * len(examples)
    return list(class_numbers(examples, model.processor.labels or model.labels, where))


def _pictures(model: Pretrained, recipe: Recipe) -> EncoderMaterial:
    processor = model.processor
    data = recipe.parity.data
    if data is not None and data.pictures:
        classes = (processor.labels or model.labels) if model.task == "image-classification" else None
        cases = [
            Case(p.sample.path.name, p.inputs, label=p.label, sample=p.sample, source=p.source)
            for p in picture_cases(data.pictures, processor, classes)
        ]
        return EncoderMaterial(tuple(cases), processor, "")
    noise = np.random.default_rng(0)
    made = [noise.integers(0, 256, (256, 256, 3), np.uint8) for _ in range(4)]
    return EncoderMaterial(
        tuple(Case(f"noise {i}", processor.prepare(pixels)) for i, pixels in enumerate(made)),
        processor,
        "",
        (
            "parity: the recipe names no pictures (parity.data.pictures), so noise was compared and no label was "
            "judged",
        ),
    )
