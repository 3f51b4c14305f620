"""What this machine can lower to and run: for `qexport targets` and `qexport doctor`. Imports no runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, get_args

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from exporter.backends.npu import vendor
from exporter.backends.npu.capabilities import TABLES, Entry
from exporter.layers import Kind
from exporter.socs import ETHOS_U, SOCS

_CPU = (
    ("onnxruntime", "{backend: onnxruntime}", "onnxruntime"),
    ("executorch", "{backend: executorch}", "executorch"),
)
_CPU_LAYERS = (
    "linear, embedding: int4 or int8, group 16 to 128 or channel, activations float or dynamic-int8",
    "convolution, linear: int8, channel or tensor, activations static-int8 (task: module)",
)
_WRITTEN = {
    "onnxruntime-qnn": "{backend: onnxruntime, ep: qnn, soc: SM8750}",
    "executorch-qualcomm": "{backend: executorch, delegate: qualcomm, soc: SM8750}",
    "executorch-tosa": "{backend: executorch, delegate: tosa}",
    "executorch-ethos-u": "{backend: executorch, delegate: ethos-u, variant: ethos-u85-256}",
}
_HOSTS = {
    "onnxruntime-qnn": "Qualcomm's HTP simulator",
    "executorch-qualcomm": "Qualcomm's HTP simulator",
    "executorch-tosa": "Arm's TOSA reference model",
    "executorch-ethos-u": "the same graph in Arm's TOSA reference model; Vela's report of cycles and memory",
}
_CORE = (
    "torch",
    "transformers",
    "onnxruntime",
    "onnxruntime-genai",
    "executorch",
    "onnx",
    "onnxscript",
    "torchao",
)


@dataclass(frozen=True)
class Row:
    """One target."""

    target: str
    written: str  # as in a recipe
    layers: tuple[str, ...]
    host: str  # what runs its files here
    problem: str | None  # what is missing, and the command that mends it

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def targets() -> list[Row]:
    """Every target, what it computes, and whether it can be used here."""
    rows = [
        Row(name, written, _CPU_LAYERS, "the runtime itself", _absent(package))
        for name, written, package in _CPU
    ]
    return rows + [
        Row(name, written, _layers(name), _HOSTS[name], vendor.missing(name))
        for name, written in _WRITTEN.items()
    ]


def chips() -> list[tuple[str, str, str]]:
    """Name, generation and what people call it, of each chip and Ethos-U."""
    found = [(soc.name, f"HTP v{soc.arch}", soc.phones) for soc in SOCS.values()]
    return found + [(name, "Ethos-U", "Arm, by multiply-accumulates a cycle") for name in ETHOS_U]


def packages() -> list[tuple[str, str, str]]:
    """Name, installed version and what to do, of everything that a target may need; empty where all is well."""
    found = [(name, _version(name) or "–", _absent(name) or "") for name in _CORE]
    optional = {package.distribution: package for key in _WRITTEN for package in vendor.needed(key)}
    for name, package in optional.items():
        have = _version(name)
        problem = "" if have == package.version else f"optional, {package.version}: {package.command}"
        found.append((name, have or "–", problem))
    return found


def _layers(key: str) -> tuple[str, ...]:
    """The capability table in few lines."""
    whole = [entry for entry in TABLES[key] if not isinstance(entry.group, int)]
    blocks = [entry for entry in TABLES[key] if isinstance(entry.group, int)]
    lines = [_line(kind, [entry for entry in whole if entry.kind == kind]) for kind in get_args(Kind)]
    lines += [
        _line(f"{kind} in blocks", [entry for entry in blocks if entry.kind == kind])
        for kind in get_args(Kind)
    ]
    return tuple(line for line in lines if line)


def _line(what: str, entries: Sequence[Entry]) -> str:
    """`linear: int8 or int4, channel or tensor, activations static-int8`; "" where there are none."""
    if not entries:
        return ""
    weights, group, activations = (
        " or ".join(dict.fromkeys(str(getattr(entry, each)) for entry in entries))
        for each in ("weights", "group", "activations")
    )
    oldest = max(entry.oldest_arch for entry in entries)
    four = f"; int4 from HTP v{oldest} on" if oldest and "int4" in weights else ""
    return f"{what}: {weights}, {group}, activations {activations}{four}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _absent(package: str) -> str | None:
    return None if _version(package) else f"{package} is not installed; pip install qexport"


def print_targets(console: Console) -> None:
    """One block for each target."""
    for row in targets():
        state = Text("ready", "green") if row.problem is None else Text("not here", "yellow")
        console.print(Text.assemble((row.target, "bold"), "  ", state))
        console.print(Text(f"  in a recipe: {row.written}"))
        for line in row.layers:
            console.print(Text(f"  {line}"))
        console.print(Text(f"  runs here: {row.host if row.problem is None else 'no: ' + row.problem}"))
    console.print(Text("qexport targets --chips lists what soc and variant may be"))


def print_chips(console: Console) -> None:
    """Name, generation and what people call each."""
    table = Table("soc or variant", "computes on", "known as", box=box.SIMPLE_HEAD, pad_edge=False)
    for row in chips():
        table.add_row(*row)
    console.print(table)


def print_packages(console: Console) -> bool:
    """What is installed; whether all that is needed is."""
    table = Table("package", "here", "what to do", box=box.SIMPLE_HEAD, pad_edge=False)
    rows = packages()
    for name, have, problem in rows:
        table.add_row(name, have, Text(problem))
    console.print(table)
    return all(not problem or problem.startswith("optional") for _, _, problem in rows)
