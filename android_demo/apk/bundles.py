"""The models that go into the APK: what `qexport bundle` left in the assets, whole and for this build."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from common import APP, HERE, Failed

BUNDLE = "bundle.json"
MODELS = APP / "assets" / "models"
RUNTIME = "onnxruntime"  # the only one whose Java classes and libraries can be had without Maven
_SCHEMA = 1
_KEYS = {"schema", "id", "task", "runtime", "min_runtime", "abis", "files"}
_AGAIN = "bundle it again (qexport bundle … --force), or delete the folder"


def bundles(models: Path = MODELS) -> list[Path]:
    """The folders, sorted. Raises Failed for one that this build cannot ship."""
    folders = sorted(path for path in models.iterdir() if path.is_dir()) if models.is_dir() else []
    for folder in folders:
        data = _read(folder)
        if data["runtime"] != RUNTIME:
            raise Failed(
                f"{folder}: is for {data['runtime']}, this build carries {RUNTIME} alone; bundle the model with "
                f"--runtime {RUNTIME}, or build with Gradle, which takes both from Maven (android_demo/app/README.md)"
            )
        _check_fit(folder, data)
        listed = {file["path"]: file for file in data["files"]}
        found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {
            BUNDLE
        }
        for name in sorted(found ^ listed.keys()):
            what = "missing" if name in listed else f"not in {BUNDLE}"
            raise Failed(f"{folder / name}: {what}; {_AGAIN}")
        for name, file in sorted(listed.items()):
            with (folder / name).open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != file["sha256"]:
                    raise Failed(f"{folder / name}: not as bundled ({BUNDLE} has another sha256); {_AGAIN}")
    return folders


def _check_fit(folder: Path, data: Any) -> None:
    """By hand a folder may be copied from another app's, or renamed."""
    place, app = folder / BUNDLE, json.loads((HERE / "app" / "runtimes.json").read_text("utf-8"))
    shipped = app["runtimes"][RUNTIME]
    for key, wrong in (
        ("schema", data["schema"] != _SCHEMA),
        ("id", data["id"] != folder.name),
        ("task", data["task"] not in app["tasks"]),
        ("min_runtime", _version(data["min_runtime"]) > _version(shipped["version"])),
        ("abis", not set(data["abis"]) & set(shipped["abis"])),
    ):
        if wrong:
            raise Failed(f"{place}: {key} is {data[key]!r}, which does not fit this app; {_AGAIN}")


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def _read(folder: Path) -> Any:
    try:
        data = json.loads((folder / BUNDLE).read_text("utf-8"))
        missing = _KEYS - data.keys()
        if not missing and all(file.keys() >= {"path", "sha256"} for file in data["files"]):
            return data
        problem = f"{', '.join(sorted(missing)) or 'what a file needs'} is missing"
    except (OSError, ValueError, AttributeError, TypeError) as found:
        problem = str(found)
    raise Failed(f"{folder / BUNDLE}: cannot be read ({problem}); {_AGAIN}")
