"""Drawing samples: seeded, stratified by language and topic, the same on every machine.

Each sample's rank is a hash of the seed and its content, and a stratum takes its lowest ranks. So neither
file names nor the order in which files are found play a part, copies of one text count once, and drawing n
samples keeps n places of files in memory for each stratum, however large the files are.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exporter.errors import QexportError
from exporter.recipe import Calibration, Share
from exporter.samples.files import Listing, Medium, Sample, list_files
from exporter.samples.python import code_sha256
from exporter.samples.shares import share_of
from exporter.samples.text import text_samples

_FORMAT = 1  # of the cache; another number when the same data would be drawn in another way
Stratum = tuple[str | None, str | None]  # language, topic


@dataclass(frozen=True)
class Drawn:
    """A sample of samples, in the order of their ranks, and what a person should know of it."""

    samples: tuple[Sample, ...]
    available: int  # samples that the data hold, copies counted once as far as they were met
    notes: tuple[str, ...]
    sha256: str  # of the data's content and of how it was drawn: equal hashes, equal samples


@dataclass
class _Lowest:
    """The `most` samples of lowest rank among all that are offered."""

    most: int
    offered: int = 0
    copies: int = 0
    heap: list[tuple[int, int, Sample]] = field(
        default_factory=list
    )  # (-rank, -number, sample): highest rank first
    ranks: set[int] = field(default_factory=set)

    def offer(self, rank: int, sample: Sample) -> None:
        if rank in self.ranks:
            self.copies += 1
            return
        self.offered += 1
        entry = (-rank, -self.offered, sample)
        if len(self.heap) < self.most:
            heapq.heappush(self.heap, entry)
        elif rank < -self.heap[0][0]:
            self.ranks.discard(-heapq.heapreplace(self.heap, entry)[0])
        else:
            return
        self.ranks.add(rank)

    def ordered(self) -> list[tuple[int, Sample]]:
        return sorted(((-entry[0], entry[2]) for entry in self.heap), key=lambda pair: pair[0])


def draw(calibration: Calibration, cache: Path | None = None) -> Drawn:
    """The recipe's calibration samples; `cache` is a folder for what was drawn before from the same data.

    Raises QexportError for data that cannot be read, ValueError for a python function, which is no data
    to draw from (see exporter.samples.python.python_samples).
    """
    if calibration.python:
        raise ValueError("a python function gives its own samples")
    medium = _medium(calibration)
    listing = list_files(medium, calibration.sources)
    key = _key(listing, calibration)
    place = cache / "samples" / f"{key}.json" if cache else None
    drawn = _read_cache(place, key, medium, listing) if place else None
    if drawn is None:
        drawn = _draw(medium, listing, calibration, key)
        if place:
            _write_cache(place, drawn, listing)
    return drawn


def calibration_key(calibration: Calibration) -> str:
    """What `draw` would give as its sha256, without drawing; a python function is known by its file."""
    if calibration.python:
        return f"{calibration.python} {code_sha256(calibration.python)} {calibration.samples}"
    return _key(list_files(_medium(calibration), calibration.sources), calibration)


def split(n: int, available: Mapping[str | None, int], shares: Mapping[str, float]) -> dict[str | None, int]:
    """How many of `n` samples each name gives. Named shares as declared, the rest in proportion to what the
    other names have; what a name cannot give, the others give in proportion to what they have left.

    The sum is n, or everything where less is available. Rounding by largest remainder.
    """
    n = min(n, sum(available.values()))
    rest = max(0.0, 1.0 - sum(shares.values()))
    others = sum(count for name, count in available.items() if name not in shares)
    wanted = {
        name: n * (shares[name] if name in shares else rest * count / others if others else 0.0)  # type: ignore[index]
        for name, count in available.items()
    }
    taken = {name: min(float(count), wanted[name]) for name, count in available.items()}
    while (missing := n - sum(taken.values())) > 1e-9:
        left = {name: available[name] - taken[name] for name in available}
        total = sum(left.values())
        taken = {name: taken[name] + min(left[name], missing * left[name] / total) for name in available}
    whole = {name: int(value + 1e-9) for name, value in taken.items()}
    by_remainder = sorted(taken, key=lambda name: (whole[name] - taken[name], name is not None, name or ""))
    for name in by_remainder[: n - sum(whole.values())]:
        whole[name] += 1
    return whole


def _medium(calibration: Calibration) -> Medium:
    return "text" if calibration.text else "image" if calibration.pictures else "audio"


def rank(content: bytes, seed: int) -> int:
    """What orders samples: a keyed hash of their content, as good as random and the same everywhere."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=16, key=str(seed).encode()).digest(), "big")


def _strata(medium: Medium, listing: Listing, calibration: Calibration, most: int) -> dict[Stratum, _Lowest]:
    """The `most` samples of lowest rank in each stratum, over all files."""
    strata: dict[Stratum, _Lowest] = {}
    for sample, content in _candidates(medium, listing, calibration.share):
        stratum = (sample.language, sample.topic)
        strata.setdefault(stratum, _Lowest(most)).offer(rank(content, calibration.seed), sample)
    return strata


