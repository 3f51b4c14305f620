"""What the demo's builds share: programs of this machine, pinned downloads, the Java compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from exporter.errors import FetchError
from exporter.fetching import unpacked
from exporter.folders import cache_folder

HERE = Path(__file__).resolve().parent
APP = HERE / "app" / "src" / "main"
ENGINES = ("core/src", "engine-ort/src", "engine-et/src")
JDK = "install a JDK of version 17 or later (Debian: openjdk-17-jdk-headless)"


class Failed(Exception):
    """Something is missing or does not compile; the message says what and the way out."""


def tool(name: str, way_out: str) -> str:
    """The program's path."""
    found = shutil.which(name)
    if found is None:
        raise Failed(f"{name} is not on this machine; {way_out}")
    return found


def run(command: Sequence[str | Path], what: str) -> None:
    """Runs it with its output shown; a failure is named by `what`."""
    code = subprocess.run([str(word) for word in command], check=False).returncode
    if code:
        raise Failed(f"{what} failed (exit code {code}); the lines above say why")


def run_quietly(command: Sequence[str | Path], what: str) -> str:
    """What it said, which is shown only where it fails."""
    done = subprocess.run([str(word) for word in command], check=False, capture_output=True, text=True)
    if done.returncode:
        print(done.stdout + done.stderr, file=sys.stderr)
        raise Failed(f"{what} failed (exit code {done.returncode}); the lines above say why")
    return done.stdout + done.stderr


def cache() -> Path:
    """Where downloads are kept."""
    return cache_folder() / "android"


def part(name: str) -> Path:
    """The folder of a part of packages.toml, downloaded, checked and unpacked where it is not yet there."""
    try:
        return unpacked(HERE / "packages.toml", name, cache(), lambda text: print(text, file=sys.stderr))
    except FetchError as problem:
        raise Failed(str(problem)) from problem


def aar() -> Path:
    """ONNX Runtime's Android archive, unpacked: classes.jar, headers, jni."""
    package = part("onnxruntime")
    folder = package.with_name(f"{package.name}-aar")
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(prefix=".unpack-", dir=folder.parent) as scratch:
            with zipfile.ZipFile(package / "package/Plugins/Android/onnxruntime.aar") as archive:
                archive.extractall(Path(scratch) / "aar")
            if not folder.is_dir():
                os.replace(Path(scratch) / "aar", folder)
    return folder


def fresh(folder: Path) -> Path:
    """The folder, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def compile_java(
    files: Iterable[Path], classes: Path, release: int, classpath: Iterable[Path], what: str
) -> None:
    """Into the folder `classes`; any warning is an error."""
    found = sorted(str(path) for path in files)
    if not found:
        raise Failed(f"{what}: no Java files; is the checkout complete?")
    # options: later JDKs call release 8 itself old; path: JUnit's manifest names a jar that Debian names otherwise
    lint = "-Xlint:all,-options,-path"
    command = [
        tool("javac", JDK),
        "--release",
        str(release),
        "-encoding",
        "UTF-8",
        lint,
        "-Werror",
        "-d",
        str(classes),
    ]
    names = os.pathsep.join(map(str, classpath))
    run([*command, *(["-cp", names] if names else []), *found], f"compiling {what}")


def sources(*folders: str) -> list[Path]:
    """All Java files of these folders of the demo."""
    return [path for folder in folders for path in (HERE / folder).rglob("*.java")]
