"""What a person sees in the terminal: the plan as a table."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from exporter.plan import LayerPlan, QuantPlan, target_label
from exporter.recipe.folding import fold_names, listed


@dataclass(frozen=True)
class _Row:
    """Layers that differ only in their names."""

    name: str
    layers: tuple[LayerPlan, ...]


def print_plan(plan: QuantPlan, console: Console, unfold: bool = False) -> None:
    """The table, then totals, forecasts and whatever fell back to float."""
    console.print(render_plan(plan, unfold))


def render_plan(plan: QuantPlan, unfold: bool = False) -> RenderableType:
    """The plan as a rich renderable; `unfold` gives every layer a row of its own."""
    parts: list[RenderableType] = [_layer_table(plan, unfold), _totals(plan)]
    parts += [_line("float", listed(names), reason) for reason, names in _fallbacks(plan)]
    parts += [_line("note", note) for note in plan.notes]
    return Group(*parts)


def _layer_table(plan: QuantPlan, unfold: bool) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title_justify="left", title_style=""
    )
    table.title = f"[bold]{escape(plan.recipe)}[/]  {escape(plan.model)}"
    table.add_column("layer", overflow="fold")
    table.add_column("shape", justify="right", no_wrap=True)
    table.add_column("rule (line)", overflow="fold")
    table.add_column("scheme", no_wrap=True)
    for forecast in plan.forecasts:
        name = target_label(forecast.target).replace("/", "\n")
        table.add_column(f"{name}\nbytes", justify="right", no_wrap=True)
    for row in _rows(plan.layers, unfold):
        first = row.layers[0]
        count = f" [dim]×{len(row.layers)}[/]" if len(row.layers) > 1 else ""
        tied = f"\n[dim]shares {escape(first.tied_to)}[/]" if first.tied_to else ""
        table.add_row(
            escape(row.name) + count + tied,
            "x".join(map(str, first.shape)),
            escape(_broken(f"{first.rule.text} ({first.rule.line})", 18)),
            _scheme(first),
            *(
                f"{sum(layer.bytes[forecast.target.key] for layer in row.layers):,}"
                for forecast in plan.forecasts
            ),
        )
    return table


def _broken(path: str, width: int) -> str:
    """A path or pattern over several lines of about `width`, broken after '.', ',' and ' ' outside braces."""
    lines = [""]
    for piece in re.findall(r"(?:\{[^{}]*\}|[^., ])*[., ]*", path):
        if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines)


def _scheme(layer: LayerPlan) -> str:
    style = "yellow" if layer.fallback else "cyan" if layer.scheme.bits == 4 else "green"
    width, group, *rest = [*layer.scheme.describe().split(" "), ""]
    return f"[{style}]{width} {group}\n{' '.join(rest)}".rstrip() + "[/]"


def _rows(layers: Sequence[LayerPlan], unfold: bool) -> Iterator[_Row]:
    """One row per layer, or per set of layers that differ only in their names, by first appearance."""
    if unfold:
        yield from (_Row(_broken(layer.name, 26), (layer,)) for layer in layers)
        return
    alike: dict[tuple[object, ...], list[LayerPlan]] = {}
    for layer in layers:
        costs = tuple(sorted(layer.bytes.items()))
        key = (layer.kind, layer.shape, layer.rule, layer.scheme, costs, layer.fallback, layer.tied_to)
        alike.setdefault(key, []).append(layer)
    for group in alike.values():
        by_name = {layer.name: layer for layer in group}
        yield _Row("\n".join(_broken(name, 26) for name in fold_names(by_name)), tuple(group))


def _totals(plan: QuantPlan) -> Table:
    """Parameters, bits and megabytes."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    table.add_row(
        "parameters",
        f"{plan.parameters:,}, of which {plan.other_parameters:,} outside these layers stay float32",
    )
    table.add_row("bits per weight", f"{plan.bits_per_weight:.2f}, bf16 scales counted, a shared table once")
    for forecast in plan.forecasts:
        share = forecast.megabytes / plan.float_megabytes if plan.float_megabytes else 1.0
        of = f"{share:.0%} of {plan.float_megabytes:.1f} MB in float32"
        table.add_row(target_label(forecast.target), Text(f"{forecast.megabytes:.1f} MB forecast, {of}"))
        if forecast.cache_bytes:
            target = forecast.target
            size = f"{forecast.cache_bytes / 1e6:.1f} MB in memory"
            table.add_row("", Text(f"KV cache {target.kv_cache}, {target.max_context:,} tokens: {size}"))
    return table


def _fallbacks(plan: QuantPlan) -> Iterator[tuple[str, list[str]]]:
    """Reason -> layers that stay float for it."""
    by_reason: dict[str, list[str]] = {}
    for layer in plan.fallbacks:
        for reason in layer.fallback:
            by_reason.setdefault(reason, []).append(layer.name)
    yield from by_reason.items()


def _line(kind: str, *parts: str) -> Text:
    return Text.assemble((f"{kind}: ", "bold yellow"), ": ".join(parts))
