"""NPUs: Qualcomm's HTP through ONNX Runtime and through ExecuTorch, Arm's through TOSA and Vela.

One recipe's values get codes once (exporter.static.dialects); each backend here hands the same program to another
compiler. Imports nothing heavy: a plan asks `unsupported` and `layer_bytes` alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from exporter.backends.base import ActivationMode, PackedLayer, Progress
from exporter.backends.npu import capabilities, vendor
from exporter.backends.npu.cases import Arrays
from exporter.errors import ArtifactError
from exporter.layers import CacheShape, LayerInfo, ModelLayers
from exporter.numerics import save_arrays
from exporter.schemes import QuantScheme
from exporter.targets import Target

if TYPE_CHECKING:
    from exporter.models.python_module import ModuleSkeleton


@dataclass(frozen=True)
class NpuBackend:
    """See exporter.backends.base.Backend; one for each way to an NPU."""

    name: str
    unreadable: str | None  # why the integers cannot be read back out of the compiled file
    float_activations: bool = False

    @property
    def folder(self) -> str:
        """Under the artifact folder."""
        return self.name

    def unsupported(self, layer: LayerInfo, scheme: QuantScheme, target: Target) -> str | None:
        """Why this layer cannot run with this scheme on this target, or None."""
        return capabilities.unsupported(layer, scheme, target)

    def layer_bytes(self, layer: LayerInfo, scheme: QuantScheme, target: Target) -> int:
        """Bytes that the layer takes in one compiled file."""
        return capabilities.layer_bytes(layer, scheme, target)

    def fixed_bytes(self, model: ModelLayers, target: Target) -> int:
        """What one compiled file holds besides parameters."""
        return capabilities.second_graph_bytes(len(model.layers), target)

    def size_problem(self, forecast: int, facts: Mapping[str, object]) -> str | None:
        """Why a compiled file is not as large as forecast, or None; `facts` as lower gave them."""
        compiled = facts["compiled"]
        assert isinstance(compiled, Mapping)
        for entry in compiled.values():
            problem = capabilities.size_problem(forecast, int(entry["bytes"]))
            if problem:
                return problem
        return None

    def unsupported_cache(self, target: Target, cache: Sequence[CacheShape]) -> str | None:
        """Why this target cannot hold such a KV cache, or None."""
        return "keys and values of past tokens are not built for NPUs" if cache else None

    def cache_bytes(self, target: Target, cache: Sequence[CacheShape]) -> int:
        """None."""
        return 0

    def cache_scales(self, folder: Path) -> tuple[()]:
        """None."""
        return ()

    def lower(
        self, skeleton: ModuleSkeleton, target: Target, folder: Path, progress: Progress
    ) -> Mapping[str, object]:
        """Compile for every chip of the target. Raises TraceError, LoweringError."""
        from exporter.backends.npu import lowering

        vendor.check_installed(target)
        return lowering.lower(skeleton, target, folder, progress)

    def check(self, target: Target, folder: Path) -> None:
        """Raise ArtifactError where a file has a node on the CPU, or is compiled for another chip."""
        from exporter.backends.npu import lowering

        vendor.check_installed(target)
        lowering.check(target, folder)

    def open_module(self, folder: Path, activations: ActivationMode = "as-shipped") -> NpuRunner:
        """The simulator on what lower wrote, for its first chip."""
        if activations == "float":
            raise ArtifactError(f"{folder}: an NPU computes in integers; open it as shipped")
        return NpuRunner(self.name, folder)

    def read_back(self, folder: Path) -> dict[str, PackedLayer]:
        """Every layer's integers, of the graph that was compiled; nothing where the format hides them."""
        if self.unreadable:
            return {}
        from exporter.backends.npu.qdq import read_qdq
        from exporter.backends.npu.qnn import GRAPHS

        found = read_qdq(folder / GRAPHS["forward"])
        prompt = folder / GRAPHS["prefill"]
        if prompt.is_file():
            problem = differing(found, read_qdq(prompt))
            if problem:
                raise ArtifactError(
                    f"{prompt}: is not of the integers of {GRAPHS['forward']}: {problem}; export again"
                )
        return found

    @contextmanager
    def simulator(self, skeleton: ModuleSkeleton, target: Target, folder: Path) -> Iterator[NpuRunner]:
        """The simulator on what lower wrote; it loads no context that shares weights ("Shared weights buffer isn't
        supported on this platform"), so that such programs are compiled once more, each with its own, and the file has
        to hold what that gives. Raises LoweringError where it does not."""
        if skeleton.prefill is None:
            yield NpuRunner(self.name, folder)
            return
        from exporter.backends.npu import lowering, sharing

        with tempfile.TemporaryDirectory(prefix="qexport-npu-") as name:
            one = replace(target, soc=tuple(sorted(target.soc))[:1])
            lowering.lower(skeleton, one, Path(name), lambda what, share: None, share=False)
            sharing.check_held(one, folder, Path(name))
            yield NpuRunner(self.name, Path(name))

    def open_text(self, folder: Path, activations: ActivationMode = "as-shipped") -> NoReturn:
        """Not built."""
        raise ArtifactError(f"{folder}: holds no language model with a KV cache")

    def open_seq2seq(self, folder: Path, activations: ActivationMode = "as-shipped") -> NoReturn:
        """Not built."""
        raise ArtifactError(f"{folder}: holds no encoder-decoder model")

    def open_program(self, folder: Path, name: str, activations: ActivationMode = "as-shipped") -> NoReturn:
        """An NPU program is a module."""
        raise ArtifactError(f"{folder}: is one module of fixed shapes; open_module opens it")


