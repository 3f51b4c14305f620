"""Patterns over module paths: `*` within a segment, `**` any number of segments, `{a,b}`, `{0..29}`.

A pattern is parsed, not translated by string replacement, so that a mistake has a column, and is then
compiled to one regular expression that runs over "." + path: each segment brings its own leading dot,
which lets `**` stand for no segment at all without a special case.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

MAX_LENGTH = 500  # characters of one pattern
MAX_DEPTH = 8  # braces inside braces
MAX_EXPANSIONS = 4096  # brace-free paths that one pattern may stand for; bounds the matcher's backtracking
MAX_STARS = 8  # `*` inside one segment, for the same reason

_WORD = re.compile(r"[\w-]+")
_RANGE = re.compile(r"(\d{1,6})\.\.(\d{1,6})")
_RULES = "a pattern holds letters, digits, '_' and '-', joined by '.', and '*', '**', '{a,b}', '{0..9}'"


class PatternError(ValueError):
    """A malformed pattern; `offset` counts its characters from 0."""

    def __init__(self, offset: int, text: str) -> None:
        super().__init__(text)
        self.offset = offset


@dataclass(frozen=True)
class Alternative:
    """One choice inside braces; text[start:end] of the pattern is the whole `{…}`."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Pattern:
    """A parsed pattern. Two patterns are equal when their texts are."""

    text: str
    expression: str = field(repr=False, compare=False)  # for re.fullmatch over "." + path
    alternatives: tuple[Alternative, ...] = field(repr=False, compare=False)  # in order of capture groups
    segments: tuple[str, ...] = field(repr=False, compare=False)  # top-level segments, braces kept whole
    literal: str = field(repr=False, compare=False)  # longest text that every matching path contains

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        return re.compile(self.expression)

    def matches(self, path: str) -> bool:
        """Does the whole module path match?"""
        if self.literal == self.text:
            return path == self.text
        return self._regex.fullmatch(_dotted(path)) is not None

    def unused_alternatives(self, paths: Iterable[str]) -> Iterator[tuple[Alternative, Pattern]]:
        """Choices inside braces with which no path matches, each with the pattern cut down to it."""
        if not self.alternatives:
            return
        paths, used = list(paths), set[int]()
        for path in paths:
            if found := self._regex.fullmatch(_dotted(path)):
                used.update(i for i, group in enumerate(found.groups()) if group is not None)
        for index, alternative in enumerate(self.alternatives):
            if index in used:
                continue
            alone = self.with_only(alternative)
            if not any(alone.matches(path) for path in paths):  # an earlier choice may have taken them
                yield alternative, alone

    def with_only(self, alternative: Alternative) -> Pattern:
        """The pattern with a `{…}` replaced by one of its choices."""
        return parse_pattern(self.text[: alternative.start] + alternative.text + self.text[alternative.end :])


def parse_pattern(text: str) -> Pattern:
    """Parse; raises PatternError with the offset of the first mistake."""
    if not text:
        raise PatternError(0, f"the pattern is empty; {_RULES}")
    if len(text) > MAX_LENGTH:
        raise PatternError(MAX_LENGTH, f"the pattern has {len(text)} characters, at most {MAX_LENGTH}")
    return _Parser(text).parse()


def _dotted(path: str) -> str:
    return "." + path if path else ""


