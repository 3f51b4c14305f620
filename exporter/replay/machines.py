"""Where a runtime runs: in a process of this machine's, or of an emulated ARM64 one."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from exporter.errors import FetchError
from exporter.folders import cache_folder
from exporter.replay import arm64
from exporter.replay.protocol import Remote

Abi = Literal["x86_64", "arm64-v8a"]
_HERE = Path(__file__).parent
_SOURCES = ("et_run.cpp", "et_attention.cpp")
_LIBRARIES = ("", "_backend_xnnpack", "_kernels_optimized", "_kernels_quantized", "_threadpool")
_ORT_RUN = ("-m", "exporter.replay.ort_run")


@dataclass(frozen=True)
class Host:
    """This machine, its own Python and the ExecuTorch installed beside it."""

    abi: Abi = "x86_64"

    def __str__(self) -> str:
        return "this host"

    def version(self, runtime: str) -> str:
        """Of the runtime."""
        return version(runtime)

    def open(self, runtime: str, files: Mapping[str, Path]) -> Remote:
        """The runtime on these files: by names for ONNX Runtime, the one program for ExecuTorch."""
        if runtime == "onnxruntime":
            environment = {**os.environ, "PYTHONPATH": str(_HERE.parents[1])}
            return Remote([sys.executable, *_ORT_RUN, *_named(files)], environment)
        (program,) = files.values()
        package = _installed_executorch()
        runner = _et_run(self.abi, package, [_tool("g++")], {})
        environment = {**os.environ, "LD_LIBRARY_PATH": str(package / "lib")}
        return Remote([str(runner), str(program)], environment)


@dataclass(frozen=True)
class Emulated:
    """ARM64 programs, one at a time, by QEMU's user mode; what arm64.provide() unpacked."""

    cpu: str
    abi: Abi = "arm64-v8a"

    def __str__(self) -> str:
        return f"{self.cpu}, QEMU {arm64.version('qemu-user')}"

    def version(self, runtime: str) -> str:
        """Of the runtime."""
        return arm64.version(runtime)

    def open(self, runtime: str, files: Mapping[str, Path]) -> Remote:
        """As Host.open."""
        system = arm64.folder("python")
        emulator = arm64.folder("emulator") / "usr" / "bin" / "qemu-aarch64"
        command = [str(emulator), "-cpu", self.cpu, "-L", str(system)]
        environment = {"PATH": os.environ.get("PATH", ""), "PYTHONNOUSERSITE": "1"}
        if runtime == "onnxruntime":
            environment["PYTHONPATH"] = os.pathsep.join(map(str, (arm64.folder(runtime), _HERE.parents[1])))
            python = str(system / "usr" / "bin" / "python3.11")
            return Remote([*command, python, *_ORT_RUN, *_named(files)], environment)
        (program,) = files.values()
        package, compiler = arm64.folder("executorch") / "executorch", arm64.folder("compiler")
        binaries, libraries = compiler / "usr" / "bin", compiler / "usr" / "lib" / "x86_64-linux-gnu"
        tools = {"PATH": f"{binaries}{os.pathsep}{environment['PATH']}", "LD_LIBRARY_PATH": str(libraries)}
        cross = [str(binaries / "aarch64-linux-gnu-g++-12"), f"--sysroot={compiler}"]
        runner = _et_run(self.abi, package, cross, tools)
        libraries_there = f"LD_LIBRARY_PATH={package / 'lib'}"
        return Remote([*command, "-E", libraries_there, str(runner), str(program)], environment)


Machine = Host | Emulated


def check_host() -> None:
    """Raise FetchError on a machine that neither kind runs on."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise FetchError(
            f"--abi needs Linux on x86-64, this is {sys.platform} on {platform.machine()}; golden values of x86_64 are "
            "compared with, and the pinned emulator is a program for it"
        )


def _named(files: Mapping[str, Path]) -> list[str]:
    return [f"{name}={path.resolve()}" for name, path in files.items()]


def _installed_executorch() -> Path:
    spec = find_spec("executorch")
    places = spec.submodule_search_locations if spec else None
    for place in map(Path, places or ()):
        if (place / "lib").is_dir():
            return place
    raise FetchError("executorch: no wheel with lib/ is installed; `qexport doctor` says how to mend it")


def _et_run(abi: str, executorch: Path, compiler: Sequence[str], environment: Mapping[str, str]) -> Path:
    """The compiled runner of .pte files, kept for as long as sources, headers and compiler are the same."""
    digest = hashlib.sha256("\0".join([str(executorch), *compiler]).encode())
    for name in _SOURCES:
        digest.update((_HERE / name).read_bytes())
    program = cache_folder() / "et_run" / f"{abi}-{digest.hexdigest()[:12]}"
    if program.is_file():
        return program
    program.parent.mkdir(parents=True, exist_ok=True)
    include, libraries = executorch / "include", executorch / "lib"
    ten = include / "executorch" / "runtime" / "core" / "portable_type" / "c10"
    command = [*compiler, "-std=c++17", "-O2", "-Wall", "-Werror"]
    command += ["-DC10_USING_CUSTOM_GENERATED_MACROS", "-DET_EVENT_TRACER_ENABLED"]
    command += ["-isystem", str(include), "-isystem", str(ten), *(str(_HERE / name) for name in _SOURCES)]
    # kernels register themselves when their library loads: nothing else refers to them
    command += [f"-L{libraries}", "-Wl,--no-as-needed", "-Wl,--allow-shlib-undefined"]
    command += [f"-lexecutorch{name}" for name in _LIBRARIES]
    with tempfile.TemporaryDirectory(prefix=".build-", dir=program.parent) as scratch:
        draft = Path(scratch) / program.name
        result = subprocess.run(
            [*command, "-o", str(draft)],
            env={**os.environ, **environment},
            check=False,
            capture_output=True,
            text=True,
        )
        if result.returncode:
            said = "\n  ".join(result.stderr.strip().splitlines()[-6:])
            raise FetchError(
                f"{_HERE / _SOURCES[0]}: {Path(compiler[0]).name} does not compile it:\n  {said}"
            )
        os.replace(draft, program)
    return program


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise FetchError(f"{name} is not on this machine, and compiles the runner of .pte files; install it")
    return found
