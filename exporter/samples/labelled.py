"""Evaluation sets: pictures with labels, speech with transcripts, texts with labels or expected outputs."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.errors import QexportError
from exporter.recipe import DataSource, ParityData, PictureSet, SpeechSet, TextSet
from exporter.samples.drawing import rank, split
from exporter.samples.files import Medium, Sample, content_sha256, list_files
from exporter.samples.text import jsonl_rows, read_text, text_samples

Label = int | str


@dataclass(frozen=True)
class Example:
    """A sample and what is known of it."""

    sample: Sample
    label: Label | None = None  # a class, by number or name
    target: str | None = None  # what is said in a clip, or what a text should become

    @property
    def language(self) -> str | None:
        """Of the sample."""
        return self.sample.language


def picture_examples(data: PictureSet) -> tuple[Example, ...]:
    """The pictures, each class with its share; pictures that lie in the folder itself, all of them, have no label.

    A picture without a label among others, or a label without a picture, is an error: half of a set measures
    something else.
    """
    if data.labels is None:
        listing = list_files("image", (DataSource(data.folder),))
        loose = [file.path for file in listing.files if file.path.parent == data.folder]
        if loose and len(loose) < len(listing.files):
            raise QexportError(
                f"{loose[0]}: has no label; put it into a folder that is named as its class, or give "
                "parity.data.pictures.labels, a jsonl file with the fields file, label"
            )
        found = [
            Example(
                Sample("image", f.path), label=None if loose else f.path.relative_to(data.folder).parts[0]
            )
            for f in listing.files
        ]
    else:
        found = [
            Example(sample, label=_label(row, data.labels, number))
            for number, sample, row in _rows("image", data.folder, data.labels, "label")
        ]
    return _drawn(found, data.samples, data.seed)


def speech_examples(data: SpeechSet) -> tuple[Example, ...]:
    """The clips with what is said in them, where that is known."""
    if data.transcripts is None:
        listing = list_files("audio", (DataSource(data.folder),))
        found = [Example(Sample("audio", file.path)) for file in listing.files]
    else:
        found = [
            Example(sample, target=str(row["text"]))
            for _, sample, row in _rows("audio", data.folder, data.transcripts, "text")
        ]
    return _drawn(found, data.samples, data.seed)


def text_examples(data: TextSet) -> tuple[Example, ...]:
    """The texts, with `label` and `target` where a line has them."""
    found = []
    for source in data.files:
        known = {row.start: row for row in _jsonl(source.path)}
        for sample, _ in text_samples(source):
            row = known.get(sample.start)
            label = _label(row.data, source.path, row.number) if row and "label" in row.data else None
            found.append(Example(sample, label, row.data.get("target") if row else None))
    return _drawn(found, data.samples, data.seed)


def data_key(data: ParityData) -> str:
    """A hash of everything that the metrics of a task are measured on."""
    content: list[object] = []
    for pictures in data.pictures:
        found = picture_examples(pictures)
        content += [[content_sha256(example.sample.path), example.label] for example in found]
    if data.audio:
        clips = speech_examples(data.audio)
        content += [
            [content_sha256(example.sample.path), example.target, example.language] for example in clips
        ]
    if data.text:
        content += [[content_sha256(s.path), s.language, s.topic] for s in data.text.files]
        content += [data.text.samples, data.text.seed]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def class_numbers(examples: Sequence[Example], labels: Mapping[int, str], where: str) -> tuple[int, ...]:
    """The number of each example's class among the model's `labels` (number -> name).

    Raises QexportError for an example without a label, and for a label that the model does not have.
    """
    by_name = {name.casefold(): number for number, name in labels.items()}
    numbers = []
    for example in examples:
        label = example.label
        number = by_name.get(label.casefold()) if isinstance(label, str) else label
        if number is None or number not in labels:
            raise QexportError(_misfit(example, labels, where))
        numbers.append(number)
    return tuple(numbers)


def _misfit(example: Example, labels: Mapping[int, str], where: str) -> str:
    if example.label is None:
        return f"{where}: {example.sample.path} has no label, and accuracy needs one for each example"
    names = [f"{number} {name}" for number, name in sorted(labels.items())]
    shown = ", ".join(names[:6]) + (f" … {names[-1]}" if len(names) > 6 else "")
    return (
        f"{where}: {example.sample.path} has the label {example.label!r}, which is none of the model's "
        f"{len(labels):,} ({shown}). Labels are numbers or names of the model's classes; give a set made for this "
        "model, or the model's names as `labels` of its preprocessing"
    )


def _label(row: Mapping[str, Any], path: Path, number: int) -> Label:
    label = row["label"]
    if isinstance(label, bool) or not isinstance(label, int | str):
        raise QexportError(f"{path}, line {number}: label is {label!r}; it must be a number or a name")
    return label


def _jsonl(path: Path) -> Iterator[Any]:
    return jsonl_rows(path) if path.suffix.lower() == ".jsonl" else iter(())


def _rows(
    medium: Medium, folder: Path, table: Path, field: str
) -> Iterator[tuple[int, Sample, Mapping[str, Any]]]:
    """Line number, sample and row for each line of a table of files, which is relative to `folder`."""
    listed: set[Path] = set()
    for row in jsonl_rows(table, required=("file", field)):
        path = folder / row.data["file"]
        if not path.is_file():
            raise QexportError(f"{table}, line {row.number}: there is no file {path}")
        if path in listed:
            raise QexportError(f"{table}, line {row.number}: {row.data['file']} is listed a second time")
        listed.add(path)
        yield row.number, Sample(medium, path, row.data.get("language"), row.data.get("topic")), row.data
    if not listed:
        raise QexportError(f"{table}: lists no file; each line is an object with the fields file, {field}")
    if left := [f.path for f in list_files(medium, (DataSource(folder),)).files if f.path not in listed]:
        count = f"{len(left)} files of {folder} are" if len(left) > 1 else "one file is"
        raise QexportError(
            f"{table}: {count} not listed, the first is {left[0]}; list it or take it out of the folder"
        )


def _drawn(found: Sequence[Example], most: int | None, seed: int) -> tuple[Example, ...]:
    """At most so many, by content-hashed rank, each class and language with its share; order: class, rank."""
    if most is None or most >= len(found):
        return tuple(found)
    strata: dict[str | None, list[Example]] = {}
    for example in found:
        strata.setdefault(f"{example.language}\0{example.label}", []).append(example)
    counts = split(most, {name: len(members) for name, members in strata.items()}, {})
    return tuple(
        example
        for name in sorted(strata, key=str)
        for example in heapq.nsmallest(counts[name], strata[name], key=lambda e: rank(_content(e), seed))
    )


def _content(example: Example) -> bytes:
    if example.sample.medium == "text":
        return read_text(example.sample).encode()
    return content_sha256(example.sample.path).encode()


def languages_of(examples: Iterable[Example]) -> tuple[str | None, ...]:
    """The groups that metrics are given for."""
    return tuple(example.language for example in examples)
