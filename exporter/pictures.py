"""The report's pictures as inline SVG: no script, no outside file, colours from the page's style sheet.

Colours are those of Okabe and Ito (2008), told apart with any colour vision; each cell also says its
bits. Everything is escaped by Markup.format, and coordinates are rounded, so equal data gives equal
text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from exporter.parity import LayerError
from exporter.plan import LayerPlan

_CELL_WIDTH, _CELL_HEIGHT = 46, 15
_ROW_LABEL, _HEADER = 40, 20
_BITS_WITH_COLOUR = (2, 4, 8, 16, 32)


@dataclass(frozen=True)
class SizeBar:
    """One bar of the size picture."""

    label: str
    bytes: int
    css: str  # "before" | "after"


def bits_class(bits: int) -> str:
    """Class of the style sheet that colours this width."""
    return f"b{bits}" if bits in _BITS_WITH_COLOUR else "bother"


def block_of(name: str) -> tuple[str, int, str] | None:
    """`model.layers.3.mlp.up_proj` -> (`model.layers`, 3, `mlp.up_proj`); None without a number."""
    parts = name.split(".")
    for index, part in enumerate(parts):
        if part.isdecimal():
            return ".".join(parts[:index]), int(part), ".".join(parts[index + 1 :])
    return None


def bits_heat_map(layers: Sequence[LayerPlan]) -> Markup:
    """One row per block and one column per kind of module, a panel for each list of blocks.

    Layers outside any block come in one row on top.
    """
    loose = [layer for layer in layers if block_of(layer.name) is None]
    panels: dict[str, dict[tuple[int, str], LayerPlan]] = {}
    for layer in layers:
        place = block_of(layer.name)
        if place is not None:
            panels.setdefault(place[0], {})[place[1], place[2]] = layer
    drawn = [_loose_row(loose)] if loose else []
    drawn += [_panel(prefix, cells) for prefix, cells in panels.items()]
    return Markup("\n").join(drawn)


def _loose_row(layers: Sequence[LayerPlan]) -> Markup:
    """Cells with their full name beside them, one below the other: embedding, lm_head and the like."""
    parts = []
    for row, layer in enumerate(layers):
        y = row * (_CELL_HEIGHT + 4)
        parts.append(_cell(layer, 0, y))
        text = layer.name + (f" = {layer.tied_to}" if layer.tied_to else "")
        parts.append(_text(_CELL_WIDTH + 6, y + 12, text, "label"))
    return _svg(360, len(layers) * (_CELL_HEIGHT + 4), "Bits of the layers outside the blocks", parts)


def _panel(prefix: str, cells: dict[tuple[int, str], LayerPlan]) -> Markup:
    """Blocks downwards, kinds of modules to the right."""
    rows = sorted({row for row, _ in cells})
    columns = list(dict.fromkeys(column for _, column in cells))
    labels = _short_labels(columns)
    parts = [_text(0, 12, prefix or "block", "label")]
    top = _HEADER + 6
    for index, column in enumerate(columns):
        x = _ROW_LABEL + index * _CELL_WIDTH + _CELL_WIDTH / 2
        parts.append(
            Markup(
                '<text x="{:g}" y="{}" class="label" text-anchor="middle"><title>{}</title>{}</text>'
            ).format(x, top + 10, column or prefix, labels[index])
        )
    top += 16
    for number, row in enumerate(rows):
        y = top + number * _CELL_HEIGHT
        parts.append(_text(_ROW_LABEL - 6, y + 12, str(row), "label", anchor="end"))
        for index, column in enumerate(columns):
            layer = cells.get((row, column))
            if layer is not None:
                parts.append(_cell(layer, _ROW_LABEL + index * _CELL_WIDTH, y))
    width = max(_ROW_LABEL + len(columns) * _CELL_WIDTH, 8 * len(prefix))
    return _svg(width, top + len(rows) * _CELL_HEIGHT, f"Bits per layer in {prefix or 'the blocks'}", parts)


def _short_labels(columns: Sequence[str]) -> list[str]:
    """`self_attn.q_proj` -> `q`; at most seven letters are legible, and the tooltip has the whole path."""
    names = [column.rsplit(".", 1)[-1].removesuffix("_proj") for column in columns]
    return [name if len(name) <= 7 else name[:6] + "…" for name in names]


def _cell(layer: LayerPlan, x: float, y: float) -> Markup:
    """One layer: its colour, its bits, and what decided it as a tooltip."""
    scheme = layer.scheme
    lines = [
        layer.name,
        f"{scheme.name}: {scheme.describe()}",
        f"rule in line {layer.rule.line}: {layer.rule.text}",
        *([layer.rule.because] if layer.rule.because else []),
        *([f"shares the weight of {layer.tied_to}"] if layer.tied_to else []),
        *(f"float, since {reason}" for reason in layer.fallback),
    ]
    return Markup(
        '<g class="{}"><title>{}</title><rect x="{:g}" y="{:g}" width="{}" height="{}"/>'
        '<text x="{:g}" y="{:g}" text-anchor="middle">{}</text></g>'
    ).format(
        bits_class(scheme.bits),
        "\n".join(lines),
        x,
        y,
        _CELL_WIDTH - 2,
        _CELL_HEIGHT - 2,
        x + _CELL_WIDTH / 2 - 1,
        y + 10.5,
        "f" if scheme.is_float else scheme.bits,
    )


def size_bars(bars: Sequence[SizeBar]) -> Markup:
    """Megabytes (10^6 bytes) as horizontal bars from zero."""
    most = max((bar.bytes for bar in bars), default=0) or 1
    width, left, right = 420, 0, 80
    parts = []
    for row, bar in enumerate(bars):
        y = row * 42
        length = (width - left - right) * bar.bytes / most
        parts.append(_text(left, y + 11, bar.label, "label"))
        parts.append(
            Markup('<rect class="{}" x="{}" y="{}" width="{:.1f}" height="16"/>').format(
                bar.css, left, y + 16, max(length, 1.0)
            )
        )
        parts.append(_text(left + length + 6, y + 28.5, f"{bar.bytes / 1e6:,.1f} MB", "value"))
    return _svg(width, len(bars) * 42, "Size of the model in megabytes", parts)


def error_chart(errors: Sequence[LayerError], first_layer: str | None) -> Markup:
    """Weight and output SQNR in dB over the layers in network order; a strip below shows the bits."""
    both = (value for error in errors for value in (error.weight_sqnr_db, error.output_sqnr_db))
    finite = [value for value in both if value is not None and math.isfinite(value)]
    if not finite:
        return Markup("<p>No layer has a finite error: the weights are the float model's own.</p>")
    low, high = 10 * math.floor(min(finite) / 10), 10 * math.ceil(max(finite) / 10)
    high = max(high, low + 10)
    frame = _Frame(len(errors), low, high)
    parts = [*frame.axes([error.name for error in errors])]
    for name, css, values in (
        ("weight SQNR", "weight", [e.weight_sqnr_db for e in errors]),
        ("output SQNR", "output", [e.output_sqnr_db for e in errors]),
    ):
        if css == "output":
            parts.append(frame.line(css, values))
        for index, (error, value) in enumerate(zip(errors, values, strict=True)):
            if value is not None and math.isfinite(value):
                title = f"{error.name}\n{error.bits} bits\n{name} {value:.1f} dB"
                parts.append(frame.mark(css, index, value, title))
    for index, error in enumerate(errors):
        parts.append(frame.strip(index, error))
    names = [error.name for error in errors]
    if first_layer in names:
        parts += frame.flag(names.index(first_layer), first_layer)
    return _svg(frame.width, frame.height, "Error per layer in network order", parts)


@dataclass(frozen=True)
class _Frame:
    """Scales of the error chart: layer index -> x, dB -> y."""

    count: int
    low: float
    high: float
    width: int = 900
    height: int = 330
    left: int = 52
    top: int = 26
    bottom: int = 270

    def x(self, index: float) -> float:
        return self.left + (index + 0.5) * (self.width - self.left - 8) / max(self.count, 1)

    def y(self, value: float) -> float:
        return self.bottom - (value - self.low) * (self.bottom - self.top) / (self.high - self.low)

    def axes(self, names: Sequence[str]) -> Iterable[Markup]:
        """Grid, ticks each 10 dB, a tick where a block begins, and what the axes mean."""
        step = 10 if self.high - self.low <= 80 else 20
        for value in range(int(self.low), int(self.high) + 1, step):
            y = self.y(value)
            yield Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(
                self.left, self.width - 8, y, y
            )
            yield _text(self.left - 6, y + 4, str(value), "label", anchor="end")
        yield _text(0, 14, "SQNR in dB, higher is better", "label")
        yield from self.block_ticks(names)
        yield _text(
            (self.left + self.width) / 2, self.height - 4, "layer in network order, by block number", "label",
            anchor="middle",
        )  # fmt: skip

    def block_ticks(self, names: Sequence[str]) -> Iterable[Markup]:
        """The number of a block under its first layer, as many as there is room for."""
        last_x, last_block = -math.inf, None
        for index, name in enumerate(names):
            place = block_of(name)
            block = place[:2] if place else None
            x = self.x(index - 0.5)
            if place and block != last_block and x - last_x >= 26:
                yield Markup('<line class="axis" x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}"/>').format(
                    x, x, self.bottom + 12, self.bottom + 18
                )
                yield _text(x, self.bottom + 32, str(place[1]), "label", anchor="middle")
                last_x = x
            last_block = block

    def line(self, css: str, values: Sequence[float | None]) -> Markup:
        """A line through the finite values, with a gap where one is missing."""
        commands, pen = [], "M"
        for index, value in enumerate(values):
            if value is None or not math.isfinite(value):
                pen = "M"
                continue
            commands.append(f"{pen}{self.x(index):.1f} {self.y(value):.1f}")
            pen = "L"
        return Markup('<path class="{}-line" d="{}"/>').format(css, " ".join(commands))

    def mark(self, css: str, index: int, value: float, title: str) -> Markup:
        """A square for weights, a disc for outputs: told apart without colour too."""
        x, y = self.x(index), self.y(value)
        if css == "weight":
            return Markup(
                '<rect class="weight" x="{:.1f}" y="{:.1f}" width="4.4" height="4.4"><title>{}</title></rect>'
            ).format(x - 2.2, y - 2.2, title)
        return Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="2.6"><title>{}</title></circle>').format(
            css, x, y, title
        )

    def strip(self, index: int, error: LayerError) -> Markup:
        """The layer's bits, as a coloured piece of the strip under the axis."""
        x = self.x(index - 0.5)
        return Markup(
            '<g class="{}"><title>{}: {} bits</title><rect x="{:.1f}" y="{}" width="{:.1f}" height="8"/></g>'
        ).format(bits_class(error.bits), error.name, error.bits, x, self.bottom + 3, self.x(index + 0.5) - x)

    def flag(self, index: int, name: str) -> Iterable[Markup]:
        """The layer where the error rises."""
        x = self.x(index)
        yield Markup('<line class="flag" x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}"/>').format(
            x, x, self.top, self.bottom
        )
        anchor, shift = ("end", -6) if index > self.count / 2 else ("start", 6)
        yield _text(x + shift, self.top + 10, f"rises at {name}", "flag-text", anchor=anchor)


def _text(x: float, y: float, text: str, css: str, anchor: str = "start") -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" class="{}" text-anchor="{}">{}</text>').format(
        x, y, css, anchor, text
    )


def _svg(width: float, height: float, label: str, parts: Iterable[Markup]) -> Markup:
    body = Markup("\n").join(parts)
    return Markup(
        '<svg role="img" aria-label="{}" viewBox="0 0 {:g} {:g}" width="{:g}" height="{:g}" '
        'xmlns="http://www.w3.org/2000/svg">\n{}\n</svg>'
    ).format(label, width, height, width, height, body)
