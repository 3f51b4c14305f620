"""What the terminal shows of a replay, within 80 columns."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from exporter.replay.replaying import Replay, Replayed


def render_replay(result: Replay) -> RenderableType:
    """A row for each file, why so much was allowed, what was written, what failed."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("file", overflow="fold", min_width=22)
    for title in ("run", "same\ntokens", "farthest", "allowed", "s", ""):
        table.add_column(title, justify="right")
    for one in result.files:
        tokens = sum(each.tokens for each in one.judged)
        same = f"{sum(each.same for each in one.judged)} of {tokens}" if tokens else "–"
        verdict = "FAILED" if one.failures else "passed"
        table.add_row(
            Text(one.file), f"{len(one.judged)} of {one.total}", same, _farthest(one), _allowed(one),
            f"{one.seconds:.1f}", verdict,
        )  # fmt: skip
    versions = ", ".join(f"{name} {result.machine.version(name)}" for name in _runtimes(result))
    lines = [Text(f"on       {result.machine}: {versions}; against golden values of x86_64")]
    lines += [Text(f"allowed  {name}: {tolerance['why']}") for name, tolerance in _runtimes(result).items()]
    if result.column:
        lines.append(Text(f"column   {result.column}; `qexport bundle` puts it into golden.json"))
    elif result.machine.abi != "x86_64":
        why = "not everything lies within what is allowed" if result.failures else "not every example was run"
        lines.append(Text(f"column   not written: {why}"))
    return Group(table, *lines)


def replay_json(result: Replay) -> dict[str, Any]:
    """The same as plain data."""
    return {
        "abi": result.machine.abi,
        "on": str(result.machine),
        "versions": {name: result.machine.version(name) for name in _runtimes(result)},
        "column": str(result.column) if result.column else None,
        "passed": not result.failures,
        "failures": result.failures,
        "files": [
            {
                "file": one.file,
                "runtime": one.artifact.runtime,
                "examples": len(one.judged),
                "same_tokens": sum(each.same for each in one.judged),
                "tokens": sum(each.tokens for each in one.judged),
                "farthest": _worst(one),
                "tolerance": dict(one.tolerance),
                "seconds": round(one.seconds, 2),
            }
            for one in result.files
        ],
    }


def _runtimes(result: Replay) -> dict[str, Any]:
    return {one.artifact.runtime: one.tolerance for one in result.files}


def _worst(one: Replayed) -> float | None:
    distances = [each.distance for each in one.judged]
    pick = min if "cosine" in one.tolerance else max
    return pick(distances) if distances else None


def _farthest(one: Replayed) -> str:
    worst = _worst(one)
    if worst is None:
        return "–"
    return f"cosine {worst:.4f}" if "cosine" in one.tolerance else f"logit {worst:.4f}"


def _allowed(one: Replayed) -> str:
    limit = one.tolerance
    return f"{limit['cosine']:.4f}" if "cosine" in limit else f"{limit['logits']:.2f}"