class _Parser:
    """Recursive descent. `owed` is True where the next element begins a segment, so owes its dot."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.alternatives: list[Alternative | None] = []
        self.literals: list[str] = [""]  # runs of names and dots outside braces
        self.stars = 0
        self.dots: list[int] = []  # offsets of top-level dots

    def parse(self) -> Pattern:
        expression, expansions, _ = self.sequence(owed=True, depth=0)
        if self.at < len(self.text):
            raise self.error(f"'{self.text[self.at]}' without a '{{' before it")
        if expansions > MAX_EXPANSIONS:
            raise PatternError(0, f"the pattern stands for {expansions:,} paths, at most {MAX_EXPANSIONS:,}")
        cuts = [-1, *self.dots, len(self.text)]
        return Pattern(
            self.text,
            expression,
            tuple(a for a in self.alternatives if a is not None),
            tuple(self.text[a + 1 : b] for a, b in pairwise(cuts)),
            # the dot before a trailing `**` is not in every path: `a.**` matches `a`
            max((literal.rstrip(".") for literal in self.literals), key=len),
        )

    def error(self, text: str, offset: int | None = None) -> PatternError:
        return PatternError(self.at if offset is None else offset, text)

    def sequence(self, owed: bool, depth: int) -> tuple[str, int, bool]:
        """Up to ',' or '}' or the end -> (expression, expansions, ends with `**`)."""
        out: list[str] = []
        expansions, begun, sealed = 1, False, False  # sealed: after `**` only '.' may come
        while self.at < len(self.text) and self.text[self.at] not in ",}":
            char = self.text[self.at]
            if char == ".":
                if not begun:
                    raise self.error("empty segment: a name, '*' or '**' belongs before the '.'")
                if depth == 0:
                    self.dots.append(self.at)
                    self.literals[-1] += "." if self.literals[-1] else ""
                self.at += 1
                self.stars = 0
                owed, begun, sealed = True, False, False
                continue
            if sealed:
                raise self.error("'**' stands for whole segments, so only '.' may follow it")
            dot = _dot(owed)
            if depth == 0 and char in "*{":
                self.literals.append("")
            if char == "*" and self.text.startswith("**", self.at):
                if begun or not owed:
                    raise self.error("'**' stands for whole segments, so only '.' may come before it")
                out.append(r"(?:\.[^.]+)*")
                self.at += 2
                sealed = True
            elif char == "*":
                self.stars += 1
                if self.stars > MAX_STARS:
                    raise self.error(f"more than {MAX_STARS} '*' in one segment")
                out.append(dot + "[^.]*")
                self.at += 1
            elif char == "{":
                inner, choices, sealed = self.braces(owed, depth + 1)
                out.append(inner)
                expansions *= choices
            elif word := _WORD.match(self.text, self.at):
                out.append(dot + re.escape(word.group()))
                self.at = word.end()
                if depth == 0:
                    self.literals[-1] += word.group()
            else:
                raise self.error(f"{char!r} does not belong in a pattern: {_RULES}")
            owed, begun = False, True
        if not begun:
            what = "segment after the last '.'" if out else "choice inside '{…}'" if depth else "pattern"
            raise self.error(f"empty {what}")
        return "".join(out), expansions, sealed

    def braces(self, owed: bool, depth: int) -> tuple[str, int, bool]:
        """At '{' -> (expression with one capture group per choice, expansions, may end with `**`)."""
        start = self.at
        if depth > MAX_DEPTH:
            raise self.error(f"braces are nested more than {MAX_DEPTH} deep")
        out: list[str] = []
        own: list[tuple[int, str]] = []  # slot in self.alternatives, text
        expansions, sealed = 0, False
        before = most = self.stars
        while True:
            self.stars = before  # choices stand side by side, so only the longest one counts
            self.at += 1  # over '{' or ','
            begin = self.at
            if numbers := self.number_range():
                for number in numbers:
                    own.append((len(self.alternatives), number))
                    self.alternatives.append(None)
                    out.append(f"({_dot(owed)}{number})")
                expansions += len(numbers)
            else:
                slot = len(self.alternatives)
                self.alternatives.append(None)  # numbered as regular expressions number groups
                inner, choices, ends = self.sequence(owed, depth)
                own.append((slot, self.text[begin : self.at]))
                out.append(f"({inner})")
                expansions, sealed = expansions + choices, sealed or ends
            most = max(most, self.stars)
            if self.at >= len(self.text):
                raise self.error("'{' is never closed; a '}' is missing", start)
            if self.text[self.at] == "}":
                break
        self.at += 1
        self.stars = most
        for slot, text in own:
            self.alternatives[slot] = Alternative(text, start, self.at)
        return f"(?:{'|'.join(out)})", expansions, sealed

    def number_range(self) -> list[str]:
        """`0..29` at this place, up to ',' or '}', as its numbers; else nothing."""
        found = _RANGE.match(self.text, self.at)
        if not found or self.text[found.end() : found.end() + 1] not in ("", ",", "}"):
            return []
        first, last = int(found[1]), int(found[2])
        if first > last:
            raise self.error(f"the range {found.group()} runs backwards")
        if last - first >= MAX_EXPANSIONS:
            raise self.error(f"the range {found.group()} is longer than {MAX_EXPANSIONS:,}")
        self.at = found.end()
        return [str(n) for n in range(first, last + 1)]


def _dot(owed: bool) -> str:
    return r"\." if owed else ""
