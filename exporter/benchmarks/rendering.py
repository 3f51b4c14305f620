"""A benchmark's result as a table for the terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from exporter.benchmarks.figures import Memory, Spread

if TYPE_CHECKING:
    from exporter.benchmarks.results import BenchResult, RuntimeBench


def render(result: BenchResult) -> RenderableType:
    """A column per runtime; median (minimum to maximum)."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    for runtime in result.runtimes:
        table.add_column(runtime.engine, justify="right")
    for title, figure in _rows(result):
        table.add_row(title, *(figure(runtime) for runtime in result.runtimes))
    bandwidth = result.read_bandwidth.maximum / 1e9
    machine = f"{result.processor}, {result.threads} threads, reads {bandwidth:.1f} GB/s from memory"
    settings = result.settings
    generates = any(runtime.decode for runtime in result.runtimes)
    calls = f"repeats, {settings.steps} tokens each" if generates else "calls"
    how = (
        f"median (minimum to maximum) of {settings.repeats} {calls}; "
        f"load and first {'token' if generates else 'call'} of {settings.starts} fresh processes, files in the page "
        "cache; memory without Python and the runtime's libraries"
    )
    return Group(table, Text(machine), Text(how, style="dim"), *(Text(note) for note in result.notes))


def _rows(result: BenchResult) -> list[tuple[str, Callable[[RuntimeBench], str]]]:
    if result.task != "text-generation":
        return _call_rows(result)
    rows: list[tuple[str, Callable[[RuntimeBench], str]]] = [
        ("file, MB", lambda r: _megabytes(r.file_bytes)),
        ("KV cache, MB", lambda r: f"{_megabytes(r.cache_bytes)} at {r.context:,}"),
        ("load, s", lambda r: _spread(r.load_seconds, ".2f")),
        ("load and first token, s", lambda r: _spread(r.first_token_seconds, ".2f")),
        ("memory after load, MB", lambda r: _memory(r.memory_after_load)),
        ("memory after generation, MB", lambda r: _memory(r.memory_after_generation)),
        ("peak / (file + KV cache)", lambda r: f"{r.memory_ratio:.2f}"),
    ]
    for past in dict.fromkeys(d.past for r in result.runtimes for d in r.decode):
        rows.append((f"decode after {past:,}, tokens/s", lambda r, past=past: _decode(r, past)))  # type: ignore[misc]
    for past in dict.fromkeys(d.past for r in result.runtimes for d in r.decode):
        rows.append((f"  share of the bandwidth after {past:,}", lambda r, past=past: _share(r, past)))  # type: ignore[misc]
    for tokens in dict.fromkeys(p.tokens for r in result.runtimes for p in r.prefill):
        rows.append((f"prefill of {tokens:,}, tokens/s", lambda r, tokens=tokens: _prefill(r, tokens)))  # type: ignore[misc]
    return rows


def _call_rows(result: BenchResult) -> list[tuple[str, Callable[[RuntimeBench], str]]]:
    generates = any(runtime.decode for runtime in result.runtimes)
    rows: list[tuple[str, Callable[[RuntimeBench], str]]] = [
        ("file, MB", lambda r: _megabytes(r.file_bytes)),
        ("load, s", lambda r: _spread(r.load_seconds, ".2f")),
        (
            f"load and first {'token' if generates else 'call'}, s",
            lambda r: _spread(r.first_token_seconds, ".2f"),
        ),
        ("memory after load, MB", lambda r: _memory(r.memory_after_load)),
        ("memory at the end, MB", lambda r: _memory(r.memory_after_generation)),
        ("peak / file", lambda r: f"{r.memory_ratio:.2f}"),
    ]
    what = "encoder and first token" if generates else "one call"
    for tokens in dict.fromkeys(p.tokens for r in result.runtimes for p in r.prefill):
        title = f"{what}, {tokens:,} tokens, ms" if tokens > 1 else f"{what}, ms"
        rows.append((title, lambda r, tokens=tokens: _call(r, tokens)))  # type: ignore[misc]
    for past in dict.fromkeys(d.past for r in result.runtimes for d in r.decode):
        title = f"next tokens of {past:,}, tokens/s" if past > 1 else "next tokens, tokens/s"
        rows.append((title, lambda r, past=past: _decode(r, past)))  # type: ignore[misc]
    return rows


def _call(runtime: RuntimeBench, tokens: int) -> str:
    seconds = runtime.call_seconds(tokens)
    if seconds is None:
        return "–"
    return _spread(Spread(*(1000 * x for x in (seconds.minimum, seconds.median, seconds.maximum))), ".2f")


def _decode(runtime: RuntimeBench, past: int) -> str:
    return next((_spread(d.tokens_per_second, ".0f") for d in runtime.decode if d.past == past), "–")


def _share(runtime: RuntimeBench, past: int) -> str:
    found = [d for d in runtime.decode if d.past == past]
    return (
        f"{100 * found[0].bandwidth_share:.0f} % of {_megabytes(found[0].bytes_per_token)} MB"
        if found
        else "–"
    )


def _prefill(runtime: RuntimeBench, tokens: int) -> str:
    return next((_spread(p.tokens_per_second, ".0f") for p in runtime.prefill if p.tokens == tokens), "–")


def _spread(spread: Spread, form: str) -> str:
    low, middle, high = (format(x, form) for x in (spread.minimum, spread.median, spread.maximum))
    return f"{middle} ({low} to {high})"


def _memory(memory: Memory) -> str:
    text = f"{_megabytes(memory.resident)}, peak {_megabytes(memory.peak)}"
    if memory.anonymous is None or memory.mapped is None:
        return text
    return f"{text} (own {_megabytes(memory.anonymous)}, mapped {_megabytes(memory.mapped)})"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f}" if count < 10e6 else f"{count / 1e6:,.0f}"
