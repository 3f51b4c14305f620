"""The output folder: written whole under a temporary name beside it, then renamed. Never half there."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from exporter.errors import ArtifactError
from exporter.models.sources import file_sha256

MANIFEST = "manifest.json"
_FORMAT = 1  # of manifest.json


def write_json(path: Path, data: Any) -> None:
    """Indented, key-sorted JSON, so that equal data gives equal bytes."""
    path.write_text(
        json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n", "utf-8"
    )


def describe_files(folder: Path) -> list[dict[str, object]]:
    """Path (relative, with /), bytes and sha256 of every file below folder, sorted by path."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            relative = path.relative_to(folder).as_posix()
            found.append({"path": relative, "bytes": path.stat().st_size, "sha256": file_sha256(path)})
    return found


def read_manifest(folder: Path) -> dict[str, Any]:
    """manifest.json of an artifact folder. Raises ArtifactError when it is not one of ours."""
    path = folder / MANIFEST
    if not folder.is_dir():
        raise ArtifactError(
            f"{folder}: there is no such folder; make one with `qexport --recipe R --out {folder}`"
        )
    try:
        manifest: Any = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ArtifactError(
            f"{folder}: has no {MANIFEST}, so it is not a folder that qexport wrote"
        ) from None
    except ValueError as problem:
        raise ArtifactError(f"{path}: damaged ({problem}); export again with --force") from problem
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), list):
        raise ArtifactError(f"{path}: damaged (it lists no files); export again with --force")
    if manifest.get("format") != _FORMAT:
        raise ArtifactError(
            f"{path}: format {manifest.get('format')!r}, this qexport reads {_FORMAT}; export again with --force"
        )
    return manifest


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> None:
    """manifest.json over everything that lies in folder already."""
    write_json(folder / MANIFEST, {"format": _FORMAT, **facts, "files": describe_files(folder)})


def changed_files(folder: Path, manifest: Mapping[str, Any]) -> list[Path]:
    """Files of the manifest that are missing or hold other bytes."""
    changed = []
    for entry in manifest["files"]:
        path = folder / entry["path"]
        if (
            not path.is_file()
            or path.stat().st_size != entry["bytes"]
            or file_sha256(path) != entry["sha256"]
        ):
            changed.append(path)
    return changed


def target_bytes(target: Mapping[str, Any]) -> int:
    """Bytes of the model's own files where the data says so, else of all files."""
    for key in ("model_bytes", "total_bytes"):
        if key in target:
            return int(target[key])
    return sum(int(file["bytes"]) for file in target["files"])


def check_target(target: Path, needed_bytes: int, force: bool) -> None:
    """Refuse before any work: a folder that is not ours to replace, an unwritable place, too little room."""
    if target.exists() and not target.is_dir():
        raise ArtifactError(f"{target}: is a file; name a folder for --out")
    if target.is_dir() and any(target.iterdir()):
        if not (target / MANIFEST).is_file():
            raise ArtifactError(
                f"{target}: holds files that qexport did not write; name another folder for --out"
            )
        if not force:
            raise ArtifactError(
                f"{target}: exists already; pass --force to replace it, or name another folder"
            )
    parent = _existing_parent(target)
    if not parent.is_dir():
        raise ArtifactError(f"{parent}: is a file; name a folder for --out")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ArtifactError(
            f"{parent}: is not writable; name another folder for --out or change its permissions"
        )
    free = shutil.disk_usage(parent).free
    if free < needed_bytes:
        raise ArtifactError(
            f"{parent}: {_megabytes(free)} MB free, the job needs about {_megabytes(needed_bytes)} MB; "
            "free some room or name a folder on another disk for --out"
        )


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A draft folder beside target. When the block ends well it takes target's place; else it is removed."""
    target = Path(os.path.abspath(target))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_dead_drafts(target)
        draft = Path(tempfile.mkdtemp(prefix=_draft_prefix(target) + f"{os.getpid()}-", dir=target.parent))
    except OSError as problem:
        raise ArtifactError(
            f"{target}: cannot be made ({problem.strerror}); name another folder for --out"
        ) from problem
    try:
        yield draft
        draft.chmod(0o755)
        for path in draft.rglob("*"):
            _sync(path)
        _swap(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _swap(draft: Path, target: Path) -> None:
    old = draft.with_name(draft.name + ".old")
    if target.exists():
        os.replace(target, old)
    try:
        os.replace(draft, target)
    except OSError:
        if old.exists():
            os.replace(old, target)
        raise
    _sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _remove_dead_drafts(target: Path) -> None:
    """Drafts of a job that was killed outright; one whose process still lives is left alone."""
    prefix = _draft_prefix(target)
    for path in target.parent.glob(prefix + "*"):
        pid = path.name[len(prefix) :].partition("-")[0]
        if pid.isdigit() and int(pid) != os.getpid() and not Path("/proc", pid).exists():
            if path.name.endswith(".old") and not target.exists():
                os.replace(path, target)  # killed between the two renames: the old folder is still whole
            else:
                shutil.rmtree(path, ignore_errors=True)


def _draft_prefix(target: Path) -> str:
    return f".{target.name}.partial-"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f}" if count >= 10e6 else f"{count / 1e6:.2f}"


def _existing_parent(target: Path) -> Path:
    parent = Path(os.path.abspath(target)).parent
    while not parent.exists():
        parent = parent.parent
    return parent


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
