"""Text as samples: lines of a jsonl file, and pieces of running text. Read as a stream: a file of any
size takes as much memory as its longest line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from exporter.errors import QexportError
from exporter.recipe import DataSource
from exporter.samples.files import Sample, opened

PIECE = 2000  # bytes of running text that make a sample: some 500 tokens of English
_LONGEST_LINE = 1 << 24  # bytes of a jsonl line
_TEXT_FIELDS = ("text", "language", "topic", "target", "file")


@dataclass(frozen=True)
class Row:
    """One line of a jsonl file."""

    number: int  # from 1
    start: int  # byte
    size: int  # bytes
    data: dict[str, Any]


def text_samples(source: DataSource) -> Iterator[tuple[Sample, str]]:
    """Every sample of a file with its text, in the file's order.

    A .jsonl line is a sample, its `language` and `topic` before those of the source. Any other file is
    running text, cut at blank lines into pieces of at most PIECE bytes. Raises QexportError naming file
    and line for what is not UTF-8, not JSON, or has no text.
    """
    if source.path.suffix.lower() == ".jsonl":
        for row in jsonl_rows(source.path, required=("text",)):
            if not row.data["text"].strip():
                raise QexportError(f"{source.path}, line {row.number}: text is empty")
            language = row.data.get("language") or source.language
            topic = row.data.get("topic") or source.topic
            yield Sample("text", source.path, language, topic, row.start, row.size), row.data["text"]
    else:
        for start, size, text in _pieces(source.path):
            yield Sample("text", source.path, source.language, source.topic, start, size), text


def read_text(sample: Sample) -> str:
    """The text of one sample, read from its place in the file."""
    with opened(sample.path) as stream:
        stream.seek(sample.start)
        content = stream.read(sample.size if sample.size is not None else -1).decode("utf-8-sig")
    if sample.path.suffix.lower() == ".jsonl":
        return str(json.loads(content)["text"])
    return content.strip()


def jsonl_rows(path: Path, required: tuple[str, ...] = ()) -> Iterator[Row]:
    """Lines of a jsonl file; blank ones are no lines. Fields this package knows are text where they are there.

    Raises QexportError that names file and line.
    """
    start = 0
    with opened(path) as stream:
        for number, line in enumerate(iter(lambda: stream.readline(_LONGEST_LINE + 1), b""), 1):
            at, start = start, start + len(line)
            where = f"{path}, line {number}"
            if len(line) > _LONGEST_LINE:
                raise QexportError(
                    f"{where}: longer than {_LONGEST_LINE:,} bytes; a sample is one line of a jsonl file"
                )
            content = _decoded(line, where)
            if not content.strip():
                continue
            try:
                data = json.loads(content)
            except ValueError as problem:
                raise QexportError(
                    f"{where}: not JSON ({problem}); each line of a jsonl file is one object"
                ) from None
            _check_row(data, required, where)
            yield Row(number, at, len(line), data)


def _check_row(data: Any, required: tuple[str, ...], where: str) -> None:
    if not isinstance(data, dict):
        kind = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}.get(
            type(data), "a number"
        )
        raise QexportError(
            f'{where}: {kind}; each line must be an object such as {{"text": "…", "language": "de"}}'
        )
    for name in required:
        if name not in data:
            raise QexportError(f"{where}: no field {name!r}; it has: {', '.join(data) or 'none'}")
    for name in _TEXT_FIELDS:
        value = data.get(name)
        if value is not None and not isinstance(value, str):
            raise QexportError(f"{where}: {name} is {value!r}; it must be text")


def _decoded(line: bytes, where: str) -> str:
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        byte = f"byte {problem.start} (0x{line[problem.start]:02x})"
        raise QexportError(f"{where}: not UTF-8 at {byte} of the line; save the file as UTF-8") from problem


def _pieces(path: Path) -> Iterator[tuple[int, int, str]]:
    """Start, bytes and text of each piece: whole paragraphs while they fit, else as many whole lines."""
    with opened(path) as stream:
        start, held, paragraphs = (
            0,
            b"",
            0,
        )  # `held` begins at byte `start`; its first `paragraphs` bytes are whole
        for line in _lines(stream):
            if held and len(held) + len(line) > PIECE:
                cut = paragraphs if paragraphs > PIECE // 2 else len(held)
                yield from _piece(path, start, held[:cut])
                start, held, paragraphs = start + cut, held[cut:], 0
            held += line
            if not line.strip():
                paragraphs = len(held)
        yield from _piece(path, start, held)


def _piece(path: Path, start: int, content: bytes) -> Iterator[tuple[int, int, str]]:
    try:
        text = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as problem:
        byte = f"byte {start + problem.start} (0x{content[problem.start]:02x})"
        raise QexportError(f"{path}: not UTF-8 at {byte}; save the file as UTF-8") from problem
    if text:
        yield start, len(content), text


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Lines of at most PIECE bytes: a longer one is cut at its last space, or between two characters."""
    while line := stream.readline(PIECE):
        if not line.endswith(b"\n") and len(line) == PIECE:
            cut = line.rfind(b" ") + 1
            if not cut:
                cut = len(line)
                while cut > PIECE - 4 and line[cut - 1] & 0xC0 == 0x80:  # inside a character
                    cut -= 1
                if line[cut - 1] >= 0xC0:  # its first byte
                    cut -= 1
            stream.seek(cut - len(line), 1)
            line = line[:cut]
        yield line
