"""YAML text -> nodes that know their place. Strict: no aliases, no tags, no duplicate keys.

PyYAML's event stream is used (libyaml where it is built in) and not its constructors: places are kept,
nothing is built from tags, an alias bomb is refused at its first alias, and plain scalars follow YAML 1.2's
core rules (`1e-3` is a number, `on` is text), which is what people expect of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import yaml

from exporter.errors import Place, RecipeError

MAX_BYTES = 1 << 20
MAX_DEPTH = 12  # the format needs five

Problems: TypeAlias = list[tuple[Place, str]]

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, bool | float | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}


@dataclass(frozen=True)
class ScalarNode:
    """A single value."""

    value: str | int | float | bool | None
    place: Place
    text_column: int | None = None  # column of the first character, where the text stands as it is written

    def place_of(self, offset: int) -> Place:
        """Place of a character of the text, or of the whole value where escapes or folding hide it."""
        if self.text_column is None:
            return self.place
        return Place(self.place.path, self.place.line, self.text_column + offset)


@dataclass(frozen=True)
class ListNode:
    """A sequence."""

    items: tuple[Node, ...]
    place: Place


@dataclass(frozen=True)
class Entry:
    """One `key: value`."""

    place: Place  # of the key
    node: Node


@dataclass(frozen=True)
class MapNode:
    """A mapping, keys in the order of the file."""

    entries: dict[str, Entry]
    place: Place


Node: TypeAlias = ScalarNode | ListNode | MapNode


def plain(node: Node) -> Any:
    """The same without places: dicts, lists and values."""
    if isinstance(node, MapNode):
        return {key: plain(entry.node) for key, entry in node.entries.items()}
    return [plain(item) for item in node.items] if isinstance(node, ListNode) else node.value


def describe(node: Node) -> str:
    """`text 'w4'`, `number 3`, `a list`: the value as a message shows it."""
    if isinstance(node, ListNode):
        return "a list"
    if isinstance(node, MapNode):
        return "a mapping"
    if node.value is None:
        return "empty"
    if isinstance(node.value, bool):
        return "true" if node.value else "false"
    if isinstance(node.value, str):
        return f"text {clipped(node.value)!r}"
    return f"number {node.value!r}"


def clipped(text: str, most: int = 60) -> str:
    """Long text cut for a message."""
    return text if len(text) <= most else text[:most] + "…"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'group'?`, or nothing."""
    near = get_close_matches(clipped(word), list(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def read_bytes(path: Path) -> bytes:
    """The file's bytes. RecipeError for a missing file, a folder, or more than MAX_BYTES."""
    try:
        if path.is_dir():
            raise _whole(path, "this is a folder, not a recipe file")
        if not path.exists():
            beside = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
            there = f"; beside it: {', '.join(beside[:8])}" if beside else ""
            raise _whole(path, f"there is no such file{there}{did_you_mean(path.name, beside)}")
        if not path.is_file():
            raise _whole(path, "this is not a regular file")
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise _whole(path, f"cannot be read: {error.strerror or error}") from error
    if len(content) > MAX_BYTES:
        raise _whole(path, f"the file has {path.stat().st_size:,} bytes; a recipe has at most {MAX_BYTES:,}")
    return content


def decode(content: bytes, path: Path) -> str:
    """UTF-8 text, a byte order mark dropped. RecipeError that names the first wrong byte."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        byte = content[error.start]
        raise RecipeError(
            [
                (
                    Place(path, line, column),
                    f"not UTF-8: byte 0x{byte:02x} at offset {error.start}; save the file as UTF-8",
                )
            ]
        ) from error


def parse(text: str, path: Path, problems: Problems) -> Node:
    """The document's root node.

    Duplicate keys go to `problems`; what leaves no tree to go on with raises RecipeError (which then
    carries `problems` too).
    """
    composer = _Composer(path, problems)
    try:
        for event in yaml.parse(text, Loader=_Loader):
            composer.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(path, mark.line + 1, mark.column + 1) if mark else Place(path, 1, 1)
        context = f" {error.context}" if error.context else ""
        composer.fatal(place, f"not YAML: {error.problem or 'unreadable'}{context}")
    except yaml.reader.ReaderError as error:
        line, column = _position(text, error.position)
        character = error.character if isinstance(error.character, int) else ord(error.character[:1] or "\0")
        composer.fatal(Place(path, line, column), f"character U+{character:04X} is not allowed in YAML")
    if composer.root is None:
        raise _whole(path, "the file holds no recipe (it is empty, or only comments)")
    return composer.root


def _position(text: str, offset: int) -> tuple[int, int]:
    """Line and column, from 1, of a character offset."""
    before = text[:offset]
    return before.count("\n") + 1, offset - before.rfind("\n")


def _whole(path: Path, text: str) -> RecipeError:
    return RecipeError([(Place(path, 0, 0), text)])


class _Mark(Protocol):
    """PyYAML's position, of either of its parsers; counts from 0."""

    line: int
    column: int


@dataclass
class _Open:
    """A collection under construction."""

    place: Place
    items: list[Node] = field(default_factory=list)
    entries: dict[str, Entry] | None = None  # None: a list
    key: tuple[str, Place] | None = None


class _Composer:
    """Builds the tree from events, without recursion."""

    def __init__(self, path: Path, problems: Problems) -> None:
        self.path = path
        self.problems = problems
        self.root: Node | None = None
        self.stack: list[_Open] = []
        self.documents = 0

    def fatal(self, place: Place, text: str) -> None:
        raise RecipeError([*self.problems, (place, text)])

    def place(self, mark: _Mark | None) -> Place:
        return Place(self.path, mark.line + 1, mark.column + 1) if mark else Place(self.path, 0, 0)

    def take(self, event: yaml.Event) -> None:
        place = self.place(event.start_mark)
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                self.fatal(place, "a second YAML document begins here; a recipe is one document")
            return
        if isinstance(event, yaml.AliasEvent):
            self.fatal(place, f"alias '*{event.anchor}': aliases are not part of a recipe; repeat the value")
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            if event.anchor is not None:
                self.fatal(place, f"anchor '&{event.anchor}': anchors are not part of a recipe")
            if event.tag is not None:
                self.fatal(place, f"tag '{clipped(event.tag)}': tags are not part of a recipe")
        if isinstance(event, yaml.CollectionStartEvent):
            if len(self.stack) >= MAX_DEPTH:
                self.fatal(place, f"nested deeper than {MAX_DEPTH} levels")
            if self.stack and self.stack[-1].entries is not None and self.stack[-1].key is None:
                self.fatal(place, "a key must be a word, not a list or a mapping")
            mapping = isinstance(event, yaml.MappingStartEvent)
            self.stack.append(_Open(place, entries={} if mapping else None))
        elif isinstance(event, yaml.CollectionEndEvent):
            done = self.stack.pop()
            if done.entries is None:
                self.add(ListNode(tuple(done.items), done.place))
            else:
                self.add(MapNode(done.entries, done.place))
        elif isinstance(event, yaml.ScalarEvent):
            self.scalar(event, place)

    def scalar(self, event: yaml.ScalarEvent, place: Place) -> None:
        open_map = self.stack[-1] if self.stack and self.stack[-1].entries is not None else None
        if open_map is not None and open_map.key is None:
            open_map.key = (event.value, place)
            return
        quotes = 1 if event.style in ("'", '"') else 0
        end = self.place(event.end_mark)
        verbatim = (
            event.style in (None, "", "'", '"')
            and place.line == end.line
            and end.column - place.column == len(event.value) + 2 * quotes
        )
        value = event.value if event.style else _resolved(event.value)
        self.add(ScalarNode(value, place, place.column + quotes if verbatim else None))

    def add(self, node: Node) -> None:
        if not self.stack:
            self.root = node if self.root is None else self.root
            return
        parent = self.stack[-1]
        if parent.entries is None:
            parent.items.append(node)
            return
        assert parent.key is not None  # scalar() and take() see to it
        (key, place), parent.key = parent.key, None
        if key in parent.entries:
            first = parent.entries[key].place.line
            self.problems.append(
                (place, f"duplicate key '{clipped(key)}'; it is first given in line {first}")
            )
        else:
            parent.entries[key] = Entry(place, node)


def _resolved(text: str) -> str | int | float | bool | None:
    """A plain scalar by YAML 1.2's core rules, octal and hexadecimal left as text."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if len(text) <= 64 and _NUMBER.fullmatch(text):
        return float(text)
    return text
