"""Examples as token ids, which the float model and every runtime read alike."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from exporter.errors import QexportError
from exporter.evaluate import Window
from exporter.folders import data_folder
from exporter.samples.text import jsonl_rows
from exporter.verify.material import begin_token

Drawn = TypeVar("Drawn")


@dataclass(frozen=True)
class Continued:
    """A text behind another one, whose likelihood is asked for."""

    window: Window
    text: str  # what is scored, with the white space that its context ended in

    @property
    def bytes(self) -> int:
        """Of the scored text, UTF-8."""
        return len(self.text.encode())


def continued(tokenizer: Any, context: str, text: str) -> Continued:
    """`text` behind `context`, tokenised together as a model would write it, as lm-evaluation-harness does: the
    context's trailing white space counts to the text, since tokens begin with it; the text's tokens are those behind
    as many as the context alone has. ValueError where that leaves none of either.
    """
    own = context.rstrip()
    text, context = context[len(own) :] + text, own
    begin = begin_token(tokenizer)
    lead = [] if begin is None else [begin]
    before = [*lead, *tokenizer(context, add_special_tokens=False).input_ids]
    whole = [*lead, *tokenizer(context + text, add_special_tokens=False).input_ids]
    if not before or len(whole) <= len(before):
        raise ValueError(f"{text[:40]!r} behind {context[-40:]!r} has no token of its own to score")
    return Continued(Window(tuple(whole), len(before) - 1), text)


def rows_of(name: str, file: str, *fields: str) -> list[dict[str, Any]]:
    """The lines of data:NAME/FILE. Raises QexportError, with the command that fetches the set where it is not there."""
    found = [row.data for row in jsonl_rows(data_folder() / name / file, required=fields)]
    if not found:
        raise QexportError(f"{data_folder() / name / file}: holds no line; fetch it again")
    return found


def drawn(items: Iterable[Drawn], count: int, seed: int) -> list[Drawn]:
    """`count` of them, or all: by the sha256 of seed and content, so that another order or length of the file
    draws nearly the same ones."""

    def rank(item: Drawn) -> str:
        return hashlib.sha256(f"{seed} {json.dumps(item, sort_keys=True)}".encode()).hexdigest()

    return sorted(items, key=rank)[:count]


def fitting(
    found: Sequence[Drawn], lengths: Sequence[int], context: int, what: str, notes: list[str]
) -> list[Drawn]:
    """Those of at most `context` tokens; a note on the others. Raises QexportError where none is left."""
    kept = [item for item, length in zip(found, lengths, strict=True) if length <= context]
    if not kept:
        raise QexportError(
            f"{what}: none of {len(found)} fits the artifact's context of {context} tokens, the shortest has "
            f"{min(lengths, default=0)}; export with a larger max_context, or leave the suite out"
        )
    if len(kept) < len(found):
        notes.append(
            f"{what}: {len(found) - len(kept)} of {len(found)} left out, longer than the context of {context} tokens"
        )
    return kept


def field_text(row: Mapping[str, Any], name: str) -> str:
    """A field that must be text."""
    value = row[name]
    if not isinstance(value, str):
        raise QexportError(f"data: field {name!r} is {value!r}; it must be text; fetch the set again")
    return value
