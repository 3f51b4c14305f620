"""Many module paths -> a few patterns that stand for exactly those, for messages and tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod


def fold_numbers(numbers: Iterable[int]) -> str:
    """{0, 1, 2, 3, 9} -> `{0..3,9}`; a single number stays bare."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    parts = [str(a) if a == b else f"{a},{b}" if b == a + 1 else f"{a}..{b}" for a, b in runs]
    text = ",".join(parts)
    return f"{{{text}}}" if "," in text or ".." in text else text


def fold_words(words: Sequence[str]) -> str:
    """q_proj, k_proj -> `{q,k}_proj`; a single word stays bare."""
    if len(words) == 1:
        return words[0]
    end = _common_end(words)
    return "{" + ",".join(word[: len(word) - len(end)] for word in words) + "}" + end


def _common_end(words: Sequence[str]) -> str:
    """Longest common end that begins with '_' and leaves each word something."""
    first = words[0]
    for cut in (i for i, char in enumerate(first) if char == "_" and i > 0):
        end = first[cut:]
        if all(word.endswith(end) and len(word) > len(end) for word in words):
            return end
    return ""


def fold_names(names: Iterable[str]) -> list[str]:
    """Patterns that together match exactly `names` (no other paths), in order of first appearance.

    Numbers fold into ranges where the numbers form a full grid, last segments into braces:
    model.layers.0.mlp.up_proj, … -> `model.layers.{0..29}.mlp.{gate,up,down}_proj`.
    """
    numbers: dict[tuple[str, ...], dict[tuple[int, ...], None]] = {}
    for name in dict.fromkeys(names):
        segments = name.split(".")
        template = tuple("#" if _is_number(s) else s for s in segments)
        numbers.setdefault(template, {})[tuple(int(s) for s in segments if _is_number(s))] = None
    leaves: dict[tuple[str, ...], list[str]] = {}
    for template, found in numbers.items():
        for filled in _grids(template, list(found)):
            leaves.setdefault(filled[:-1], []).append(filled[-1])
    folded = []
    for parent, words in leaves.items():
        braced = [word for word in words if "{" in word]
        plain = [word for word in words if "{" not in word]
        for leaf in [*braced, *([fold_words(plain)] if plain else [])]:
            folded.append(".".join((*parent, leaf)))
    return folded


def _grids(template: tuple[str, ...], found: list[tuple[int, ...]]) -> list[tuple[str, ...]]:
    """Fill the `#` of a template: once where the numbers form a full grid, else once per leading numbers."""
    axes = [sorted(set(axis)) for axis in zip(*found, strict=True)]
    if prod(map(len, axes)) == len(found):
        fillings = [tuple(fold_numbers(axis) for axis in axes)]
    else:
        last_axis: dict[tuple[int, ...], list[int]] = {}
        for numbers in found:
            last_axis.setdefault(numbers[:-1], []).append(numbers[-1])
        fillings = [(*map(str, leading), fold_numbers(last)) for leading, last in last_axis.items()]
    results = []
    for filling in fillings:
        remaining = iter(filling)
        results.append(tuple(next(remaining) if segment == "#" else segment for segment in template))
    return results


def _is_number(segment: str) -> bool:
    """A plain decimal that int() gives back unchanged ('07' is a word)."""
    return len(segment) < 7 and segment.isascii() and segment.isdigit() and str(int(segment)) == segment


def listed(names: Iterable[str], most: int = 4) -> str:
    """`26 layers: model.layers.{2..27}.mlp.gate_proj` for a message; at most `most` patterns."""
    names = list(names)
    folded = fold_names(names)
    shown = ", ".join(folded[:most]) + (f" and {len(folded) - most} more" if len(folded) > most else "")
    return shown if len(names) == 1 else f"{len(names)} layers ({shown})"
