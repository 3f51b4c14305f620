"""Finished jobs of tasks other than text generation, on tiny random checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import encoder_checkpoints
import numpy as np
import scipy.io.wavfile
import seq2seq_checkpoints
from tiny_jobs import write_recipe

KINDS = {  # task -> who writes its checkpoint, and which
    "text-classification": (encoder_checkpoints, "no types"),
    "feature-extraction": (encoder_checkpoints, "sentence"),
    "image-classification": (encoder_checkpoints, "picture"),
    "automatic-speech-recognition": (seq2seq_checkpoints, "speech"),
    "text2text-generation": (seq2seq_checkpoints, "absolute"),
    "image-to-text": (seq2seq_checkpoints, "picture"),
}
TARGETS = "[{backend: onnxruntime, max_context: 32}, {backend: executorch, max_context: 32}]"
# tables that are read as numbers, or are too small to be worth it
FLOAT_TABLES = ("position_embeddings", "token_type_embeddings", "embed_positions", "wpe")


def rules_for(layers: Any) -> str:
    """8 bits for everything but convolutions and FLOAT_TABLES; a rule must match something."""
    last = {layer.name.rpartition(".")[2] for layer in layers}
    lines = ['  - {match: "**", kind: conv, scheme: float}'] * any(layer.kind == "conv" for layer in layers)
    lines += [f'  - {{match: "**.{name}", scheme: float}}' for name in FLOAT_TABLES if name in last]
    return "\n".join([*lines, '  - {match: "**", scheme: w8}'])


def clips(folder: Path) -> None:
    """Half a second of noise at the model's sampling rate, and at another one."""
    folder.mkdir()
    rows = []
    for number, rate in enumerate((16_000, 8_000)):
        sound = np.random.default_rng(number).normal(0, 3000, rate // 2).astype(np.int16)
        scipy.io.wavfile.write(folder / f"{number}.wav", rate, sound)
        rows.append(
            json.dumps({"file": f"{number}.wav", "text": "something was said", "language": "en"}) + "\n"
        )
    (folder / "said.jsonl").write_text("".join(rows))


class TaskJob(NamedTuple):
    """A finished job."""

    task: str
    recipe: Path
    folder: Path


def finished(task: str, place: Path) -> TaskJob:
    """The job, run in this process."""
    from rich.console import Console

    from exporter.models.loading import open_model
    from exporter.pipeline import run
    from exporter.progress import Stages
    from exporter.recipe import load_recipe

    writer, kind = KINDS[task]
    (place / "model").mkdir()
    folder = writer.write(kind, place / "model")
    layers = open_model(str(folder), task, place).layers().layers
    gates = "{lowering: {max_rel: 0.001}}"
    if task == "automatic-speech-recognition":
        clips(place / "clips")
        gates = gates[:-1] + ", data: {audio: {folder: clips, transcripts: clips/said.jsonl}}}"
    recipe = write_recipe(place, folder, task=task, rules=rules_for(layers), targets=TARGETS, parity=gates)
    recipe.write_text(
        recipe.read_text().replace("  w4: {weights: int4, group: 32, activations: dynamic-int8}\n", "")
    )
    run(load_recipe(recipe), place / "out", False, Stages(Console(quiet=True)))
    return TaskJob(task, recipe, place / "out")
