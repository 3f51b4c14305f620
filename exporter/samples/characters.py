"""What kinds of characters a text holds: scripts, digits, emoji, and whether it looks like code."""

from __future__ import annotations

import unicodedata
from collections import Counter
from functools import lru_cache

_EMOJI = ((0x1F300, 0x1FAFF), (0x1F1E6, 0x1F1FF), (0x2600, 0x27BF))  # pictographs, flags, older symbols
_CODE = frozenset("{}[]()<>=;_|&$#\\+*/^~@`:")
_CODE_SHARE = 0.12  # of the characters that are not white space; prose stays under 0.06, programs over 0.15
_JOINED = {
    "FULLWIDTH": "LATIN",
    "IDEOGRAPHIC": "CJK",
    "MODIFIER": "",
    "FEMININE": "",
    "MASCULINE": "",
    "MICRO": "",
}


@lru_cache(1 << 16)
def script(character: str) -> str:
    """`LATIN`, `CYRILLIC`, `CJK` …: the first word of a letter's Unicode name; nothing for other signs."""
    if not character.isalpha():
        return ""
    first = unicodedata.name(character, "UNKNOWN").split(" ", 1)[0].split("-", 1)[0]
    return _JOINED.get(first, first)


def scripts(text: str) -> Counter[str]:
    """Letters by script."""
    counts: Counter[str] = Counter()
    for character, count in Counter(text).items():
        if name := script(character):
            counts[name] += count
    return counts


def has_emoji(text: str) -> bool:
    """Whether one of its characters is a pictograph."""
    return any(low <= ord(character) <= high for character in set(text) for low, high in _EMOJI)


def looks_like_code(text: str) -> bool:
    """Whether signs that programs are full of make more of it than any prose has."""
    solid = [character for character in text if not character.isspace()]
    return bool(solid) and sum(character in _CODE for character in solid) > _CODE_SHARE * len(solid)
