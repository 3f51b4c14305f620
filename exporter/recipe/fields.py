"""The parts a recipe's format is put together from.

Each part reads a node and describes itself as JSON Schema, so that reader and schema cannot drift apart.

`read` gives the value, or puts each problem it finds into `problems` and raises Invalid; containers go on
with their other children, so that one run shows every mistake.
"""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from exporter.errors import Place
from exporter.folders import data_path, fetch_hint
from exporter.recipe.document import (
    ListNode,
    MapNode,
    Node,
    Problems,
    ScalarNode,
    clipped,
    describe,
    did_you_mean,
)
from exporter.recipe.patterns import Pattern as PathPattern
from exporter.recipe.patterns import PatternError, parse_pattern

JsonSchema = dict[str, Any]
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Invalid(Exception):
    """Raised by `read` after it has recorded why."""


class Part(Protocol[T_co]):
    """A value of the format."""

    def read(self, node: Node, where: str, problems: Problems) -> T_co:
        """The value; `where` is the path of keys for messages, e.g. schemes.w4.group."""

    def json_schema(self) -> JsonSchema:
        """The same rules for an editor."""


def refuse(problems: Problems, place: Place, text: str) -> Invalid:
    """Record a problem; the caller raises what this returns."""
    problems.append((place, text))
    return Invalid()


@dataclass(frozen=True)
class Choice:
    """One of a few words or numbers."""

    values: tuple[str | int, ...]

    def read(self, node: Node, where: str, problems: Problems) -> str | int:
        """See Part.read."""
        value = node.value if isinstance(node, ScalarNode) else None
        for allowed in self.values:
            if type(value) is type(allowed) and value == allowed:  # not True for 1
                return allowed
        near = did_you_mean(value, [str(v) for v in self.values]) if isinstance(value, str) else ""
        allowed_text = ", ".join(map(str, self.values))
        raise refuse(problems, node.place, f"{where} is {describe(node)}; allowed: {allowed_text}{near}")

    def json_schema(self) -> JsonSchema:
        """See Part.json_schema."""
        return {"enum": list(self.values)}


@dataclass(frozen=True)
class Text:
    """Non-empty text, optionally of a form."""

    form: str = ""  # regular expression
    expected: str = "text"

    def read(self, node: Node, where: str, problems: Problems) -> str:
        """See Part.read."""
        value = node.value if isinstance(node, ScalarNode) else None
        if isinstance(value, str) and value.strip() and re.fullmatch(self.form or r"(?s:.*)", value):
            return value
        quotes = ""
        if isinstance(value, int | float) and not isinstance(value, bool):
            quotes = "; put it in quotes" if re.fullmatch(self.form or r"(?s:.*)", str(value)) else ""
        raise refuse(problems, node.place, f"{where} is {describe(node)}; expected {self.expected}{quotes}")

    def json_schema(self) -> JsonSchema:
        """See Part.json_schema."""
        return {"type": "string", "pattern": f"^{self.form}$" if self.form else r"\S"}


@dataclass(frozen=True)
class Boolean:
    """true or false."""

    def read(self, node: Node, where: str, problems: Problems) -> bool:
        """See Part.read."""
        if isinstance(node, ScalarNode) and isinstance(node.value, bool):
            return node.value
        raise refuse(problems, node.place, f"{where} is {describe(node)}; expected true or false")

    def json_schema(self) -> JsonSchema:
        """See Part.json_schema."""
        return {"type": "boolean"}


@dataclass(frozen=True)
class Integer:
    """A whole number between two limits, both included."""

    minimum: int
    maximum: int

    def read(self, node: Node, where: str, problems: Problems) -> int:
        """See Part.read."""
        value = node.value if isinstance(node, ScalarNode) else None
        if isinstance(value, int) and not isinstance(value, bool) and self.minimum <= value <= self.maximum:
            return value
        limits = f"a whole number from {self.minimum} to {self.maximum}"
        raise refuse(problems, node.place, f"{where} is {describe(node)}; expected {limits}")

    def json_schema(self) -> JsonSchema:
        """See Part.json_schema."""
        return {"type": "integer", "minimum": self.minimum, "maximum": self.maximum}


@dataclass(frozen=True)
class Number:
    """A finite number between two limits, both included."""

    minimum: float
    maximum: float

    def read(self, node: Node, where: str, problems: Problems) -> float:
        """See Part.read."""
        value = node.value if isinstance(node, ScalarNode) else None
        number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
        if math.isfinite(number) and self.minimum <= number <= self.maximum:
            return float(number)
        limits = f"a number from {self.minimum:g} to {self.maximum:g}"
        raise refuse(problems, node.place, f"{where} is {describe(node)}; expected {limits}")

    def json_schema(self) -> JsonSchema:
        """See Part.json_schema."""
        return {"type": "number", "minimum": self.minimum, "maximum": self.maximum}


