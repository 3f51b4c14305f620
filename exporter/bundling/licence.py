"""The licence text of a model: what a person gives, else what lies beside the weights or in their package."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from exporter.errors import ArtifactError, SourceError
from exporter.models.sources import ModelFiles, resolve

_NAMES = ("LICENSE*", "LICENCE*", "NOTICE*")


def licence_text(where: Path, source: str, given: Path | None) -> str:
    """What goes into LICENSE.txt. Raises ArtifactError where nothing is known: an app must not ship without."""
    if given is not None:
        return _read(given)
    text = _of_package(source) if source.startswith("package:") else _beside(source)
    if text is None:
        raise ArtifactError(
            f"{where}: no licence is known for its model ({source}): none lies beside the weights or in their "
            "package; pass --license FILE with the text that the model's publisher states"
        )
    return text


def _read(path: Path) -> str:
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as problem:
        raise ArtifactError(f"{path}: is not UTF-8 text ({problem.reason}); pass --license FILE") from None
    except OSError as problem:
        raise ArtifactError(
            f"{path}: cannot be read ({problem.strerror}); pass --license FILE with the licence's text"
        ) from None
    if not text.strip():
        raise ArtifactError(f"{path}: is empty; pass --license FILE with the licence's text")
    return text


def _of_package(source: str) -> str | None:
    """Licence files that the package itself lists (PEP 639 and before)."""
    name = source.partition(":")[2].partition("/")[0]
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    listed = {Path(entry).name for entry in distribution.metadata.get_all("License-File") or []}
    texts = [
        file.locate().read_text("utf-8")  # type: ignore[attr-defined]  # a path, says its documentation
        for file in distribution.files or []
        if file.name in listed and any(".dist-info" in part for part in file.parts)
    ]
    return "\n".join(texts) or None


def _beside(source: str) -> str | None:
    try:
        files = resolve(source, Path())
    except SourceError:
        return None
    if not isinstance(files, ModelFiles) or not files.path.is_dir():
        return None  # a lone file lies in a folder of others, whose licences are theirs
    texts = [_read(path) for pattern in _NAMES for path in sorted(files.path.glob(pattern)) if path.is_file()]
    return "\n".join(texts) or None
