"""KL by position as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from exporter.evaluation.scorecard import Figure

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 720, 220, 64, 34, 14, 110
_COLOURS = ("var(--blue)", "var(--red)", "var(--green)")


def position_chart(curves: Mapping[str, Sequence[Figure]]) -> Markup:
    """A line for each runtime through the mean KL of each bucket of positions; nothing is drawn of one without any."""
    named = {name: curve for name, curve in curves.items() if curve}
    most = max(figure.value for curve in named.values() for figure in curve) or 1.0
    count = max(len(curve) for curve in named.values())

    def x(place: int) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (place + 0.5) / count

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * value / most

    parts = [
        Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="KL by position">').format(_WIDTH, _HEIGHT)
    ]
    for share in (0.0, 0.5, 1.0):
        at = y(share * most)
        parts.append(
            Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(
                _LEFT, _WIDTH - _RIGHT, at, at
            )
        )
        parts.append(
            Markup('<text class="label" x="{}" y="{:.1f}" text-anchor="end">{:.3g}</text>').format(
                _LEFT - 6, at + 4, share * most
            )
        )
    first = next(iter(named.values()))
    for place in range(0, count, max(1, count // 8)):
        begin = str(first[place].group).partition("–")[0] if place < len(first) else ""
        parts.append(
            Markup('<text class="label" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
                x(place), _HEIGHT - _BOTTOM + 16, begin
            )
        )
    beside = -100.0  # of the name written last, so that two names do not lie on each other
    for name, colour in sorted(
        zip(named, _COLOURS, strict=False), key=lambda pair: y(named[pair[0]][-1].value)
    ):
        curve = named[name]
        points = " ".join(f"{x(place):.1f},{y(figure.value):.1f}" for place, figure in enumerate(curve))
        parts.append(
            Markup('<polyline points="{}" fill="none" stroke-width="2" style="stroke:{}"/>').format(
                points, colour
            )
        )
        beside = max(beside + 14, y(curve[-1].value) + 4)
        parts.append(
            Markup('<text x="{:.1f}" y="{:.1f}" style="fill:{}">{}</text>').format(
                x(len(curve) - 1) + 8, beside, colour, name
            )
        )
    parts.append(Markup("</svg>"))
    return Markup("\n").join(parts)
