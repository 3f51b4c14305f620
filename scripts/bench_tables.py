"""The Markdown tables of scripts/bench.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from exporter.artifacts import target_bytes
from exporter.benchmarks.figures import Spread

if TYPE_CHECKING:
    from bench import Exported, Measured

Figures = Callable[["Measured"], Sequence[float] | None]  # one per repeat; None where there is none


def print_speed(model: str, measured: Sequence[Measured], bandwidth: Spread, notes: Sequence[str]) -> None:
    """Figures of everyone, then our ratios to each peer."""
    versions = ", ".join(dict.fromkeys(entry.start.version for entry in measured))
    print(f"### {model}: 4 bits everywhere, a scale for every 32 weights\n\n{versions}\n")
    print(_row("", *(entry.name if entry.against else f"**ours, {entry.name}**" for entry in measured)))
    print(_row("---", *("---" for _ in measured)))
    for title, form, scale, figures in _figures(measured):
        cells = [_cell(figures(entry), form, scale) for entry in measured]
        print(_row(title, *cells))
    for past in dict.fromkeys(p for entry in measured for p in entry.speeds.decode):
        cells = [_share(entry, past, bandwidth) for entry in measured]
        print(_row(f"share of the bandwidth after {past:,}", *cells))
    print(f"\nMemory reads at {bandwidth.maximum / 1e9:.1f} GB/s with these threads. {_HOW}")
    for note in notes:
        print(f"- {note}")
    print_ratios(measured)


_HOW = (
    "Median (minimum–maximum). Speeds in tokens a second. Load and first token in fresh processes, files in "
    "the page cache; memory on top of Python and the runtime's libraries."
)


def print_ratios(measured: Sequence[Measured]) -> None:
    """Ours over the peer's, above 1 is faster; bytes and seconds the other way round, so that above 1 is
    better throughout. Each is taken within one repeat; where repeats do not pair, of the medians."""
    pairs = [(ours, peer) for peer in measured if peer.against for ours in _rivals(measured, peer)]
    if not pairs:
        return
    print("\n" + _row("ours / peer, above 1 is better", *(f"{o.name} / {p.name}" for o, p in pairs)))
    print(_row("---", *("---" for _ in pairs)))
    for title, _, _, figures in _figures(measured):
        better_high = title.startswith(("decode", "prefill"))
        cells = [_ratio(figures(ours), figures(peer), better_high) for ours, peer in pairs]
        print(_row(title, *cells))
    print()


def _rivals(measured: Sequence[Measured], peer: Measured) -> list[Measured]:
    """The runtime that the peer uses too; all of ours for one with a runtime of its own."""
    ours = [entry for entry in measured if entry.against is None]
    return ours if peer.against == "best" else [entry for entry in ours if entry.name == peer.against]


def _figures(measured: Sequence[Measured]) -> list[tuple[str, str, float, Figures]]:
    """Title, format, scale and what to take."""
    rows: list[tuple[str, str, float, Figures]] = []
    for past in dict.fromkeys(p for entry in measured for p in entry.speeds.decode):
        rows.append((f"decode after {past:,}", ".0f", 1, lambda e, p=past: e.speeds.decode.get(p)))
    for size in dict.fromkeys(p for entry in measured for p in entry.speeds.prefill):
        rows.append((f"prefill of {size:,}", ".0f", 1, lambda e, p=size: e.speeds.prefill.get(p)))
    rows += [
        ("load, s", ".2f", 1, lambda e: _ends(e.start.load_seconds)),
        ("load and first token, s", ".2f", 1, lambda e: _ends(e.start.first_token_seconds)),
        ("peak memory after load, MB", ".0f", 1e6, lambda e: [e.start.memory_after_load.peak]),
        ("peak memory, MB", ".0f", 1e6, lambda e: [e.start.memory_after_generation.peak]),
        ("file, MB", ".1f", 1e6, lambda e: [e.file_bytes]),
    ]
    return rows


def _ends(spread: Spread) -> list[float]:
    return [spread.minimum, spread.median, spread.maximum]


def _cell(figures: Sequence[float] | None, form: str, scale: float) -> str:
    if not figures:
        return "–"
    spread = Spread.of(value / scale for value in figures)
    middle = format(spread.median, form)
    if len(figures) == 1:
        return middle
    return f"{middle} ({format(spread.minimum, form)}–{format(spread.maximum, form)})"


def _ratio(ours: Sequence[float] | None, peer: Sequence[float] | None, better_high: bool) -> str:
    if not ours or not peer:
        return "–"
    pairs = zip(ours, peer, strict=True)
    return _cell([a / b if better_high else b / a for a, b in pairs], ".2f", 1)


def _share(entry: Measured, past: int, bandwidth: Spread) -> str:
    speeds = entry.speeds.decode.get(past)
    if not speeds:
        return "–"
    read = entry.weight_bytes + entry.cache_bytes * past // entry.context
    return f"{100 * read * Spread.of(speeds).median / bandwidth.maximum:.0f} %" + (
        "" if entry.cache_bytes else " (weights)"
    )


def print_exports(exported: Sequence[Exported]) -> None:
    """What making the files costs: the whole of each job, and its stages."""
    print("### Export\n")
    titles = ("model", "million parameters", "exporter", "seconds", "of it", "peak memory, MB")
    print(_row(*titles))
    print(_row(*("---" for _ in titles)))
    for entry in exported:
        cost, start = entry.cost, (entry.model, f"{entry.parameters / 1e6:.0f}", entry.name)
        if cost.error:
            print(_row(*start, f"does not run: {cost.error}", "–", "–"))
            continue
        stages = ", ".join(f"{title} {s:.1f}" for title, s in cost.stages.items() if s >= _SHORT)
        print(_row(*start, f"{cost.seconds:.0f}", stages or "–", f"{cost.peak_bytes / 1e6:,.0f}"))
    print(
        "\nEach in a process of its own, from a float32 checkpoint on disk. A peer that was built before has"
        " the figures of that time.\n"
    )
    models = {entry.model: entry.parameters for entry in exported}
    if len(models) > 1:
        print_growth(exported, models)


_SHORT = 0.5  # seconds; a stage below that is not told


def print_growth(exported: Sequence[Exported], models: Mapping[str, int]) -> None:
    """Seconds and peak memory, each also by million parameters, model beside model."""
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for entry in exported:
        if entry.cost.error:
            continue
        rows.setdefault((entry.name, "s"), {})[entry.model] = entry.cost.seconds
        for title, seconds in entry.cost.stages.items():
            if seconds >= _SHORT:
                rows.setdefault((f"{entry.name}: {title}", "s"), {})[entry.model] = seconds
        rows.setdefault((f"{entry.name}: peak memory", "MB"), {})[entry.model] = entry.cost.peak_bytes / 1e6
    print("### Growth, and in brackets for each million parameters\n")
    print(_row("", *(f"{name}, {count / 1e6:.0f} M" for name, count in models.items()), "grows with"))
    print(_row("---", *("---" for _ in models), "---"))
    for (title, unit), found in rows.items():
        cells = [_grown(found.get(name), count / 1e6, unit) for name, count in models.items()]
        print(_row(f"{title}, {unit}", *cells, _exponent([(models[name], found[name]) for name in found])))
    print("\nThe last column is the power of the parameters that fits best: 1 is linear.\n")


def _grown(figure: float | None, millions: float, unit: str) -> str:
    if figure is None:
        return "–"
    form, per_million = (".1f", ".3f") if unit == "s" else (",.0f", ".1f")
    return f"{figure:{form}} ({figure / millions:{per_million}})"


def _exponent(points: Sequence[tuple[float, float]]) -> str:
    """x of y = a * parameters^x, least squares of the logarithms."""
    xs, ys = ([math.log(value) for value in values] for values in zip(*points, strict=True))
    spread = sum((x - fmean(xs)) ** 2 for x in xs)
    if not spread:
        return "–"
    return f"{sum((x - fmean(xs)) * y for x, y in zip(xs, ys, strict=True)) / spread:.2f}"


def print_quality(rows: Sequence[dict[str, Any]]) -> None:
    """Size against loss, recipe by recipe, and what each whole job took."""
    print("### Quality\n")
    print(
        "| recipe | bits/weight | runtime | MB | KL mean | KL p99 | same top token | perplexity × (95 %) | parity |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        for runtime, target in row["targets"].items():
            rungs = row["parity"]["rungs"]
            result = next(r["result"] for r in rungs if r["kind"] == "shipped" and r["candidate"] == runtime)
            low, high = result["ppl_ratio_ci"]
            print(
                f"| {row['name']} | {row['plan']['totals']['bits_per_weight']:.2f} | {runtime} "
                f"| {target_bytes(target) / 1e6:.1f} | {result['kl_mean']:.4f} | {result['kl_p99']:.3f} "
                f"| {100 * result['same_top1']:.1f} % | {result['ppl_ratio']:.3f} ({low:.3f}–{high:.3f}) "
                f"| {'passed' if row['parity']['passed'] else 'failed'} |"
            )
    print("\n| recipe | whole job, both runtimes and verify | peak memory |\n|---|---|---|")
    for row in rows:
        print(f"| {row['name']} | {row['cost'].seconds:.0f} s | {row['cost'].peak_bytes / 1e6:,.0f} MB |")


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
