"""`qat:` of a recipe, from a skeleton's integers to better ones in a store."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from exporter.blockwise import calibration_windows
from exporter.errors import QexportError
from exporter.models.causal_lm import CausalLM, CausalLMSkeleton
from exporter.models.python_module import ModuleSkeleton, PythonModule
from exporter.qat.block_training import BlockTraining
from exporter.qat.static_course import Sample, StaticCourse
from exporter.qat.text_course import TextCourse
from exporter.qat.training import Course, Settings
from exporter.qat.training import Training as Run
from exporter.quantizing import QuantizedStore
from exporter.recipe import Training
from exporter.tasks import Task

HELD_OUT = 8  # windows of text at most that nothing is trained on
_HELD_OUT_SAMPLES = 32  # the same of other samples, which are shorter than a window
_FEWEST = 8  # samples in all
_PATIENCE = 2
Progress = Callable[[str, float], None]


def train_text(
    model: CausalLM,
    skeleton: CausalLMSkeleton,
    asked: Training,
    layers: Sequence[str],
    texts: Sequence[str],
    store: QuantizedStore,
    folder: Path,
    progress: Progress,
) -> Mapping[str, Any]:
    """Train the named layers' integers, and give what the run saw. `folder`: checkpoints, which a second call goes on
    from. Raises QexportError for too little text."""
    windows = calibration_windows(model.tokenizer(), texts, model.layers().max_context)
    if len(windows) < _FEWEST:
        raise QexportError(
            f"qat: {len(windows)} windows of {windows.shape[1]} tokens; training sees some, is judged on others and "
            f"needs {_FEWEST}; give more calibration.text"
        )
    held_out = windows[-min(HELD_OUT, len(windows) // 4) :]
    settings = _settings(asked, skeleton.task)
    if asked.trained_by(skeleton.task) == "block":
        places = store, folder
        run = BlockTraining(model, skeleton, layers, windows, len(held_out), settings, places, asked.weights)
        found = run.run(progress)
        shutil.rmtree(folder)
        return {"by": "block", "layers": len(layers), "steps": asked.steps, **found}
    course = TextCourse(model, skeleton, layers, windows[: -len(held_out)], held_out, asked.weights)
    return _run(course, settings, layers, store, folder, progress)


def train_static(
    model: PythonModule,
    skeleton: ModuleSkeleton,
    asked: Training,
    layers: Sequence[str],
    samples: Sequence[Sample],
    store: QuantizedStore,
    folder: Path,
    progress: Progress,
) -> Mapping[str, Any]:
    """The same for layers between integers, on the calibration's samples as the module takes them."""
    if len(samples) < _FEWEST:
        raise QexportError(
            f"qat: {len(samples)} calibration samples; training sees some, is judged on others and needs {_FEWEST}; "
            "give more"
        )
    held_out = samples[-min(_HELD_OUT_SAMPLES, len(samples) // 4) :]
    course = StaticCourse(model, skeleton, layers, samples[: -len(held_out)], held_out)
    return _run(course, _settings(asked, skeleton.task), layers, store, folder, progress)


def _run(
    course: Course,
    settings: Settings,
    layers: Sequence[str],
    store: QuantizedStore,
    folder: Path,
    progress: Progress,
) -> Mapping[str, Any]:
    folder.mkdir(exist_ok=True)
    run = Run(course, settings, folder)
    for name, tensor in run.run(progress).items():
        store.save(name, tensor)
    shutil.rmtree(folder)
    return {
        "by": "model",
        "layers": len(layers),
        "losses": run.history.losses,
        "held_out": {str(step): kl for step, kl in run.history.held_out.items()},
        "stopped": run.history.stopped,
    }


def _settings(asked: Training, task: Task) -> Settings:
    return Settings(
        steps=asked.steps,
        learning_rate=asked.rate(task),
        scale_rate=asked.scale_rate,
        seed=asked.seed,
        patience=asked.patience or _PATIENCE,
    )
