"""Any model that is a set of programs, without a state from one call to the next: a method for each, batch 1.

    forward(inputs in the signature's order) -> outputs in its order        (`forward` where there is one program only)

Where a program has a form without padding, that one is lowered: a single example has none. The constant methods
`get_inputs_METHOD` and `get_outputs_METHOD` give the names, separated by spaces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import Dim
from transformers import AttentionInterface, AttentionMaskInterface

from exporter.backends.base import Progress, Target
from exporter.backends.executorch.lowering import table_names
from exporter.backends.executorch.methods import lower_method, write_methods
from exporter.backends.executorch.modules import layer_factory
from exporter.backends.executorch.operators import planned_layers
from exporter.backends.executorch.running import _load
from exporter.backends.executorch.threads import one_thread_in_torch
from exporter.errors import ArtifactError
from exporter.models.exporting import export
from exporter.models.masks import attend, masking, score_bias
from exporter.models.skeleton import shortened
from exporter.quiet import native_output_held
from exporter.signatures import BATCH

if TYPE_CHECKING:
    from exporter.models.skeleton import Program, Skeleton

ATTENTION_NAME = "qexport_executorch_encoder"
FORWARD = "forward"
_INPUTS, _OUTPUTS = "get_inputs_", "get_outputs_"


def lower_programs(
    skeleton: Skeleton, target: Target, folder: Path, file_name: str, progress: Progress
) -> dict[str, object]:
    """Write the program into the folder; facts for the manifest. Raises TraceError, LoweringError."""
    with torch.no_grad(), planned_layers(skeleton.layers):
        progress("building the model", 0.0)
        net = skeleton.build(layer_factory(skeleton.layers), register())
        constants = table_names(net)
        programs = single_programs(skeleton, target)
        lowered = {}
        for number, (name, program) in enumerate(programs.items()):
            progress(f"tracing {name}", 0.1 + 0.7 * number / len(programs))
            exported = _traced(net, program)
            progress(f"lowering {name} to XNNPACK", 0.1 + 0.7 * (number + 0.5) / len(programs))
            lowered[name] = lower_method(exported)
            constants[_INPUTS + name] = " ".join(port.name for port in program.signature.inputs)
            constants[_OUTPUTS + name] = " ".join(port.name for port in program.signature.outputs)
        facts = write_methods(lowered, constants, folder / file_name, progress)
    return {**facts, "programs": {name: program.signature.describe() for name, program in programs.items()}}


def single_programs(skeleton: Skeleton, target: Target) -> dict[str, Program]:
    """By method: batch 1, without padding, no longer than the target's context."""
    found = {}
    for program in skeleton.programs:
        one = program.unpadded or program
        one = shortened(one, target.max_context)
        name = FORWARD if len(skeleton.programs) == 1 else one.name
        found[name] = replace(one, signature=one.signature.single())
    return found


def _traced(net: torch.nn.Module, program: Program) -> torch.export.ExportedProgram:
    """Batch 1, every other named axis dynamic."""
    signature = program.signature
    dims = {
        name: Dim(name, max=axis.maximum)
        for name, axis in signature.axes.items()
        if axis.maximum > axis.minimum
    }
    shapes = tuple(
        {place: dims[axis] for place, axis in enumerate(port.shape) if axis in dims}
        for port in signature.inputs
    )
    examples = tuple(tensor[:1].contiguous() for tensor in program.examples())
    longest = max([axis.maximum for name, axis in signature.axes.items() if name != BATCH], default=1)
    with masking(longest, padded=False):
        return export(program.wrap(net), examples, shapes=(shapes,))


def register() -> str:
    """Register with transformers; returns the name to build the model with."""
    AttentionInterface.register(ATTENTION_NAME, attend)
    AttentionMaskInterface.register(ATTENTION_NAME, score_bias)
    return ATTENTION_NAME


class ExecuTorchProgram:
    """One method of a .pte (backends.base.ProgramRunner)."""

    takes_batches = False

    def __init__(self, path: Path, name: str) -> None:
        with native_output_held():  # the CPU's description, line by line
            self._program = _load(path)  # kept: the method reads from its memory
            names = self._program.method_names
            method = name if name in names else FORWARD
            if method not in names:
                raise ArtifactError(f"{path}: has no method {name!r}, only {', '.join(sorted(names))}")
            self._method = self._program.load_method(method)
            self.inputs = tuple(self._constant(_INPUTS + method).split())
            self.outputs = tuple(self._constant(_OUTPUTS + method).split())

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Outputs by name, batch 1. Raises ArtifactError for an input that is missing."""
        missing = [name for name in self.inputs if name not in inputs]
        if missing:
            raise ArtifactError(
                f"the model wants {', '.join(missing)}; given are {', '.join(sorted(inputs))}"
            )
        given = tuple(torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in self.inputs)
        with native_output_held(), one_thread_in_torch():
            found = self._method.execute(given)
        # copied: the runtime reuses its outputs' memory
        return {name: tensor.numpy().copy() for name, tensor in zip(self.outputs, found, strict=True)}

    def _constant(self, name: str) -> str:
        return str(self._program.load_method(name).execute(())[0])
