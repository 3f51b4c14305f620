"""Any model that is a set of programs, without a state from one call to the next: a graph for each, weights once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from exporter.backends.base import ActivationMode, Progress, Target
from exporter.backends.ort import bidirectional, capabilities, passes, storage
from exporter.backends.ort.modules import layer_factory
from exporter.backends.ort.passes import naming
from exporter.backends.ort.passes.integers import name_integers, settle_integers
from exporter.backends.ort.running import open_session
from exporter.backends.ort.tracing import trace_program, with_codes
from exporter.backends.ort.translation import OPSET, to_onnx
from exporter.errors import ArtifactError
from exporter.models.masks import masking
from exporter.models.skeleton import shortened
from exporter.signatures import BATCH

if TYPE_CHECKING:
    from exporter.models.skeleton import Skeleton

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}


def lower_programs(
    skeleton: Skeleton, target: Target, folder: Path, progress: Progress
) -> Mapping[str, object]:
    """Write a graph for each program. Raises TraceError, LoweringError."""
    schemes = {name: planned.scheme for name, planned in skeleton.layers.items()}
    static = [name for name, scheme in schemes.items() if scheme.is_static]
    # one model for all, so that a table which several read is one tensor in memory and in the file
    net = skeleton.build(layer_factory(), bidirectional.register())
    programs = [shortened(program, target.max_context) for program in skeleton.programs]
    models: dict[str, tuple[Any, set[str]]] = {}
    operators, outcomes, nodes = set[str](), dict[str, object](), 0
    for number, program in enumerate(programs):
        progress(f"tracing {program.name}", number / len(programs) * 0.8)
        longest = max(
            [axis.maximum for name, axis in program.signature.axes.items() if name != BATCH], default=1
        )
        with masking(longest, padded=True):
            traced = trace_program(net, program)
        progress(f"translating {program.name} to ONNX", (number + 0.5) / len(programs) * 0.8)
        traced = with_codes(traced, skeleton)
        model = to_onnx(traced)
        if static:
            name_integers(model, static)
        found = passes.run(model, None, many_tokens=True)
        if static:
            found["integers"] = settle_integers(model).facts()
        prefix = "" if len(programs) == 1 else f"{program.name}: "
        outcomes |= {prefix + one: outcome for one, outcome in found.items()}
        external = naming.name_all(model, traced.dimensions)
        operators |= set(naming.operators(model))
        nodes += len(list(model.graph))
        models[f"{program.name}.onnx"] = (model, external)
    storage.write_all(models, folder, lambda what, share: progress(what, 0.8 + 0.15 * share))
    oldest = max(
        (capabilities.required_runtime(x.info, x.scheme)[0] for x in skeleton.layers.values()),
        default=capabilities.OLDEST_RUNTIME,
    )
    return {
        "operators": sorted(operators),
        "min_runtime": capabilities.show_version(oldest),
        "opset": OPSET,
        "nodes": nodes,
        "passes": outcomes,
        "programs": {program.name: program.signature.describe() for program in programs},
    }


class OrtProgramRunner:
    """One program in ONNX Runtime (backends.base.ProgramRunner)."""

    takes_batches = True

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self.inputs = tuple(x.name for x in session.get_inputs())
        self.outputs = tuple(x.name for x in session.get_outputs())
        self._types = {x.name: _TYPES[x.type] for x in session.get_inputs()}

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Outputs by name. Raises ArtifactError for an input that is missing."""
        missing = [name for name in self.inputs if name not in inputs]
        if missing:
            raise ArtifactError(
                f"the model wants {', '.join(missing)}; given are {', '.join(sorted(inputs))}"
            )
        feeds: dict[str, NDArray[Any]] = {
            name: np.ascontiguousarray(inputs[name], self._types[name]) for name in self.inputs
        }
        found: Sequence[NDArray[Any]] = self._session.run(None, feeds)
        return dict(zip(self.outputs, found, strict=True))


def open_program(folder: Path, name: str, activations: ActivationMode = "as-shipped") -> OrtProgramRunner:
    """Open one program of what lower_programs wrote. Raises ArtifactError where it is missing or does not load."""
    return OrtProgramRunner(open_session(folder, activations, name=f"{name}.onnx"))
