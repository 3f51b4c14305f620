"""What a search found, for a person: a table, and the curve as a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from markupsafe import Markup
from rich.console import Group
from rich.table import Table
from rich.text import Text

from exporter.errors import QexportError
from exporter.searching.searching import CHOSEN, WRITTEN, Found

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _MARGIN = 680, 420, 64, 46, 30
_FEW = 12  # points of a curve that are marked
_RIGHT = 150  # for names of points that stand at the right end
_LETTER, _LINE = 6.5, 13  # pixels of a name, about


def render_found(found: Found, path: Path, picture: Path) -> Group:
    """The chosen mix, beside every layer in one scheme."""
    table = Table(
        "",
        "MB",
        "predicted KL",
        "true KL",
        title="nats per token; MB of the larger file",
        title_justify="left",
    )
    for name, (megabytes, predicted, true) in found.uniform.items():
        table.add_row(f"all {name}", f"{megabytes:.1f}", f"{predicted:.4f}", f"{true:.4f}")
    checked = {mix: f"{kl:.4f}" for mix, (_, kl) in found.checked.items()}
    if WRITTEN in found.checked:
        table.add_row(WRITTEN, f"{found.checked[WRITTEN][0]:.1f}", "", checked[WRITTEN])
    size = f"{max(found.megabytes.values()):.1f}"
    table.add_row(f"[bold]{CHOSEN}[/]", size, f"{found.loss:.4f}", checked.get(CHOSEN, ""))
    scores = found.scores
    told = ", ".join(f"{name} {value:.2f}" for name, value in scores.correlations.items())
    lines = [
        f"{len(scores.units)} units, {found.bits_per_weight:.2f} bits a weight; "
        + ", ".join(f"{label} {megabytes:.1f} MB" for label, megabytes in found.megabytes.items()),
        f"score used: {scores.best}; rank correlation with the true KL of {len(scores.measured)} units: {told}",
        f"recipe: {path}",
        f"curve:  {picture}",
    ]
    return Group(table, *(Text(line) for line in lines))


def measured_beside(path: Path, weights_sha256: Collection[str]) -> dict[str, tuple[float, float]]:
    """Points of curve_picture from the rows of scripts/quality.py about a model with these weights, ours left out.
    Raises QexportError for a file that holds none."""
    try:
        rows = json.loads(path.read_text("utf-8"))["rows"]
        found = {
            f"{row['who']} {row['format']}": (row["bytes"] / 1e6, row["kl_mean"])
            for row in rows
            if row["reference_sha256"] in weights_sha256 and row["who"] != "qexport"
        }
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise QexportError(f"{path}: holds no rows of scripts/quality.py ({problem!r})") from problem
    if not found:
        raise QexportError(
            f"{path}: holds no peer's row about these weights; scripts/quality.py measures them"
        )
    return found


def curve_picture(
    curve: Sequence[tuple[float, float]],
    points: Mapping[str, tuple[float, float]],
    chosen: tuple[float, float] | None,
    title: str = "predicted (line), measured (points); ring: chosen",
) -> str:
    """An SVG of its own: KL on a logarithmic axis over MB; `points` by name."""
    everything = [*curve, *points.values(), *([chosen] if chosen else [])]
    everything = [(x, y) for x, y in everything if y > 0]
    low_x, high_x = min(x for x, _ in everything), max(x for x, _ in everything)
    low_y, high_y = (math.log10(f(y for _, y in everything)) for f in (min, max))
    span_x, span_y = max(high_x - low_x, 1e-9), max(high_y - low_y, 0.1)

    def at(x: float, y: float) -> tuple[float, float]:
        right = _LEFT + (x - low_x) / span_x * (_WIDTH - _LEFT - _RIGHT)
        down = _MARGIN + (high_y - math.log10(y)) / span_y * (_HEIGHT - _BOTTOM - 2 * _MARGIN)
        return round(right, 1), round(down, 1)

    body = [Markup('<rect width="{}" height="{}" fill="white"/>').format(_WIDTH, _HEIGHT)]
    for power in range(math.floor(low_y * 4), math.ceil(high_y * 4) + 1):
        value = 10 ** (power / 4)
        if low_y <= math.log10(value) <= high_y + 1e-9:
            _, y = at(low_x, value)
            body.append(_line(_LEFT, y, _WIDTH - _RIGHT, y, "#ddd"))
            body.append(_label(_LEFT - 6, y + 4, f"{value:.2g}", "end"))
    digits = max(0, math.ceil(-math.log10(span_x / 5)))
    for step in range(6):
        x, _ = at(low_x + span_x * step / 5, 10**low_y)
        body.append(_label(x, _HEIGHT - _BOTTOM + 8, f"{low_x + span_x * step / 5:.{digits}f}", "middle"))
    path = " ".join(f"{x},{y}" for x, y in (at(*point) for point in curve if point[1] > 0))
    body.append(Markup('<polyline points="{}" fill="none" stroke="#0072B2" stroke-width="2"/>').format(path))
    for x, y in (at(*point) for point in curve if point[1] > 0 and len(curve) <= _FEW):
        body.append(Markup('<circle cx="{}" cy="{}" r="4" fill="#0072B2"/>').format(x, y))
    shown = {name: at(*point) for name, point in points.items() if point[1] > 0}
    for x, y in shown.values():
        body.append(Markup('<circle cx="{}" cy="{}" r="4" fill="#D55E00"/>').format(x, y))
    body += [_label(x, y, name, "start") for name, (x, y) in _apart(shown).items()]
    if chosen:
        ring = '<circle cx="{}" cy="{}" r="6" fill="none" stroke="#009E73" stroke-width="3"/>'
        body.append(Markup(ring).format(*at(*chosen)))
    body.append(_label((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, "MB of the model file", "middle"))
    body.append(_label(8, 14, f"KL divergence, nats per token: {title}", "start"))
    head = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" width="{}" height="{}" font-family="sans-serif" font-size="12">'
    )
    return str(Markup("\n").join([head.format(_WIDTH, _HEIGHT), *body, Markup("</svg>\n")]))


def _apart(points: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Where each point's name begins: at its right, or its left where it would not end within the picture; lower where
    another name stands there."""
    found: dict[str, tuple[float, float]] = {}
    for name, (x, y) in sorted(points.items(), key=lambda item: item[1][1]):
        fits = x + 7 + _LETTER * len(name) <= _WIDTH
        place = (x + 7 if fits else x - 7 - _LETTER * len(name), y + 4)
        while any(
            abs(place[1] - other[1]) < _LINE
            and place[0] < other[0] + _LETTER * len(taken)
            and other[0] < place[0] + _LETTER * len(name)
            for taken, other in found.items()
        ):
            place = (place[0], place[1] + 1)
        found[name] = place
    return found


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> Markup:
    return Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" stroke="{}"/>').format(x1, y1, x2, y2, colour)


def _label(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(x, y, anchor, text)
