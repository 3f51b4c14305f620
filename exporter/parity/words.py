"""Words of a transcript, and how many of them another transcript has wrong."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

# Written without spaces between words: characters are counted instead (a character error rate).
UNSPACED = ("zh", "ja", "th", "lo", "my", "km")


def normalised(text: str) -> str:
    """Lower case, no brackets and what stands in them, signs and punctuation as spaces.

    The basic normaliser of Radford et al. 2022 (arXiv:2212.04356, appendix C), which is meant for every
    language; numbers and spelling variants stay as they are.
    """
    text = re.sub(r"[<\[][^>\]]*[>\]]", "", text.lower())
    text = re.sub(r"\(([^)]+?)\)", "", text)
    letters = (" " if unicodedata.category(c)[0] in "MSP" else c for c in unicodedata.normalize("NFKC", text))
    return re.sub(r"\s+", " ", "".join(letters).lower()).strip()


def words(text: str, language: str | None = None) -> list[str]:
    """The normalised words; characters where the language puts no spaces between words."""
    plain = normalised(text)
    if language and language.split("-")[0].lower() in UNSPACED:
        return [character for character in plain if not character.isspace()]
    return plain.split()


def edit_distance(reference: Sequence[object], candidate: Sequence[object]) -> int:
    """Fewest insertions, deletions and exchanges from one to the other (Levenshtein)."""
    row = list(range(len(candidate) + 1))
    for i, wanted in enumerate(reference, 1):
        before, row[0] = row[0], i
        for j, found in enumerate(candidate, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (wanted != found))
    return row[-1]
