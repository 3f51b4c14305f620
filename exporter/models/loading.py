"""One function from a recipe's model section to a model that can be planned, quantised and lowered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.errors import PlanError
from exporter.folders import cache_folder
from exporter.models.causal_lm import CausalLM
from exporter.models.encoder_decoder import EncoderDecoder
from exporter.models.pretrained import Pretrained
from exporter.models.python_module import PythonModule
from exporter.models.sources import PythonFunction, resolve
from exporter.targets import Target
from exporter.tasks import SPECS, TASKS, Task

if TYPE_CHECKING:
    from exporter.recipe import Preprocessing

Model = CausalLM | Pretrained | EncoderDecoder | PythonModule


def open_model(
    source: str, task: Task, relative_to: Path, preprocessing: Preprocessing | None = None
) -> Model:
    """Find the model's files; reads no weight. `preprocessing`: of pictures, where the folder does not say.

    Raises SourceError or PlanError.
    """
    if task not in TASKS:
        raise PlanError(f"task {task!r} is not known; there are: {', '.join(TASKS)}")
    found = resolve(source, relative_to)
    if isinstance(found, PythonFunction):
        if task != "module":
            raise PlanError(
                f"source {source!r} is a Python function, which goes with `task: module`, not {task!r}"
            )
        return PythonModule(found)
    if task == "module":
        raise PlanError(f"task 'module' goes with a source python:module:function, not {source!r}")
    family = SPECS[task].family
    if family == "causal":
        return CausalLM(found, cache_folder())
    if family == "encoder-decoder":
        return EncoderDecoder(found, task, cache_folder())
    return Pretrained(found, task, cache_folder(), preprocessing)


def for_targets(model: Model, targets: Sequence[Target]) -> Model:
    """The model as its targets take it: an NPU takes one module of fixed shapes. Raises PlanError where it has none."""
    if not targets[0].on_npu:
        return model
    from exporter.models.npu_models import FixedDecoderModel, FixedModel

    if targets[0].prefill is not None and not isinstance(model, CausalLM):
        raise PlanError(
            f"{targets[0].key}: prefill {targets[0].prefill} is for language models, and the task is {model.task}; "
            "leave prefill out"
        )
    if isinstance(model, PythonModule):
        return model
    if isinstance(model, CausalLM):
        return FixedDecoderModel(model, targets[0].length, prefill=targets[0].prefill)
    if isinstance(model, EncoderDecoder):
        raise PlanError(
            f"{targets[0].key}: task {model.task} is two programs with keys and values between them, which is not "
            "built for NPUs; take the CPU's targets"
        )
    return FixedModel(model, targets[0].length)
