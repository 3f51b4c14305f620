"""Which articles of data:wikipedia are for what: the one place that divides them.

By the first byte of the sha256 of an article's text, so that neither its place in a file nor a later version of the
file moves it: 70 % for calibration, 15 % for development, 15 % for the test. The test's share is read by
scripts/quality.py and `qexport evaluate` only, so that no figure of theirs rests on a text that decided a recipe.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from exporter.folders import data_folder
from exporter.recipe import Share
from exporter.samples.text import jsonl_rows

LANGUAGES = ("de", "en", "es", "fr", "it", "nl", "pl", "pt", "ru")
SHARES: dict[Share, range] = {
    "calibration": range(179),
    "development": range(179, 217),
    "test": range(217, 256),
}  # of a hash's first byte


def share_of(text: str) -> Share:
    """The one share that an article belongs to."""
    first = hashlib.sha256(text.encode()).digest()[0]
    return next(share for share, bytes_ in SHARES.items() if first in bytes_)


def articles(language: str, share: Share) -> Iterator[str]:
    """Texts of one language and share, in the file's order. Raises QexportError where the set is not fetched."""
    for row in jsonl_rows(data_folder() / "wikipedia" / f"{language}.jsonl", required=("text",)):
        text: str = row.data["text"]
        if share_of(text) == share:
            yield text
