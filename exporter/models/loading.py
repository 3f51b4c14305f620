"""One function from a recipe's model section to a model that can be planned, quantised and lowered."""

from __future__ import annotations

from pathlib import Path

from exporter.errors import PlanError
from exporter.models.causal_lm import CausalLM
from exporter.models.python_module import PythonModule
from exporter.models.sources import PythonFunction, cache_folder, resolve

Model = CausalLM | PythonModule
TASKS = ("text-generation", "module")


def open_model(source: str, task: str, relative_to: Path) -> Model:
    """Find the model's files; reads no weight. Raises SourceError or PlanError."""
    if task not in TASKS:
        raise PlanError(f"task {task!r} is not known; there are: {', '.join(TASKS)}")
    found = resolve(source, relative_to)
    if isinstance(found, PythonFunction):
        if task != "module":
            raise PlanError(
                f"source {source!r} is a Python function, which goes with `task: module`, not {task!r}"
            )
        return PythonModule(found)
    if task != "text-generation":
        raise PlanError(f"task 'module' goes with a source python:module:function, not {source!r}")
    return CausalLM(found, cache_folder())
