"""An artifact folder as a bundle sees it: whole, fit to ship, and one of its runtimes chosen."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.artifacts import changed_files, read_manifest
from exporter.errors import ArtifactError

RUNTIMES = ("onnxruntime", "executorch")  # in the order of preference
_EXTENSIONS = re.compile(r"\.(gguf|safetensors|bin|pt)$")
_BITS = re.compile(r"[-_.](q\d\w*|iq\d\w*|f16|bf16|f32)$", re.IGNORECASE)  # of a GGUF file's name
_SHOWN = 3


@dataclass(frozen=True)
class Artifact:
    """One runtime's files of a folder that qexport wrote, and what the manifest says of them."""

    folder: Path
    runtime: str
    summary: Mapping[str, Any]  # of the manifest

    @property
    def files(self) -> Path:
        """The runtime's own folder."""
        return self.folder / str(self.facts["folder"])

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the manifest says of the runtime."""
        found: Mapping[str, Any] = self.summary["targets"][self.runtime]
        return found

    @property
    def plan(self) -> Mapping[str, Any]:
        """The plan's entry of the runtime: cache_bytes and the target as it was asked for."""
        found: Mapping[str, Any] = next(
            entry for entry in self.summary["plan"]["targets"] if entry["target"]["backend"] == self.runtime
        )
        return found

    @property
    def target(self) -> Mapping[str, Any]:
        """abi, max_context, kv_cache, …"""
        found: Mapping[str, Any] = self.plan["target"]
        return found

    @property
    def task(self) -> str:
        """One of exporter.tasks."""
        return str(self.summary["model"]["task"])

    @property
    def source(self) -> str:
        """Of the model, as the recipe has it."""
        return str(self.summary["model"]["source"])

    @property
    def model(self) -> str:
        """The model's name for a person, without the folder, the ending and the bits of its file."""
        name = Path(self.source.rstrip("/").rpartition(":")[2].partition("@")[0]).name
        return _BITS.sub("", _EXTENSIONS.sub("", name))

    @property
    def group(self) -> str:
        """Equal for artifacts of the same weights, and for no others."""
        weights = json.dumps(self.summary["model"]["weights_sha256"], sort_keys=True)
        return f"{_slug(self.model)}-{hashlib.sha256(weights.encode()).hexdigest()[:8]}"

    @property
    def id(self) -> str:
        """The folder's name, and the runtime where it is not the first: both may stand in one app."""
        name = _slug(Path(os.path.abspath(self.folder)).name)
        return name if self.runtime == RUNTIMES[0] else f"{name}-{self.runtime}"

    def sha256(self, path: Path) -> str:
        """What the manifest says of a file of the runtime's folder."""
        entries = self.facts["files"]
        return next(str(entry["sha256"]) for entry in entries if self.files / entry["path"] == path)


def open_artifact(folder: Path, runtime: str | None) -> Artifact:
    """Verify a folder and choose the runtime, the first that there is unless one is named.

    Raises ArtifactError for a folder that is no artifact, was changed, failed its parity, or holds no such files.
    """
    manifest = read_manifest(folder)
    changed = changed_files(folder, manifest)
    if changed:
        names = ", ".join(path.relative_to(folder).as_posix() for path in changed[:_SHOWN])
        more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        raise ArtifactError(
            f"{folder}: {names}{more}: missing, or not as written (manifest.json has another sha256); "
            "export again with --force"
        )
    summary = manifest["summary"]
    if not summary["parity"]["passed"]:
        raise ArtifactError(
            f"{folder}: its parity failed, so it is not to be shipped; see {folder / 'report.html'}, change the "
            "recipe and export again"
        )
    found = list(summary["targets"])
    npus = [name for name in found if name not in RUNTIMES]
    if len(npus) == len(found):
        raise ArtifactError(
            f"{folder}: is made for an NPU ({', '.join(npus)}), the app runs on the CPU; export with the target "
            f"{{backend: {RUNTIMES[0]}}} or {{backend: {RUNTIMES[1]}}}"
        )
    chosen = runtime or next(name for name in RUNTIMES if name in found)
    if chosen not in found:
        raise ArtifactError(
            f"{folder}: holds no files for {chosen}, only for {', '.join(found)}; leave --runtime out, or add "
            f"{{backend: {chosen}}} to the recipe's targets and export again"
        )
    return Artifact(folder, chosen, summary)


def _slug(name: str) -> str:
    """Of [a-z0-9_.-]; begins with a letter or digit, since Android leaves out assets that begin otherwise."""
    return re.sub(r"[^a-z0-9_.-]", "_", name.lower()).lstrip("_.-") or "model"
