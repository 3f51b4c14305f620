"""What a drawn sample covers, and what it cannot: a table, and warnings with the number that is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from exporter.samples.audio import Clip
from exporter.samples.characters import has_emoji, looks_like_code, scripts
from exporter.samples.drawing import Drawn
from exporter.samples.files import Medium, Sample
from exporter.samples.images import Pixels

Unit = Literal["tokens", "characters", "seconds", "pixels"]
RARE = 0.01  # a script with a smaller share of the letters is rare in the sample


@dataclass(frozen=True)
class CoverageRow:
    """One language, one topic, or all samples."""

    kind: Literal["all", "language", "topic"]
    name: str | None  # None: of all, or of those that name none
    samples: int
    declared: float | None  # share of the samples that the recipe asks for
    total: float  # of the unit: tokens, seconds
    lengths: tuple[float, float, float, float]  # 5th, 50th, 95th percentile and largest, in the unit
    scripts: Mapping[str, int]  # letters by script; text only, as is everything below
    outside_ascii: float  # share of the characters
    emoji: int  # samples with one
    digits: int  # samples with one
    code: int  # samples that look like it

    @property
    def rare_scripts(self) -> tuple[str, ...]:
        """Scripts that are there, with less than RARE of the letters."""
        letters = sum(self.scripts.values())
        return tuple(sorted(name for name, count in self.scripts.items() if count < RARE * letters))


@dataclass(frozen=True)
class Coverage:
    """The table, and everything that a person should know before trusting what was measured on the sample."""

    medium: Medium
    unit: Unit
    rows: tuple[CoverageRow, ...]  # all first, then languages, then topics
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def samples(self) -> int:
        """How many there are."""
        return self.rows[0].samples

    def to_json(self) -> dict[str, Any]:
        """Plain data for json.dumps."""
        data = asdict(self)
        data["rows"] = [{**row, "lengths": list(row["lengths"])} for row in data["rows"]]
        return {**data, "notes": list(self.notes), "warnings": list(self.warnings)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Coverage:
        """Inverse of to_json. Raises KeyError or TypeError for data that to_json did not write."""
        rows = tuple(CoverageRow(**{**row, "lengths": tuple(row["lengths"])}) for row in data["rows"])
        return cls(data["medium"], data["unit"], rows, tuple(data["notes"]), tuple(data["warnings"]))


@dataclass(frozen=True)
class _Measured:
    """What the table needs of one sample."""

    sample: Sample
    length: float
    scripts: Counter[str]
    characters: int = 0
    outside: int = 0
    emoji: bool = False
    digits: bool = False
    code: bool = False


def measure(
    drawn: Drawn,
    contents: Iterable[str | Pixels | Clip],
    count_tokens: Callable[[str], int] | None = None,
    languages: Mapping[str, float] | None = None,
    topics: Mapping[str, float] | None = None,
    warnings: Sequence[str] = (),
) -> Coverage:
    """The table over the drawn samples, whose contents come one by one in their order.

    `count_tokens` gives a text's length as the model sees it; without it, characters are counted.
    `languages` and `topics` are the shares that the recipe declares.
    """
    found = [_measured(s, c, count_tokens) for s, c in zip(drawn.samples, contents, strict=True)]
    medium = drawn.samples[0].medium
    text: Unit = "tokens" if count_tokens else "characters"
    unit: Unit = text if medium == "text" else "pixels" if medium == "image" else "seconds"
    rows = [_row("all", None, found, None)]
    rows += _grouped("language", [m.sample.language for m in found], found, languages or {})
    rows += _grouped("topic", [m.sample.topic for m in found], found, topics or {})
    return Coverage(medium, unit, tuple(rows), drawn.notes, tuple(warnings))


def language_warnings(model_languages: Sequence[str], samples: Sequence[Sample]) -> tuple[str, ...]:
    """What of the languages that a model is used in a sample leaves out."""
    seen = {sample.language for sample in samples if sample.language}
    missing = [language for language in model_languages if language not in seen]
    if len(model_languages) < 2 or not missing:
        return ()
    declared = f"the model is declared for {len(model_languages)} languages ({', '.join(model_languages)})"
    if not seen:
        return (
            f"calibration: {declared}, and no sample names its language; give `language` in the data or recipe",
        )
    if len(seen) == 1:
        return (
            f"calibration: {declared}, and every sample is in one, {next(iter(seen))}: what the others need is "
            "not seen; give data in each",
        )
    return (f"calibration: {declared}, and no sample is in {', '.join(missing)}",)


def _measured(
    sample: Sample, content: str | Pixels | Clip, count_tokens: Callable[[str], int] | None
) -> _Measured:
    if isinstance(content, Clip):
        return _Measured(sample, content.seconds, Counter())
    if not isinstance(content, str):
        return _Measured(sample, float(content.shape[0] * content.shape[1]), Counter())
    return _Measured(
        sample,
        float(count_tokens(content) if count_tokens else len(content)),
        scripts(content),
        len(content),
        sum(not character.isascii() for character in content),
        has_emoji(content),
        any(character.isdigit() for character in content),
        looks_like_code(content),
    )


def _grouped(
    kind: Literal["language", "topic"],
    names: Sequence[str | None],
    found: Sequence[_Measured],
    declared: Mapping[str, float],
) -> list[CoverageRow]:
    """A row for each name, declared ones that are missing too; none where no sample has a name."""
    every = {*names, *declared}
    if every == {None}:
        return []
    rows = []
    for name in sorted(every, key=lambda name: (name is None, name or "")):
        members = [m for m, own in zip(found, names, strict=True) if own == name]
        rows.append(_row(kind, name, members, declared.get(name) if name else None))
    return rows


def _row(
    kind: Literal["all", "language", "topic"],
    name: str | None,
    members: Sequence[_Measured],
    declared: float | None,
) -> CoverageRow:
    lengths = np.array([m.length for m in members] or [0.0])
    low, middle, high = (float(value) for value in np.percentile(lengths, (5, 50, 95)))
    letters: Counter[str] = Counter()
    for member in members:
        letters.update(member.scripts)
    characters = sum(m.characters for m in members)
    return CoverageRow(
        kind,
        name,
        len(members),
        declared,
        float(lengths.sum()),
        (low, middle, high, float(lengths.max())),
        dict(sorted(letters.items(), key=lambda item: (-item[1], item[0]))),
        sum(m.outside for m in members) / characters if characters else 0.0,
        sum(m.emoji for m in members),
        sum(m.digits for m in members),
        sum(m.code for m in members),
    )
