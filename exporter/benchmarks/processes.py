"""The parent's side of a worker: start it, ask it, end it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exporter.benchmarks.figures import Memory
from exporter.benchmarks.worker import Input
from exporter.errors import ArtifactError


@dataclass(frozen=True)
class WorkerSpec:
    """How a runtime is started on a model: everything behind the Python interpreter."""

    name: str  # for messages and tables
    command: tuple[str, ...]
    path: Path
    threads: int
    context: int
    environment: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def own(
        cls, engine: str, path: Path, threads: int, context: int, inputs: Sequence[Input] | None = None
    ) -> WorkerSpec:
        """One of exporter.benchmarks.engines.ENGINES, or of ENGINES_OF_INPUTS with what the model takes."""
        told = () if inputs is None else ("--inputs", json.dumps(inputs))
        command = ("-m", "exporter.benchmarks.worker", engine, *told)
        return cls(engine, command, path, threads, context)


@dataclass(frozen=True)
class Loaded:
    """What loading took; memory is on top of what the process held before."""

    seconds: float
    before: Memory
    memory: Memory
    version: str


class WorkerProcess:
    """A running worker. Raises ArtifactError with the worker's own last words where it fails."""

    def __init__(self, spec: WorkerSpec, process: subprocess.Popen[str], log: Path) -> None:
        self.spec, self._process, self._log = spec, process, log
        self.loaded: Loaded | None = None

    def load(self) -> Loaded:
        """Open the model."""
        answer = self._ask(do="load")
        before, after = Memory(**answer["before"]), Memory(**answer["after"])
        self.loaded = Loaded(answer["seconds"], before, after.since(before), answer["version"])
        return self.loaded

    def prefill(self, tokens: Sequence[int], steady: bool = False) -> float:
        """Seconds for a prompt on an empty cache, its next token chosen; `steady`: not the first one."""
        return float(self._ask(do="prefill", tokens=list(tokens), steady=steady)["seconds"])

    def decode(self, tokens: Sequence[int], steps: int) -> float:
        """Seconds for that many steps behind the prompt."""
        return float(self._ask(do="decode", tokens=list(tokens), steps=steps)["seconds"])

    def memory(self) -> Memory:
        """On top of what the process held before it loaded the model."""
        now = Memory(**self._ask(do="memory"))
        return now if self.loaded is None else now.since(self.loaded.before)

    def _ask(self, **request: Any) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None  # opened as pipes below
        try:
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self._process.wait()
            raise self._failed(f"ended with {code} while it had to {request['do']}: {self._last_line()}")
        answer = json.loads(line)
        if "error" in answer:
            raise self._failed(f"cannot {request['do']}: {answer['error']}")
        content: dict[str, Any] = answer["ok"]
        return content

    def _failed(self, what: str) -> ArtifactError:
        return ArtifactError(f"{self.spec.path}: {self.spec.name} {what}")

    def _last_line(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else "it said nothing"


@contextmanager
def started(spec: WorkerSpec) -> Iterator[WorkerProcess]:
    """A fresh process for the block; its threads are limited as the specification says."""
    with tempfile.TemporaryDirectory(prefix="qexport-bench-") as place:
        log = Path(place) / "stderr"
        arguments = ["--threads", str(spec.threads), "--context", str(spec.context)]
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, *spec.command, str(spec.path), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
                encoding="utf-8",
                env={**os.environ, "OMP_NUM_THREADS": str(spec.threads), **spec.environment},
            )
        try:
            yield WorkerProcess(spec, process, log)
        finally:
            if process.stdin is not None:
                with suppress(BrokenPipeError):  # it died with a request on its way
                    process.stdin.close()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
