"""Golden values replayed: each file of an artifact, in its runtime, on this host or on an emulated ARM64 processor."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from exporter.artifacts import read_manifest
from exporter.bundling.artifact import RUNTIMES, Artifact, open_artifact
from exporter.bundling.columns import VECTORS, write_column
from exporter.bundling.golden import tolerance
from exporter.errors import ArtifactError
from exporter.progress import Report, Stages
from exporter.replay import arm64
from exporter.replay.examples import replayer
from exporter.replay.judging import Judged
from exporter.replay.machines import Emulated, Host, Machine, check_host
from exporter.replay.protocol import ProcessFailed
from exporter.replay.settings import Settings


@dataclass(frozen=True)
class Replayed:
    """One file, all golden examples."""

    artifact: Artifact
    file: str  # below the artifact's folder
    names: tuple[str, ...]  # of the examples
    judged: tuple[Judged, ...]
    total: int  # golden examples that there are
    tolerance: Mapping[str, Any]
    seconds: float  # loading, running and comparing
    broken: str | None = None  # why the runtime ended before its time

    @property
    def failures(self) -> list[str]:
        """A sentence for each example beyond its tolerance."""
        found = [f"{self.file}: {self.broken}"] if self.broken else []
        pairs = zip(self.names, self.judged, strict=False)
        return found + [f"{self.file}, {name!r}: {one.failure}" for name, one in pairs if one.failure]


@dataclass(frozen=True)
class Replay:
    """Everything of one call."""

    machine: Machine
    files: tuple[Replayed, ...]
    column: Path | None = None  # where golden values of the machine were written

    @property
    def failures(self) -> list[str]:
        """Of all files."""
        return [failure for one in self.files for failure in one.failures]

    @property
    def whole(self) -> bool:
        """Every golden example was run."""
        return all(len(one.judged) == one.total for one in self.files)


def replay(folder: Path, settings: Settings, download: bool, stages: Stages) -> Replay:
    """Replay every runtime's files. Raises ArtifactError for a folder that is not whole or of another task,
    FetchError where the emulated machine is not there."""
    check_host()
    with stages.stage("check"):
        found = list(read_manifest(folder)["summary"]["targets"])
        names: list[str | None] = [name for name in RUNTIMES if name in found and settings.runtime is None]
        # open_artifact says why there is none, or none of this name
        artifacts = [open_artifact(folder, name) for name in names or [settings.runtime]]
        for artifact in artifacts:
            _check_fit(artifact)
    machine: Machine = Host() if settings.abi == "x86_64" else Emulated(settings.cpu)
    if isinstance(machine, Emulated):
        command = f"qexport verify {shlex.quote(str(folder))} --abi arm64 --download"
        arm64.provide([artifact.runtime for artifact in artifacts], download, command, stages.say)
    done = []
    for artifact in artifacts:
        for files in _files(artifact):
            with stages.stage(f"{_spoken(artifact, files)} on {machine}") as progress:
                done.append(_replay_files(artifact, files, machine, settings, progress))
    result = Replay(machine, tuple(done))
    if result.failures or not result.whole or isinstance(machine, Host):
        return result
    return replace(result, column=_write(machine, done))


def _write(machine: Machine, files: Sequence[Replayed]) -> Path:
    """The column of what the app ships: model.ort where the artifact has it, which comes last of a runtime's files."""
    last = {one.artifact.runtime: one for one in files}.values()
    how = {
        "on": str(machine),
        "versions": {one.artifact.runtime: machine.version(one.artifact.runtime) for one in last},
        "of": [one.file for one in last],
    }
    return write_column(
        machine.abi, how, [(one.artifact, [each.values for each in one.judged]) for one in last]
    )


def _check_fit(artifact: Artifact) -> None:
    if artifact.task == "module":
        raise ArtifactError(
            f"{artifact.folder}: golden values of task module are not replayed; `qexport verify` without --abi runs "
            "its whole ladder on this host"
        )
    cache = artifact.target["kv_cache"]
    if artifact.runtime == "executorch" and cache != "float32":
        raise ArtifactError(
            f"{artifact.folder}: its .pte keeps keys and values as {cache}, the runner of golden values attends to "
            "float32 only; export with kv_cache: float32, or pass --runtime onnxruntime for the other file"
        )


def _files(artifact: Artifact) -> list[dict[str, Path]]:
    """By names, what a process opens: the runtime's programs, then what was made of them in another format."""
    if artifact.runtime == "executorch":
        return [{"model": artifact.files / "model.pte"}]
    programs, known = artifact.facts.get("programs", ["model"]), {x["path"] for x in artifact.facts["files"]}
    endings = [".onnx"] + [".ort"] * all(f"{name}.ort" in known for name in programs)
    return [{name: artifact.files / f"{name}{ending}" for name in programs} for ending in endings]


def _replay_files(
    artifact: Artifact, files: Mapping[str, Path], machine: Machine, settings: Settings, progress: Report
) -> Replayed:
    start = time.perf_counter()
    allowed, data = tolerance(artifact), json.loads((artifact.folder / VECTORS).read_text("utf-8"))
    known = data.get("prompts") or data["examples"]
    examples = known[: settings.examples]
    judged: list[Judged] = []
    broken = None
    try:
        with machine.open(artifact.runtime, files) as remote:
            judge = replayer(artifact, data, remote, allowed, settings.steps)
            for number, example in enumerate(examples, 1):
                judged.append(judge(example))
                progress(f"example {number} of {len(examples)}", number / len(examples))
    except ProcessFailed as problem:
        broken = str(problem)
    names = tuple(str(example.get("prompt", example.get("name"))) for example in examples)
    seconds = time.perf_counter() - start
    file = _spoken(artifact, files)
    return Replayed(artifact, file, names, tuple(judged), len(known), allowed, seconds, broken)


def _spoken(artifact: Artifact, files: Mapping[str, Path]) -> str:
    """`onnxruntime/encoder.onnx, decoder.onnx`."""
    folder = artifact.files.relative_to(artifact.folder)
    return f"{folder.as_posix()}/{', '.join(path.name for path in files.values())}"
