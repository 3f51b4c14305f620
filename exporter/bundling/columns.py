"""golden/arm64-v8a.json of an artifact: golden values that `qexport verify --abi arm64` measured, for golden.json.

It comes after the manifest, which does not name it, and says of which files its values are: a column of others, left
from an earlier export or copied from another artifact, is refused.
"""

from __future__ import annotations

import json
import os
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from exporter.artifacts import write_json
from exporter.bundling.artifact import Artifact
from exporter.errors import ArtifactError
from exporter.models.sources import file_sha256

ABIS = ("arm64-v8a",)
VECTORS = "golden/vectors.json"  # of an artifact
_FORMAT = 1
_ARGUMENTS = {"arm64-v8a": "arm64"}  # of --abi


def column_path(folder: Path, abi: str) -> Path:
    """Of an artifact's folder."""
    return folder / "golden" / f"{abi}.json"


def write_column(
    abi: str, how: Mapping[str, object], values: Sequence[tuple[Artifact, Sequence[Mapping[str, Any]]]]
) -> Path:
    """Whole or not at all. `values`: for each runtime of one artifact, those of all golden examples; `how` they were
    measured, for a person who reads the file. What it has of other runtimes stays."""
    path = column_path(values[0][0].folder, abi)
    runtimes = {
        artifact.runtime: {"files": _files(artifact), "measured": how, "values": list(found)}
        for artifact, found in values
    }
    with tempfile.TemporaryDirectory(prefix=f".{abi}-", dir=path.parent) as scratch:
        draft = Path(scratch) / path.name
        write_json(draft, {"format": _FORMAT, "abi": abi, "runtimes": {**_others(path), **runtimes}})
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
    return path


def _others(path: Path) -> dict[str, Any]:
    """Whether they are stale is found out where they are read."""
    try:
        data = json.loads(path.read_text("utf-8"))
        return dict(data["runtimes"]) if data["format"] == _FORMAT else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def measured(artifact: Artifact) -> dict[str, list[dict[str, Any]]]:
    """By column, the runtime's values of every golden example, as golden/vectors.json has this host's.

    Raises ArtifactError for a column that is damaged or of other files.
    """
    found = {}
    for abi in ABIS:
        path = column_path(artifact.folder, abi)
        entry = _read(artifact, abi, path) if path.is_file() else None
        if entry is not None:
            found[abi] = entry
    return found


def _read(artifact: Artifact, abi: str, path: Path) -> list[dict[str, Any]] | None:
    """None where only another runtime's were measured."""
    command = f"qexport verify {shlex.quote(str(artifact.folder))} --abi {_ARGUMENTS[abi]}"
    way_out = f"run `{command}` again, or delete {path.name}"
    try:
        data = json.loads(path.read_text("utf-8"))
        form, entry = data["format"], data["runtimes"].get(artifact.runtime)
        if form != _FORMAT:
            raise ArtifactError(f"{path}: format {form!r}, this qexport reads {_FORMAT}; {way_out}")
        if entry is None:
            return None
        given, values = dict(entry["files"]), list(entry["values"])
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise ArtifactError(f"{path}: damaged ({type(problem).__name__}: {problem}); {way_out}") from problem
    expected = _files(artifact)
    other = sorted(name for name in expected.keys() | given.keys() if expected.get(name) != given.get(name))
    if other:
        raise ArtifactError(
            f"{path}: was measured with another {other[0]} than the artifact holds; {way_out}"
        )
    return values


def _files(artifact: Artifact) -> dict[str, str]:
    """sha256 of all that values depend on: the runtime's files and the golden inputs."""
    folder = artifact.files.relative_to(artifact.folder)
    hashes = {
        (folder / str(entry["path"])).as_posix(): str(entry["sha256"]) for entry in artifact.facts["files"]
    }
    return {**hashes, VECTORS: file_sha256(artifact.folder / VECTORS)}