class NpuRunner:
    """A vendor's simulator, in a process of its own for each set of cases."""

    def __init__(self, key: str, folder: Path) -> None:
        self.key, self.folder = key, folder

    def run(self, inputs: Sequence[NDArray[Any]]) -> Arrays:
        """One case."""
        return self.run_many([list(inputs)])[0]

    def run_many(self, cases: Sequence[Arrays], role: str = "forward") -> list[Arrays]:
        """Positional inputs of each case -> its outputs. Raises LoweringError where the simulator fails.

        `role`: which program, `forward` or `prefill`.
        """
        from exporter.backends.npu import lowering

        with tempfile.TemporaryDirectory(prefix="qexport-npu-") as name:
            given, found = Path(name) / "inputs.npz", Path(name) / "outputs.npz"
            save_arrays(given, {str(i): np.stack(each) for i, each in enumerate(zip(*cases, strict=True))})
            lowering.run(self.key, self.folder, role, given, found)
            arrays = np.load(found)
            return [[arrays[n][case] for n in arrays.files] for case in range(len(cases))]


def differing(first: Mapping[str, PackedLayer], second: Mapping[str, PackedLayer]) -> str | None:
    """The first layer whose integers or scales, of its weight or of what it takes and gives, are not the same."""
    for name in sorted({*first, *second}):
        a, b = (_integers(found.get(name)) for found in (first, second))
        if len(a) != len(b) or not all(map(np.array_equal, a, b)):
            return f"layer {name} differs"
    return None


def _integers(layer: PackedLayer | None) -> list[Any]:
    if layer is None:
        return []
    static = layer.static
    return [layer.values, layer.scales, *([static.input, static.output, static.bias] if static else [])]


_OPAQUE = "Qualcomm's compiled form is its own; integers.npz holds what its compiler was given"
BACKENDS = {
    backend.name: backend
    for backend in (
        NpuBackend("onnxruntime-qnn", None),
        NpuBackend("executorch-qualcomm", _OPAQUE),
        NpuBackend(
            "executorch-tosa",
            "its constants are laid out anew; integers.npz holds what its compiler was given",
        ),
        NpuBackend("executorch-ethos-u", "Vela compresses the weights; integers.npz holds what it was given"),
    )
}
