"""What the terminal shows of bundles: sizes, memory, what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from exporter.bundling.writing import Bundled


def render_bundled(items: Sequence[Bundled], app: Path) -> RenderableType:
    """A row for each, notes, and the command that builds the app."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("id", "runtime"):
        table.add_column(title, overflow="fold")
    for title in ("oldest", "MB", "MB loaded", "KB a token"):
        table.add_column(title, justify="right", no_wrap=True)
    grouped = any("variant" in item.data for item in items)
    if grouped:
        table.add_column("variant of, rank", overflow="fold")
    for item in items:
        data, memory = item.data, item.data["memory"]
        variant = data.get("variant")
        table.add_row(
            Text(data["id"]),
            data["runtime"],
            data["min_runtime"],
            f"{item.bytes / 1e6:,.1f}",
            f"{memory['load_bytes'] / 1e6:,.1f}",
            f"{memory['kv_bytes_per_token'] / 1e3:,.1f}",
            *([f"{variant['group']}, {variant['rank']}" if variant else ""] if grouped else []),
        )
    notes = [Text(f"{item.data['id']}: {note}") for item in items for note in item.notes]
    follow = Text.assemble("next  ", (f"python {app / 'build_apk.py'}", "bold"))
    return Group(table, *notes, follow)
