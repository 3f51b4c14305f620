"""Preprocessing beside a model's files: what an app needs to make the model's inputs, and examples to try it on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from exporter.errors import LoweringError
from exporter.samples.files import Sample
from exporter.samples.processing import PictureSteps, Processor, SpeechSteps
from exporter.samples.text import read_text

DESCRIPTION = "preprocessing.json"
LABELS = "labels.txt"
LOG_MEL = "log_mel.onnx"
PICTURE = "picture.onnx"


def ship(processor: Processor, folder: Path) -> dict[str, Any]:
    """Write the processor's files, its description, labels and, where there is one, its graph into `folder`.

    The description is returned for the manifest. Where ONNX has no graph for it, `graph` says why.
    """
    described = processor.describe()
    for path in processor.files:
        if path.resolve() != (folder / path.name).resolve():
            shutil.copyfile(path, folder / path.name)
    if processor.labels:
        names = [processor.labels[number] for number in sorted(processor.labels)]
        (folder / LABELS).write_text("".join(f"{name}\n" for name in names), "utf-8", newline="\n")
        described["files"].append(LABELS)
    if isinstance(processor.steps, PictureSteps | SpeechSteps):
        name = PICTURE if isinstance(processor.steps, PictureSteps) else LOG_MEL
        try:
            _write_graph(processor.steps, folder / name)
            described["graph"] = name
            described["files"].append(name)
        except LoweringError as problem:
            described["graph"] = str(problem)
    text = json.dumps(described, indent=2, ensure_ascii=False) + "\n"
    (folder / DESCRIPTION).write_text(text, "utf-8", newline="\n")
    return described


def raw_input(sample: Sample, folder: Path, name: str) -> Path:
    """Write what a person would give the model beside its golden tensors: the text, or the file as it was."""
    if sample.medium == "text":
        target = folder / f"{name}.txt"
        target.write_text(read_text(sample), "utf-8", newline="")
        return target
    target = folder / f"{name}{sample.path.suffix.lower()}"
    shutil.copyfile(sample.path, target)
    return target


def _write_graph(steps: PictureSteps | SpeechSteps, path: Path) -> None:
    import onnx_ir

    from exporter.samples.graphs import log_mel_graph, picture_graph

    model = picture_graph(steps) if isinstance(steps, PictureSteps) else log_mel_graph(steps)
    onnx_ir.save(model, path)
