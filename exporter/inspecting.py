"""What the written files really hold: every quantised layer unpacked again and hashed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from exporter.backends import CPUS, NAMES, get_backend
from exporter.backends.base import PackedLayer
from exporter.errors import ArtifactError
from exporter.numerics import sha256_of

_SUFFIXES = {".onnx": "onnxruntime", ".pte": "executorch"}
_ENDINGS = {backend: suffix for suffix, backend in _SUFFIXES.items()}


def inspect_artifact(artifact: Path) -> dict[str, Any]:
    """{backend: {"layers": {name: {bits, group, integers, scales, bytes}}}} for a folder or one file.

    A backend whose compiled form hides its integers has no layers, and the reason as "hidden".

    Raises ArtifactError when there is nothing that can be read.
    """
    found = {}
    for name, folder in _folders(artifact).items():
        hidden = getattr(get_backend(name), "unreadable", None)
        if hidden:
            found[name] = {"layers": {}, "hidden": hidden}
            continue
        path = folder / f"model{_ENDINGS.get(name, '')}"
        if path.is_file() and not path.stat().st_size:  # to protobuf, no bytes are a model without layers
            raise ArtifactError(f"{path}: is empty (0 bytes); export again with --force")
        packed = get_backend(name).read_back(folder)
        found[name] = {"layers": {layer.name: _describe(layer) for layer in packed.values()}}
    return found


def render_inspection(found: dict[str, Any]) -> RenderableType:
    """A row per layer; the last column says whether the runtimes hold the same integers and scales."""
    hidden = [f"{name}: {entry['hidden']}" for name, entry in found.items() if "hidden" in entry]
    found = {name: entry for name, entry in found.items() if "hidden" not in entry}
    if not found:
        return Group(*hidden)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer", overflow="fold")
    table.add_column("bits", justify="right")
    table.add_column("group", justify="right")
    for backend in found:
        table.add_column(f"{backend}\nbytes", justify="right")
    table.add_column("integers\nsha256")
    if len(found) > 1:
        table.add_column("same")
    names = list(dict.fromkeys(name for backend in found.values() for name in backend["layers"]))
    different = []
    for name in names:
        entries = [backend["layers"].get(name) for backend in found.values()]
        first = next(entry for entry in entries if entry)
        row = [escape(name), str(first["bits"]), str(first["group"])]
        row += [f"{entry['bytes']:,}" if entry else "missing" for entry in entries]
        row.append(first["integers"][:12])
        if len(found) > 1:
            same = all(entry and _identity(entry) == _identity(first) for entry in entries)
            different += [] if same else [name]
            row.append("yes" if same else "[red]NO[/]")
        table.add_row(*row)
    if len(found) < 2:
        return Group(table, *hidden) if hidden else table
    total = f"{len(names) - len(different)} of {len(names)} layers hold the same integers and scales in every file"
    return Group(table, total)


def _identity(entry: dict[str, Any]) -> tuple[object, ...]:
    return tuple(entry.get(key) for key in ("bits", "group", "integers", "scales", "zero_points"))


def _describe(layer: PackedLayer) -> dict[str, Any]:
    zero_points = {} if layer.zero_points is None else {"zero_points": sha256_of(layer.zero_points)}
    return {
        "bits": layer.bits,
        "group": layer.group,
        "integers": sha256_of(layer.values),
        "scales": sha256_of(layer.scales),
        **zero_points,
        "bytes": layer.bytes,
    }


def _folders(artifact: Path) -> dict[str, Path]:
    if not artifact.exists():
        raise ArtifactError(f"{artifact}: there is no such file or folder")
    if artifact.is_file():
        backend = _SUFFIXES.get(artifact.suffix)
        if backend is None or artifact.stem != "model":
            raise ArtifactError(f"{artifact}: name a folder that qexport wrote, a model.onnx or a model.pte")
        return {backend: artifact.parent}
    found = {name: artifact / get_backend(name).folder for name in NAMES}
    found = {name: folder for name, folder in found.items() if folder.is_dir()}
    for suffix, name in _SUFFIXES.items():  # a runtime's own folder
        if not found and (artifact / f"model{suffix}").is_file():
            return {name: artifact}
    if not found:
        folders = " or ".join(f"{get_backend(name).folder}/" for name in CPUS)
        raise ArtifactError(f"{artifact}: holds no {folders}, so there is nothing to inspect")
    return found
