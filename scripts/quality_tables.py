"""The figures of scripts/quality.py as a JSON file, and as the Markdown tables of docs/quality.md.

    python scripts/quality_tables.py docs/quality/results.json

Beside the file it writes a picture of each reference: our files as a line, peers' as points.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from exporter.searching.showing import curve_picture

OWN, FLOAT_ACTIVATIONS = "qexport", ", float activations"  # who, and behind a format, for our rows
DIGITS = 5  # behind the point
_ROOM = 1.02  # how much larger a file may be and still count as of that size


@dataclass(frozen=True)
class Row:
    """One file compared with its reference on one text."""

    reference: str  # the folder's name
    reference_sha256: str  # of its weights
    share: str  # of the text
    text_sha256: str  # of the windows' tokens
    who: str
    format: str
    runtime: str
    version: str
    bytes: int
    kl_mean: float  # nats
    kl_p99: float
    same_top: float  # share
    ppl_ratio: float
    kl_by_language: Mapping[str, float]
    positions: int

    @property
    def key(self) -> tuple[str, ...]:
        """What a measurement is of: one row for each."""
        return self.reference_sha256, self.text_sha256, self.who, self.format, self.runtime, self.version

    @property
    def place(self) -> tuple[str, ...]:
        """Whose row it replaces: the same with another version of the runtime."""
        return self.key[:-1]


class Results:
    """The rows of a JSON file, which need not be there yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = self._read()

    def _read(self) -> list[Row]:
        if not self.path.is_file():
            return []
        try:
            return [Row(**row) for row in json.loads(self.path.read_text(encoding="utf-8"))["rows"]]
        except (ValueError, KeyError, TypeError) as problem:
            names = ", ".join(field.name for field in fields(Row))
            sys.exit(f"{self.path}: holds no rows of {names} ({problem}); name another file with --json")

    def has(self, key: tuple[str, ...]) -> bool:
        return any(row.key == key for row in self.rows)

    def add(self, row: Row) -> None:
        """Keep it, in the place of an earlier one, and write the file whole, with what another run added meanwhile."""
        self.rows = [other for other in self._read() if other.place != row.place] + [row]
        self.rows.sort(key=lambda entry: (entry.reference, entry.share, entry.text_sha256, -entry.bytes))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        text = json.dumps({"rows": [asdict(entry) for entry in self.rows]}, indent=1, ensure_ascii=False)
        draft.write_text(text + "\n", encoding="utf-8")
        os.replace(draft, self.path)


def rounded(value: float) -> float:
    """As the file holds a figure."""
    return round(value, DIGITS)


def render(rows: Sequence[Row]) -> str:
    """For each reference and text: all files by size, and the loss of each by language."""
    groups: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        group = (row.reference, row.reference_sha256, row.share, row.text_sha256)
        groups.setdefault(group, []).append(row)
    return "\n\n".join(_section(found) for found in groups.values()) + "\n"


def _section(rows: Sequence[Row]) -> str:
    first = rows[0]
    counts = " or ".join(f"{count:,}" for count in sorted({row.positions for row in rows}))
    versions = sorted({row.version for row in rows})
    lines = [
        f"### {first.reference}, {first.share} share, {counts} positions",
        f"\nReference sha256 {first.reference_sha256[:16]}, text {first.text_sha256[:16]}; {'; '.join(versions)}.\n",
        _line("who", "format", "runtime", "MB", "mean KL", "p99", "same top", "perplexity ×"),
        _line(*["---"] * 8),
    ]
    ordered = sorted(rows, key=lambda row: -row.bytes)
    for row in ordered:
        figures = (f"{row.bytes / 1e6:.1f}", f"{row.kl_mean:.4f}", f"{row.kl_p99:.3f}")
        share, ratio = f"{100 * row.same_top:.1f} %", f"{row.ppl_ratio:.3f}"
        lines.append(_line(row.who, row.format, row.runtime, *figures, share, ratio))
    lines += _ratios(ordered)
    languages = sorted({language for row in rows for language in row.kl_by_language})
    lines += ["", _line("mean KL of", *languages), _line(*["---"] * (len(languages) + 1))]
    for row in ordered:
        values = [row.kl_by_language.get(language) for language in languages]
        cells = ["–" if value is None else f"{value:.3f}" for value in values]
        lines.append(_line(f"{row.who}, {row.format}, {row.runtime}", *cells))
    return "\n".join(lines)


def _ratios(rows: Sequence[Row]) -> list[str]:
    """At each peer's size: the least mean KL of our files that are no more than 2 % larger, over the least of the
    peer's that are no larger."""
    ours: dict[str, list[Row]] = {}
    for row in rows:
        if row.who == OWN:
            ours.setdefault(
                row.runtime + (FLOAT_ACTIVATIONS if FLOAT_ACTIVATIONS in row.format else ""), []
            ).append(row)
    peers = [row for row in rows if row.who != OWN]
    if not ours or not peers:
        return []
    kinds = sorted(ours)
    lines = ["", _line("ours over the best of", "MB", *kinds), _line(*["---"] * (len(kinds) + 2))]
    for peer in peers:
        best = min(row.kl_mean for row in peers if row.who == peer.who and row.bytes <= peer.bytes)
        cells = []
        for kind in kinds:
            fitting = [row for row in ours[kind] if row.bytes <= _ROOM * peer.bytes]
            own = min(fitting, key=lambda row: row.kl_mean, default=None)
            name = "" if own is None else own.format.removesuffix(FLOAT_ACTIVATIONS)
            cells.append("none so small" if own is None else f"{own.kl_mean / best:.2f} ({name})")
        lines.append(_line(f"{peer.who} up to {peer.format}", f"{peer.bytes / 1e6:.1f}", *cells))
    return lines


def pictures(rows: Sequence[Row], folder: Path) -> list[Path]:
    """REFERENCE.svg for each: mean KL over MB, of the files for ONNX Runtime with activations in int8."""
    found = []
    for reference in sorted({row.reference for row in rows}):
        own = [row for row in rows if row.reference == reference]
        ours = [row for row in own if row.who == OWN and row.runtime == "onnxruntime"]
        chosen = [row for row in ours if re.fullmatch(r"w4|w8|mix_[0-9.]+", row.format)]
        line = sorted((row.bytes / 1e6, row.kl_mean) for row in chosen)
        points = {f"{row.who} {row.format}": (row.bytes / 1e6, row.kl_mean) for row in own if row.who != OWN}
        path = folder / f"{reference}.svg"
        path.write_text(curve_picture(line, points, None, "qexport (line), peers (points)"), encoding="utf-8")
        found.append(path)
    return found


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """The command line."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    path = Path(sys.argv[1])
    if not path.is_file():
        sys.exit(f"{path}: not there; scripts/quality.py --json writes it")
    rows = Results(path).rows
    print(render(rows), end="")
    pictures(rows, path.parent)


if __name__ == "__main__":
    main()
