"""Pictures that a classifier is judged on, and what the float model and a runtime made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.parity.tasks import Disagreement, TaskComparison, classification
from exporter.recipe import PictureSet
from exporter.samples.files import Sample
from exporter.samples.labelled import class_numbers, picture_examples
from exporter.samples.processing import Processor

_SHOWN = 10  # examples on which two models part


@dataclass(frozen=True)
class PictureCase:
    """One picture of a set, ready for the model at batch 1."""

    source: str  # the set's folder, by its name
    sample: Sample
    inputs: dict[str, NDArray[Any]]
    label: int | None


@dataclass(frozen=True)
class Judged:
    """One example's place among several sets, as a person knows it."""

    name: str
    label: int | None
    source: str = ""  # of its set; empty where there is one
    language: str | None = None


def picture_cases(
    sets: Sequence[PictureSet], processor: Processor, classes: Mapping[int, str] | None
) -> tuple[PictureCase, ...]:
    """All pictures of all sets; labels by number where `classes` names them, none for a model that has no classes.

    Raises QexportError for a picture that is none, and for a label that is none of the classes.
    """
    cases = []
    for pictures in sets:
        examples = picture_examples(pictures)
        numbers: Sequence[int | None] = [None] * len(examples)
        if classes is not None and any(example.label is not None for example in examples):
            numbers = class_numbers(examples, classes, "parity.data.pictures")
        cases += [
            PictureCase(pictures.folder.name, example.sample, processor(example.sample), number)
            for example, number in zip(examples, numbers, strict=True)
        ]
    return tuple(cases)


def classified(
    names: tuple[str, str],
    task: str,
    examples: Sequence[Judged],
    logits: tuple[NDArray[np.float32], NDArray[np.float32]],
    classes: Mapping[int, str],
    what: str = "pictures",
) -> tuple[TaskComparison, ...]:
    """Accuracy and agreement for each set. `names`, `logits`: of the float model and of the runtime, (n, classes)."""
    found = []
    chosen = [rows.argmax(1).tolist() for rows in logits]
    for source in dict.fromkeys(example.source for example in examples):
        rows = [i for i, example in enumerate(examples) if example.source == source]
        known = [label for i in rows if (label := examples[i].label) is not None]
        wanted = np.array(known, np.int64) if len(known) == len(rows) else None
        languages = [examples[i].language for i in rows]
        differing = [
            Disagreement(
                examples[i].name,
                classes.get(chosen[0][i], str(chosen[0][i])),
                classes.get(chosen[1][i], str(chosen[1][i])),
                None if (label := examples[i].label) is None else classes.get(label, str(label)),
            )
            for i in rows
            if chosen[0][i] != chosen[1][i]
        ]
        found.append(
            TaskComparison(
                candidate=names[1],
                reference=names[0],
                task=task,
                data=f"{len(rows)} {what}" + (f" of {source}" if source else ""),
                metrics=classification(
                    logits[0][rows], logits[1][rows], wanted, languages if any(languages) else []
                ),
                disagreements=tuple(differing[:_SHOWN]),
            )
        )
    return tuple(found)