@dataclass(frozen=True)
class Located(Generic[T]):
    """A value together with its place, for checks that come later."""

    part: Part[T]

    def read(self, node: Node, where: str, problems: Problems) -> tuple[T, Place]:
        """See Part.read."""
        return self.part.read(node, where, problems), node.place

    def json_schema(self) -> JsonSchema:
        """See Part.json_schema."""
        return self.part.json_schema()


@dataclass(frozen=True)
class ModulePattern:
    """A pattern over module paths."""

    def read(self, node: Node, where: str, problems: Problems) -> PathPattern:
        """See Part.read."""
        text = Text(expected="a pattern over module paths").read(node, where, problems)
        try:
            return parse_pattern(text)
        except PatternError as error:
            place = node.place_of(error.offset) if isinstance(node, ScalarNode) else node.place
            at = f"at character {error.offset + 1}"
            raise refuse(problems, place, f"{where} '{clipped(text)}': {error} ({at})") from None

    def json_schema(self) -> JsonSchema:
        """See Part.json_schema."""
        return {"type": "string", "pattern": r"^[^\s]+$"}


@dataclass(frozen=True)
class TextFile:
    """A text file, relative to the recipe's folder or `data:NAME/FILE`, that exists and holds something."""

    def read(self, node: Node, where: str, problems: Problems) -> Path:
        """See Part.read."""
        name = Text(expected="the path of a text file").read(node, where, problems)
        path = data_path(name, node.place.path.parent)
        try:
            if not path.is_file():
                raise refuse(problems, node.place, f"{where}: there is no file {path}{fetch_hint(path)}")
            if not _beginning(path).strip():
                raise refuse(problems, node.place, f"{where}: the file {path} is empty; it must hold text")
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name, or not UTF-8
            raise refuse(problems, node.place, f"{where}: {path} cannot be read as text: {error}") from None
        return path

    def json_schema(self) -> JsonSchema:
        """See Part.json_schema."""
        return {"type": "string", "pattern": r"\S"}


def _beginning(path: Path, most: int = 1 << 20) -> str:
    """Up to `most` bytes as text: enough to see whether there is any."""
    with path.open("rb") as stream:
        content = stream.read(most)
    whole = len(content) < most  # else the last character may be cut
    return codecs.getincrementaldecoder("utf-8")().decode(content, final=whole)


@dataclass(frozen=True)
class ListOf(Generic[T]):
    """A list with at least `minimum` items. `check` sees the items that were valid."""

    item: Part[T]
    minimum: int = 1
    maximum: int | None = None
    check: Callable[[list[T], str, Problems], None] | None = None

    def read(self, node: Node, where: str, problems: Problems) -> tuple[T, ...]:
        """See Part.read."""
        if not isinstance(node, ListNode):
            raise refuse(problems, node.place, f"{where} is {describe(node)}; expected a list")
        if len(node.items) < self.minimum or len(node.items) > (self.maximum or len(node.items)):
            limit = (
                f"at least {self.minimum}" if len(node.items) < self.minimum else f"at most {self.maximum}"
            )
            raise refuse(problems, node.place, f"{where} has {len(node.items)} entries; expected {limit}")
        found: list[T] = []
        before = len(problems)
        for index, item in enumerate(node.items):
            with suppress(Invalid):
                found.append(self.item.read(item, f"{where}[{index}]", problems))
        if self.check:
            self.check(found, where, problems)
        if len(problems) > before:
            raise Invalid
        return tuple(found)

    def json_schema(self) -> JsonSchema:
        """See Part.json_schema."""
        limits = {"maxItems": self.maximum} if self.maximum else {}
        return {"type": "array", "items": self.item.json_schema(), "minItems": self.minimum, **limits}


@dataclass(frozen=True)
class OneOrMore(Generic[T]):
    """One entry, or a list of them."""

    item: Part[T]

    def read(self, node: Node, where: str, problems: Problems) -> tuple[T, ...]:
        """See Part.read."""
        if isinstance(node, ListNode):
            return ListOf(self.item).read(node, where, problems)
        return (self.item.read(node, where, problems),)

    def json_schema(self) -> JsonSchema:
        """See Part.json_schema."""
        return {"anyOf": [self.item.json_schema(), ListOf(self.item).json_schema()]}


