"""Text to measure on: running text cut into windows, and questions to continue.

The text and the questions that come with the package were written for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from exporter.errors import QexportError

Tokenise = Callable[[str], Sequence[int]]  # text -> token ids, without special tokens

DEFAULT_TEXT = "parity_text.txt"


@dataclass(frozen=True)
class Text:
    """Running text and what the manifest says of it."""

    name: str  # file name, without its folder
    text: str
    sha256: str  # of the file's bytes


@dataclass(frozen=True)
class Window:
    """Tokens that a model reads from an empty cache, and the rows of its logits that count.

    Row i of the logits predicts token i + 1. The first half only gives context, so that no position
    is judged with less than half a window before it.
    """

    tokens: tuple[int, ...]
    first_scored: int  # row

    @property
    def rows(self) -> slice:
        """Rows of the (len(tokens), vocabulary) logits that are scored."""
        return slice(self.first_scored, len(self.tokens) - 1)

    @property
    def targets(self) -> tuple[int, ...]:
        """The tokens that those rows predict."""
        return self.tokens[self.first_scored + 1 :]


@dataclass(frozen=True)
class Windows:
    """All windows of the texts, and what a person should know of how they were cut."""

    windows: tuple[Window, ...]
    notes: tuple[str, ...] = ()

    @property
    def scored(self) -> int:
        """Positions that are scored."""
        return sum(len(window.targets) for window in self.windows)


def load_texts(paths: Sequence[Path] = ()) -> tuple[Text, ...]:
    """The files, or the package's own text when there are none.

    Raises QexportError for a file that is missing, unreadable, empty or not UTF-8.
    """
    if not paths:
        data = (resources.files("exporter") / "data" / DEFAULT_TEXT).read_bytes()
        return (_decode(DEFAULT_TEXT, DEFAULT_TEXT, data),)
    texts = []
    for path in paths:
        try:
            data = path.read_bytes()
        except OSError as problem:
            raise QexportError(
                f"{path}: cannot be read ({problem.strerror}); name a UTF-8 text file"
            ) from problem
        texts.append(_decode(str(path), path.name, data))
    return tuple(texts)


def load_prompts(prompts: Sequence[str] = ()) -> tuple[str, ...]:
    """The recipe's prompts, or the package's own questions when there are none."""
    if prompts:
        return tuple(prompts)
    own = json.loads((resources.files("exporter") / "data" / "prompts.json").read_text("utf-8"))
    return tuple(str(prompt) for prompt in own)


def _decode(place: str, name: str, data: bytes) -> Text:
    """Bytes -> Text, or an error that names the file and the byte."""
    if not data:
        raise QexportError(f"{place}: 0 bytes; give a file with at least a few hundred words of running text")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        at = problem.start
        line = data.count(b"\n", 0, at) + 1
        raise QexportError(
            f"{place}: not UTF-8 at byte {at} (0x{data[at]:02x}, line {line}); save the file as UTF-8"
        ) from problem
    if not text.strip():
        raise QexportError(
            f"{place}: {len(data)} bytes of nothing but white space; give a file of running text"
        )
    return Text(name, text, hashlib.sha256(data).hexdigest())


def windows(token_ids: Sequence[int], length: int, bos: int | None = None, name: str = "text") -> Windows:
    """Cut (n,) tokens into windows of `length` tokens that do not overlap, each led by `bos`.

    The second half of each window is scored. The rest that fills no window is dropped; text too
    short for a single window gives one shorter window, and a note. Raises QexportError where not
    even one position could be scored, ValueError for a length under 4.
    """
    if length < 4:
        raise ValueError(f"a window of {length} tokens is too short; 4 is the least")
    lead = () if bos is None else (bos,)
    body = length - len(lead)
    tokens = tuple(int(token) for token in token_ids)
    notes: tuple[str, ...] = ()
    if len(tokens) < body:
        if len(tokens) + len(lead) < 2:
            raise QexportError(f"{name}: {len(tokens)} tokens leave nothing to predict; give a longer text")
        shorter = len(tokens) + len(lead)
        notes = (f"{name}: {len(tokens)} tokens fill no window of {length}; one window of {shorter} is used",)
        body = len(tokens)
    parts = [(*lead, *tokens[start : start + body]) for start in range(0, len(tokens) - body + 1, body)]
    # a short window's first row may be the only one: len 2 -> row 0
    return Windows(tuple(Window(part, (len(part) - 1) // 2) for part in parts), notes)


def text_windows(texts: Sequence[Text], tokenise: Tokenise, length: int, bos: int | None = None) -> Windows:
    """Windows over all texts; none spans two of them."""
    cut = [windows(tokenise(text.text), length, bos, text.name) for text in texts]
    return Windows(
        tuple(window for part in cut for window in part.windows),
        tuple(note for part in cut for note in part.notes),
    )