def _candidates(medium: Medium, listing: Listing, share: Share | None) -> Iterator[tuple[Sample, bytes]]:
    """Every sample of the files, of texts those of the share, and what its rank is hashed from."""
    for file in listing.files:
        source = file.source
        if medium == "text":
            for sample, text in text_samples(source):
                if share is None or share_of(text) == share:
                    yield sample, text.encode()
        else:
            yield Sample(medium, file.path, source.language, source.topic), file.sha256.encode()


def _draw(medium: Medium, listing: Listing, calibration: Calibration, key: str) -> Drawn:
    n = calibration.samples
    strata = _strata(medium, listing, calibration, n)
    available = {stratum: lowest.offered for stratum, lowest in strata.items()}
    total = sum(available.values())
    if not total:
        names = ", ".join(str(source.path) for source in calibration.sources)
        raise QexportError(f"calibration: {names} hold no sample; give files with something in them")
    chosen: list[tuple[int, Sample]] = []
    for stratum, count in quotas(n, available, calibration.languages, calibration.topics).items():
        chosen += strata[stratum].ordered()[:count]
    chosen.sort(key=lambda pair: pair[0])
    samples = tuple(sample for _, sample in chosen)
    notes = [*listing.notes]
    if copies := sum(lowest.copies for lowest in strata.values()):
        notes.append(f"calibration: {copies:,} samples are copies of others and were left out")
    if total < n:
        notes.append(f"calibration: {n:,} samples are asked for, the data hold {total:,}; all are used")
    notes += _unreached("languages", calibration.languages, available, samples)
    notes += _unreached("topics", calibration.topics, available, samples)
    return Drawn(samples, total, tuple(notes), key)


def quotas(
    n: int, available: Mapping[Stratum, int], languages: Mapping[str, float], topics: Mapping[str, float]
) -> dict[Stratum, int]:
    """How many samples each stratum gives: languages share first, topics within each language."""
    by_language: dict[str | None, dict[str | None, int]] = {}
    for (language, topic), count in available.items():
        by_language.setdefault(language, {})[topic] = count
    found: dict[Stratum, int] = {}
    sums = {language: sum(counts.values()) for language, counts in by_language.items()}
    for language, count in split(n, sums, languages).items():
        for topic, part in split(count, by_language[language], topics).items():
            found[language, topic] = part
    return found


def _unreached(
    what: str, shares: Mapping[str, float], available: Mapping[Stratum, int], samples: Sequence[Sample]
) -> Iterator[str]:
    """A note for each declared share that the sample misses by more than rounding."""
    which = 0 if what == "languages" else 1
    for name, share in shares.items():
        holds = sum(count for stratum, count in available.items() if stratum[which] == name)
        has = sum((sample.language, sample.topic)[which] == name for sample in samples)
        wanted = share * len(samples)
        if has < wanted - 1:
            yield (
                f"calibration.{what}: {name} is declared at {share:g}, which is {wanted:.0f} of {len(samples)} "
                f"samples; the data hold {holds}, so the sample has {has} ({has / len(samples):.1%}). Add data of "
                f"{name} or lower its share"
            )


def _key(listing: Listing, calibration: Calibration) -> str:
    """sha256 over the content of the files and everything that decides what is drawn from them."""
    content = {
        "format": _FORMAT,
        "files": [[file.sha256, file.source.language, file.source.topic] for file in listing.files],
        "jsonl": [file.path.suffix.lower() == ".jsonl" for file in listing.files],
        "samples": calibration.samples,
        "seed": calibration.seed,
        "languages": dict(sorted(calibration.languages.items())),
        "topics": dict(sorted(calibration.topics.items())),
        **({"share": calibration.share} if calibration.share else {}),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _write_cache(place: Path, drawn: Drawn, listing: Listing) -> None:
    """Samples by the number of their file in the listing, since the files may lie elsewhere next time."""
    number = {file.path: index for index, file in enumerate(listing.files)}
    data = {
        "available": drawn.available,
        "notes": [note for note in drawn.notes if note not in listing.notes],
        "samples": [[number[s.path], s.language, s.topic, s.start, s.size] for s in drawn.samples],
    }
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=place.parent, prefix=".draw-", delete=False) as draft:
        json.dump(data, draft)
    os.replace(draft.name, place)


def _read_cache(place: Path, key: str, medium: Medium, listing: Listing) -> Drawn | None:
    try:
        data: dict[str, Any] = json.loads(place.read_text("utf-8"))
        samples = tuple(
            Sample(medium, listing.files[index].path, language, topic, start, size)
            for index, language, topic, start, size in data["samples"]
        )
        return Drawn(samples, data["available"], (*listing.notes, *data["notes"]), key)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None  # damaged: drawn anew, and written over
