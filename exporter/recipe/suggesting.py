"""A pattern that matches nothing -> the segment that fails, and a pattern that the writer may have meant."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from exporter.recipe.folding import fold_names, fold_words
from exporter.recipe.patterns import Pattern, PatternError, parse_pattern

_SIMPLE_BRACES = re.compile(r"([^{}]*)\{([^{}]*)\}([^{}]*)")
_ROUNDS = 4  # misspelt segments mended in one pattern


@dataclass(frozen=True)
class Suggestion:
    """Why a pattern matches nothing, in words, and the pattern that would."""

    reason: str
    pattern: str | None

    def __str__(self) -> str:
        return self.reason + (f"; did you mean '{self.pattern}'?" if self.pattern else "")


def suggest(pattern: Pattern, names: Sequence[str]) -> Suggestion:
    """Look for the first segment that no layer has, and mend it with the nearest that there is."""
    at = _matched_segments(pattern, names)
    prefix = ".".join(pattern.segments[:at])
    if at == len(pattern.segments):
        reason = f"'{pattern.text}' holds layers but is none"
        return Suggestion(reason, _if_matches(f"{pattern.text}.**", names))
    there = _next_segments(prefix, names)
    where = f" after '{prefix}'" if prefix else " at the start"
    reason = f"no layer has '{pattern.segments[at]}'{where}"
    mended = _mended(pattern, names)
    if mended is None and len(there) <= 40:
        reason += f", where the model has {', '.join(fold_names(sorted(there, key=_numbers_in_order)))}"
    return Suggestion(reason, mended)


def _mended(pattern: Pattern, names: Sequence[str]) -> str | None:
    """The nearest pattern that matches a layer, or None."""
    text = pattern.text
    simple = [f"*{text}"] if text.startswith("*.") else []  # * was meant as **
    simple += [f"**.{text}"] if not text.startswith("**") else []  # the path's beginning is missing
    if len(pattern.segments) > 1:
        simple.append(".".join(pattern.segments[:-1]))  # ends in .weight
    for _ in range(_ROUNDS):
        at = _matched_segments(pattern, names)
        if at == len(pattern.segments):
            break
        near = _nearest(pattern.segments[at], _next_segments(".".join(pattern.segments[:at]), names))
        if near is None:
            break
        segments = (*pattern.segments[:at], near, *pattern.segments[at + 1 :])
        pattern = parse_pattern(".".join(segments))
        if any(map(pattern.matches, names)):
            return pattern.text
    return next(filter(None, (_if_matches(candidate, names) for candidate in simple)), None)


def _if_matches(text: str, names: Sequence[str]) -> str | None:
    try:
        pattern = parse_pattern(text)
    except PatternError:
        return None
    return text if any(map(pattern.matches, names)) else None


def _matched_segments(pattern: Pattern, names: Sequence[str]) -> int:
    """How many leading segments of the pattern some layer's path begins with."""
    for count in range(1, len(pattern.segments) + 1):
        if not any(map(parse_pattern(".".join((*pattern.segments[:count], "**"))).matches, names)):
            return count - 1
    return len(pattern.segments)


def _next_segments(prefix: str, names: Sequence[str]) -> dict[str, None]:
    """Segments that follow a matching prefix in some layer's path, in the model's order."""
    pattern = parse_pattern(prefix) if prefix else None
    found: dict[str, None] = {}
    for name in names:
        segments = name.split(".")
        for at, segment in enumerate(segments):
            if pattern.matches(".".join(segments[:at])) if pattern else at == 0:
                found[segment] = None
    return found


def _nearest(segment: str, there: dict[str, None]) -> str | None:
    """The segment mended, `{a,b}` choice by choice; numbers are never guessed."""
    choices = [segment]
    if "{" in segment:
        braces = _SIMPLE_BRACES.fullmatch(segment)
        if not braces:
            return None
        choices = [braces[1] + choice + braces[3] for choice in braces[2].split(",")]
    words = [word for word in there if not word.isdigit()]
    found = [near for choice in choices for near in get_close_matches(choice, words, n=1, cutoff=0.6)]
    return fold_words(list(dict.fromkeys(found))) if found else None


def _numbers_in_order(segment: str) -> tuple[int, str]:
    return (int(segment), "") if segment.isdigit() else (-1, segment)
