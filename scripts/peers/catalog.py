"""Who is measured beside us: how each peer's model is built, started and counted."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from exporter.benchmarks.processes import WorkerSpec

HERE = Path(__file__).resolve().parent
_BUILT = "built.json"
_STAGE = re.compile(r"^✓ (.+) ([0-9.]+) s$", re.MULTILINE)  # what exporter.progress prints


@dataclass(frozen=True)
class Built:
    """What making an artifact took."""

    seconds: float
    peak_bytes: int
    error: str | None = None  # how it ended and the last line that it said, where it failed
    stages: Mapping[str, float] = field(default_factory=dict)  # seconds of each stage, of our own jobs


@dataclass(frozen=True)
class Sources:
    """A model in the forms that peers take, and where their artifacts go."""

    name: str
    checkpoint: Path  # Hugging Face's layout, float32
    gguf: Path | None
    table_shape: tuple[int, int]
    context: int
    cache: Path


@dataclass(frozen=True)
class Peer:
    """One other way to run the same model with the same bits."""

    name: str
    against: str  # our backend, or "best"
    steps: Callable[[Sources, Path], list[Sequence[object]]]  # commands that fill the folder
    spec: Callable[[Sources, Path, int], WorkerSpec]
    files: Callable[[Path], list[Path]]  # the model's own
    weight_bytes: Callable[[Sources, Path], int]  # that a decode step reads
    why_not: Callable[[Sources], str | None] = lambda sources: None


def timed(command: Sequence[object], log: Path) -> Built:
    """Run to the end; time, and the peak memory that the system counted for it and what it started."""
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with log.open("ab") as stream:
        process = subprocess.Popen([str(word) for word in command], stdout=stream, stderr=stream)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = code = os.waitstatus_to_exitcode(status)
    seconds, peak = time.perf_counter() - started, usage.ru_maxrss * 1024
    said = log.read_text(encoding="utf-8", errors="replace").strip()
    stages = {title: float(figure) for title, figure in _STAGE.findall(said)}
    return Built(seconds, peak, _error(code, said), stages)


def _error(code: int, said: str) -> str | None:
    """None for 0. A process that was killed, as for want of memory, had no time to say why."""
    last = said.splitlines()[-1].strip()[:200] if said else ""
    if code == 0:
        return None
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}" + (f" after: {last}" if last else "")
    return last or f"ended with {code}"


def build(peer: Peer, sources: Sources) -> tuple[Path, Built]:
    """The peer's folder, made where it is not there yet."""
    folder = sources.cache / f"{peer.name}-{sources.name}"
    note = folder / _BUILT
    if note.is_file():
        return folder, Built(**json.loads(note.read_text(encoding="utf-8")))
    if reason := peer.why_not(sources):
        return folder, Built(0, 0, reason)
    folder.mkdir(parents=True, exist_ok=True)
    seconds, peak = 0.0, 0
    for command in peer.steps(sources, folder):
        print(f"building {peer.name} for {sources.name} …", file=sys.stderr)
        done = timed(command, folder / "build.log")
        seconds, peak = seconds + done.seconds, max(peak, done.peak_bytes)
        if done.error:
            return folder, Built(seconds, peak, done.error)
    built = Built(seconds, peak)
    note.write_text(json.dumps(asdict(built)), encoding="utf-8")
    return folder, built


def _genai_steps(sources: Sources, folder: Path) -> list[Sequence[object]]:
    return [
        (sys.executable, HERE / "genai_builder.py", sources.checkpoint, folder, "--bits", 4, "--block", 32)
    ]


def _genai_spec(sources: Sources, folder: Path, threads: int) -> WorkerSpec:
    return WorkerSpec.own("onnxruntime-genai", folder, threads, sources.context)


def _genai_weights(sources: Sources, folder: Path) -> int:
    """All that MatMulNBits nodes read."""
    import onnx

    model = onnx.load(folder / "model.onnx", load_external_data=False)
    sizes = {x.name: {e.key: e.value for e in x.external_data} for x in model.graph.initializer}
    names = {name for node in model.graph.node if node.op_type == "MatMulNBits" for name in node.input[1:]}
    return sum(int(sizes[name].get("length", 0)) for name in names if name in sizes)


def _executorch_steps(sources: Sources, folder: Path) -> list[Sequence[object]]:
    script = HERE / "executorch_llama.py"
    return [(sys.executable, script, sources.checkpoint, folder, "--context", sources.context)]


def _executorch_weights(sources: Sources, folder: Path) -> int:
    """The file without the embedding's own table: 4 bits and a float32 scale for every 32."""
    rows, columns = sources.table_shape
    return (folder / "model.pte").stat().st_size - rows * columns // 2 - rows * columns // 32 * 4


def _executorch_spec(sources: Sources, folder: Path, threads: int) -> WorkerSpec:
    return WorkerSpec.own("executorch", folder / "model.pte", threads, sources.context)


def _llama_home(sources: Sources) -> Path:
    return sources.cache / "llama-cpp"


def _llama_steps(sources: Sources, folder: Path) -> list[Sequence[object]]:
    script = HERE / "llama_cpp.py"
    model = folder / "model.gguf"
    return [(sys.executable, script, "quantize", _llama_home(sources), sources.gguf, model)]


def _llama_why_not(sources: Sources) -> str | None:
    if sources.gguf is None:
        return "the model is no GGUF file"
    home = _llama_home(sources)
    if (home / "llama_cpp").is_dir():
        return None
    print("compiling llama.cpp, some minutes …", file=sys.stderr)
    log = sources.cache / "llama-cpp.log"
    error = timed((sys.executable, HERE / "llama_cpp.py", "install", home), log).error
    return error and f"{error} (whole log: {log})"


def _llama_weights(sources: Sources, folder: Path) -> int:
    """All tensors; of a table that the output layer does not share, a step reads one row, left out here."""
    from gguf import GGUFReader

    sizes = {tensor.name: tensor.n_bytes for tensor in GGUFReader(folder / "model.gguf").tensors}
    return int(sum(sizes.values()) - (sizes["token_embd.weight"] if "output.weight" in sizes else 0))


def _llama_spec(sources: Sources, folder: Path, threads: int) -> WorkerSpec:
    command = (str(HERE / "llama_cpp.py"), "serve", str(_llama_home(sources)))
    return WorkerSpec("llama.cpp", command, folder / "model.gguf", threads, sources.context)


PEERS: dict[str, Peer] = {
    "genai-builder": Peer(
        "genai-builder",
        "onnxruntime",
        _genai_steps,
        _genai_spec,
        lambda folder: [folder / "model.onnx", folder / "model.onnx.data"],
        _genai_weights,
    ),
    "executorch-llama": Peer(
        "executorch-llama",
        "executorch",
        _executorch_steps,
        _executorch_spec,
        lambda folder: [folder / "model.pte"],
        _executorch_weights,
    ),
    "llama.cpp": Peer(
        "llama.cpp",
        "best",
        _llama_steps,
        _llama_spec,
        lambda folder: [folder / "model.gguf"],
        _llama_weights,
        _llama_why_not,
    ),
}
