"""The files behind a data source, in an order that no file system decides, and their hashes."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path
from typing import Literal

from exporter.errors import QexportError
from exporter.folders import fetch_hint
from exporter.recipe import DataSource

Medium = Literal["text", "image", "audio"]
SUFFIXES: dict[Medium, tuple[str, ...]] = {
    "text": (".txt", ".jsonl"),
    "image": (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"),
    "audio": (".wav",),
}
WORDS: dict[Medium, str] = {"text": "text files", "image": "pictures", "audio": "wav files"}


@dataclass(frozen=True)
class Sample:
    """One thing that a model is shown. It is not read before it is used."""

    medium: Medium
    path: Path
    language: str | None = None
    topic: str | None = None
    start: int = 0  # text: first byte in the file
    size: int | None = None  # text: bytes


@dataclass(frozen=True)
class DataFile:
    """A file with the hash of its content."""

    path: Path
    sha256: str
    source: DataSource


@dataclass(frozen=True)
class Listing:
    """The files of some sources, by content hash, and what was left out of their folders."""

    files: tuple[DataFile, ...]
    notes: tuple[str, ...] = ()


def list_files(medium: Medium, sources: Sequence[DataSource]) -> Listing:
    """Every file of the sources, ordered by the hash of its content, so that neither names nor the file
    system's order matter. A folder is searched with all its folders; hidden files are not looked at.

    Raises QexportError for a folder without a fitting file and for a file that cannot be read.
    """
    found: list[DataFile] = []
    notes: list[str] = []
    for source in sources:
        if source.path.is_dir():
            paths, note = _in_folder(medium, source.path)
            notes += [note] if note else []
        else:
            paths = [source.path]
        found += [DataFile(path, content_sha256(path), replace(source, path=path)) for path in paths]
    found.sort(key=lambda file: (file.sha256, file.path.as_posix()))
    return Listing(tuple(found), tuple(notes))


def content_sha256(path: Path) -> str:
    """sha256 of a file, read in pieces. Raises QexportError where it cannot be read."""
    with opened(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def opened(path: Path) -> BufferedReader:
    """The file to read from. Raises QexportError where it cannot be, with the way to it where it is to be fetched."""
    try:
        return path.open("rb")
    except OSError as problem:
        hint = fetch_hint(path) if isinstance(problem, FileNotFoundError) else ""
        raise QexportError(f"{path}: cannot be read ({problem.strerror}){hint}") from problem


def _in_folder(medium: Medium, folder: Path) -> tuple[list[Path], str | None]:
    """Files of the medium, and a note on the others."""
    fitting: list[Path] = []
    others: Counter[str] = Counter()
    for path in _walk(folder):
        if path.suffix.lower() in SUFFIXES[medium]:
            fitting.append(path)
        else:
            others[path.suffix.lower() or path.name] += 1
    if not fitting:
        holds = f"it holds only {_counted(others)}" if others else "it is empty"
        wanted = ", ".join(SUFFIXES[medium])
        raise QexportError(
            f"{folder}: no {WORDS[medium]} in this folder, {holds}; a file's name must end in {wanted}"
        )
    note = f"{folder}: {_counted(others)} left out, not {WORDS[medium]}" if others else None
    return fitting, note


def _walk(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden:
            yield path


def _counted(others: Counter[str]) -> str:
    """`3 files (2 .txt, 1 .csv)`."""
    total = sum(others.values())
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
    return f"{total} file{'s' if total > 1 else ''} ({kinds})"
