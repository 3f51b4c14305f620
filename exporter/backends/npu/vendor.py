"""Vendors' compilers and simulators: whether they are installed, and a process of its own for each piece of work.

They print, change the environment of their process, may crash or hang. So each runs apart, with a time limit and its
output in a log; what went wrong is told in one sentence. The libraries belong to their vendors: they are optional
extras of this package and no part of it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

from exporter.errors import LoweringError
from exporter.folders import cache_folder
from exporter.targets import Target

WORKER = "exporter.backends.npu.worker"
_LIMIT_VARIABLE = "QEXPORT_NPU_SECONDS"
_DEFAULT_LIMIT = 1800.0  # seconds that one compilation, or one run over all samples, may take
_ERROR = re.compile(r"<E>|\[ERROR\]|Error:|ERROR|error:")


@dataclass(frozen=True)
class Package:
    """One vendor's package, in the one version that fits the pinned runtimes."""

    distribution: str
    version: str
    licence: str
    command: str  # that installs it


QNN = Package(
    "onnxruntime-qnn",
    "2.5.0",
    "MIT; the Qualcomm libraries inside: Qualcomm's own licence",
    "pip install 'qexport[qnn]'",
)
VELA = Package("ethos-u-vela", "5.1.0", "Apache-2.0", "pip install 'qexport[arm]'")
# Its metadata pin NumPy below 2.2 and older flatbuffers; it runs with the newer ones.
TOSA = Package("tosa-tools", "2026.5.0", "Apache-2.0", "pip install --no-deps tosa-tools==2026.5.0")
_NEEDED: Mapping[str, tuple[Package, ...]] = {
    "onnxruntime-qnn": (QNN,),
    "executorch-qualcomm": (QNN,),
    "executorch-tosa": (TOSA,),
    "executorch-ethos-u": (TOSA, VELA),
}


def needed(key: str) -> tuple[Package, ...]:
    """Packages that a target's backend works with."""
    return _NEEDED[key]


def missing(key: str) -> str | None:
    """What is not installed for a target, or is there in another version, and the command that mends it."""
    for package in _NEEDED[key]:
        try:
            found = version(package.distribution)
        except PackageNotFoundError:
            return f"{package.distribution} is not installed; {package.command}"
        if found != package.version:
            return (
                f"{package.distribution} {found} is installed, and {package.version} is the one that fits the "
                f"pinned runtimes; {package.command}"
            )
    return None


def check_installed(target: Target) -> None:
    """Raise LoweringError where a package is missing or another version."""
    problem = missing(target.key)
    if problem:
        raise LoweringError(f"{target.key}: {problem}")


def library_folder() -> Path:
    """Where Qualcomm's libraries lie."""
    return Path(str(distribution(QNN.distribution).locate_file("onnxruntime_qnn")))


def work(job: str, arguments: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Run one job of exporter.backends.npu.worker in a process of its own; what it gives back.

    `what`: the work, for a message. Raises LoweringError where it fails or takes too long; the log is then kept.
    """
    limit = float(os.environ.get(_LIMIT_VARIABLE, _DEFAULT_LIMIT))
    environment = {**os.environ, "QNN_SDK_ROOT": ""}  # set and empty: ExecuTorch then downloads none
    if missing("onnxruntime-qnn") is None:
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(
            filter(None, [str(library_folder()), os.environ.get("LD_LIBRARY_PATH")])
        )
    with tempfile.TemporaryDirectory(prefix="qexport-npu-") as name:
        place = Path(name)
        (place / "job.json").write_text(json.dumps(dict(arguments)))
        log = place / "log.txt"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", WORKER, job, str(place)],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=place,
                start_new_session=True,  # so that what it starts can be killed with it
            )
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise LoweringError(
                    f"{what}: not done after {limit:.0f} s and stopped; {_LIMIT_VARIABLE} sets another limit. Its log: "
                    f"{_kept(log, job)}"
                ) from None
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        result = place / "result.json"
        if code == 0 and result.is_file():
            found: dict[str, Any] = json.loads(result.read_text())
            return found
        told = place / "problem.txt"
        reason = (
            told.read_text() if told.is_file() else f"the process ended with code {code}, {_last_error(log)}"
        )
        raise LoweringError(f"{what}: {reason}. Its log: {_kept(log, job)}")


def _last_error(log: Path) -> str:
    """The last line of the log that looks like an error."""
    lines = log.read_text(errors="replace").splitlines()
    telling = [line.strip() for line in lines if _ERROR.search(line)]
    return f"its last error: {telling[-1][:300]}" if telling else "and no error in its log"


def _kept(log: Path, job: str) -> Path:
    folder = cache_folder() / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / f"npu-{job}-{os.getpid()}.txt"
    shutil.copyfile(log, kept)
    return kept