@dataclass(frozen=True)
class MapOf(Generic[T]):
    """Names of the user's own choice -> values of one kind."""

    value: Part[T]
    form: str  # regular expression of a name
    expected: str
    reserved: tuple[str, ...] = ()

    def read(self, node: Node, where: str, problems: Problems) -> dict[str, T]:
        """See Part.read."""
        if not isinstance(node, MapNode):
            raise refuse(problems, node.place, f"{where} is {describe(node)}; expected a mapping")
        found: dict[str, T] = {}
        before = len(problems)
        for name, entry in node.entries.items():
            if not re.fullmatch(self.form, name):
                problems.append((entry.place, f"{where}: name '{clipped(name)}'; expected {self.expected}"))
            elif name in self.reserved:
                problems.append((entry.place, f"{where}: the name '{name}' is taken by the format itself"))
            with suppress(Invalid):
                found[name] = self.value.read(entry.node, f"{where}.{clipped(name)}", problems)
        if len(problems) > before:
            raise Invalid
        return found

    def json_schema(self) -> JsonSchema:
        """See Part.json_schema."""
        names: JsonSchema = {"pattern": f"^{self.form}$"}
        if self.reserved:
            names["not"] = {"enum": list(self.reserved)}
        return {"type": "object", "propertyNames": names, "additionalProperties": self.value.json_schema()}


@dataclass(frozen=True)
class Field:
    """A key of a record."""

    part: Part[object]
    description: str
    required: bool = False
    default: object = None  # for the schema only; the value itself lives in the dataclass

    def json_schema(self) -> JsonSchema:
        """See Part.json_schema."""
        default = {} if self.default is None else {"default": self.default}
        return {**self.part.json_schema(), "description": self.description, **default}


@dataclass(frozen=True)
class Record(Generic[T]):
    """Fixed keys -> build(node, **values), which may raise ValueError for values that do not fit together."""

    build: Callable[..., T]
    fields: Mapping[str, Field]
    more_schema: JsonSchema = field(default_factory=dict)

    def read(self, node: Node, where: str, problems: Problems) -> T:
        """See Part.read."""
        if not isinstance(node, MapNode):
            keys = ", ".join(self.fields)
            raise refuse(problems, node.place, f"{where} is {describe(node)}; expected a mapping with {keys}")
        before = len(problems)
        unknown_keys(node, self.fields, where, problems)
        values: dict[str, object] = {}
        for key, entry_field in self.fields.items():
            entry = node.entries.get(key)
            if entry is None:
                if entry_field.required:
                    problems.append(
                        (node.place, f"missing key '{key}' in {where}: {entry_field.description}")
                    )
                continue
            with suppress(Invalid):
                values[key] = entry_field.part.read(entry.node, _join(where, key), problems)
        if len(problems) > before:
            raise Invalid
        try:
            return self.build(node, **values)
        except ValueError as error:
            raise refuse(problems, node.place, f"{where}: {error}") from None

    def json_schema(self) -> JsonSchema:
        """See Part.json_schema."""
        schema: JsonSchema = {
            "type": "object",
            "additionalProperties": False,
            "properties": {key: f.json_schema() for key, f in self.fields.items()},
        }
        if required := [key for key, f in self.fields.items() if f.required]:
            schema["required"] = required
        return {**schema, **self.more_schema}


@dataclass(frozen=True)
class Tagged(Generic[T]):
    """A record whose keys depend on the word under `tag`."""

    tag: str
    records: Mapping[str, Record[T]]

    def read(self, node: Node, where: str, problems: Problems) -> T:
        """See Part.read."""
        if not isinstance(node, MapNode):
            raise refuse(problems, node.place, f"{where} is {describe(node)}; expected a mapping")
        if self.tag not in node.entries:
            known = ", ".join(self.records)
            raise refuse(problems, node.place, f"missing key '{self.tag}' in {where}: one of {known}")
        words = Choice(tuple(self.records))
        word = words.read(node.entries[self.tag].node, f"{where}.{self.tag}", problems)
        return self.records[str(word)].read(node, where, problems)

    def json_schema(self) -> JsonSchema:
        """See Part.json_schema."""
        return {"oneOf": [record.json_schema() for record in self.records.values()]}


def unknown_keys(node: MapNode, known: Iterable[str], where: str, problems: Problems) -> None:
    """Record each key that is not of the format."""
    known = tuple(known)
    for key, entry in node.entries.items():
        if key not in known:
            allowed = ", ".join(known)
            text = f"unknown key '{clipped(key)}' in {where}; allowed: {allowed}{did_you_mean(key, known)}"
            problems.append((entry.place, text))


def _join(where: str, key: str) -> str:
    return key if where == "the recipe" else f"{where}.{key}"
