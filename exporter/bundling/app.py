"""The app that bundles go into: where its assets lie, which runtimes it ships, which tasks it has a page for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.errors import ArtifactError

RUNTIMES = Path("app/runtimes.json")
MODELS = Path("app/src/main/assets/models")
_SCHEMA = 1


@dataclass(frozen=True)
class Runtime:
    """One runtime that the app ships."""

    name: str
    version: str
    abis: tuple[str, ...]
    operators: frozenset[str]  # domain::name


@dataclass(frozen=True)
class App:
    """What android_demo/app/runtimes.json says."""

    folder: Path
    runtimes: dict[str, Runtime]
    tasks: tuple[str, ...]

    @property
    def models(self) -> Path:
        """Where a bundle's folder goes."""
        return self.folder / MODELS

    def check_runtime(self, where: Path, runtime: str, needed: str, abi: str) -> None:
        """Raise ArtifactError where the app has none, or an older one."""
        found = self.runtimes.get(runtime)
        if found is None:
            raise ArtifactError(
                f"{where}: needs {runtime}, the app ships {', '.join(self.runtimes)}; "
                f"pass --runtime with one of these, or add {runtime} to {self.folder / RUNTIMES}"
            )
        if _version(needed) > _version(found.version):
            raise ArtifactError(
                f"{where}: needs {runtime} {needed} or newer, the app ships {found.version}; ship a newer one "
                f"({self.folder / RUNTIMES}), or export again with min_runtime: "
                f'"{".".join(found.version.split(".")[:2])}" in the recipe\'s target'
            )
        if abi not in found.abis:
            raise ArtifactError(
                f"{where}: is made for {abi}, the app ships {runtime} for {', '.join(found.abis)}; export again "
                f"with abi: {found.abis[0]} in the recipe's target"
            )

    def check_operators(self, where: Path, runtime: str, used: Iterable[str]) -> None:
        """Raise ArtifactError where the app's runtime lacks one."""
        found = self.runtimes[runtime]
        missing = sorted(set(used) - found.operators)
        if missing:
            raise ArtifactError(
                f"{where}: uses {', '.join(missing)}, which {runtime} {found.version} of the app does not have; ship "
                f"one that has and write its operators to {self.folder / RUNTIMES} (scripts/runtime_operators.py)"
            )

    def check_task(self, where: Path, task: str) -> None:
        """Raise ArtifactError where no page of the app can use the model."""
        if task not in self.tasks:
            raise ArtifactError(
                f"{where}: the app has no page for {task}; it has pages for {', '.join(self.tasks)}"
            )


def open_app(folder: Path) -> App:
    """Read an app's description. Raises ArtifactError where the folder is not the app."""
    path = folder / RUNTIMES
    try:
        data: Any = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(
            f"{folder}: is not the app, it has no {RUNTIMES}; pass --app with the path of android_demo"
        ) from None
    except ValueError as problem:
        raise ArtifactError(f"{path}: damaged ({problem}); take it from the repository again") from problem
    try:
        if data["schema"] != _SCHEMA:
            raise ArtifactError(
                f"{path}: schema {data['schema']!r}, this qexport reads {_SCHEMA}; take app and qexport of one version"
            )
        runtimes = {
            name: Runtime(name, str(entry["version"]), tuple(entry["abis"]), _operators(entry["operators"]))
            for name, entry in data["runtimes"].items()
        }
        return App(folder, runtimes, tuple(data["tasks"]))
    except (KeyError, TypeError, AttributeError) as problem:
        raise ArtifactError(
            f"{path}: damaged ({type(problem).__name__}: {problem}); take it from the repository again"
        ) from problem


def _operators(domains: Mapping[str, str]) -> frozenset[str]:
    return frozenset(f"{domain}::{name}" for domain, names in domains.items() for name in names.split())


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text)[:3]))
