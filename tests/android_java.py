"""The Android demo's classes on a JVM, over ONNX Runtime's own library of this machine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import require_java
from tiny_jobs import QEXPORT, ROOT


def java_command(build: Path) -> list[str]:
    """Runs qexport.host.Main in 64 MB of heap."""
    import onnxruntime

    require_java()
    (library,) = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so*")
    command = [sys.executable, "android_demo/jvm.py", "host", "--build", build, "--library", library]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    java, *rest = json.loads(done.stdout.splitlines()[-1])
    return [java, "-Xmx64m", "-Xcheck:jni", *rest]


def bundled(artifact: Path, app: Path) -> Path:
    """The folder that `qexport bundle` makes of the artifact, in an app without its sources."""
    (app / "app").mkdir(parents=True)
    shutil.copy(ROOT / "android_demo/app/runtimes.json", app / "app")
    terms = app / "terms.txt"
    terms.write_text("Do as you like.\n")
    command = [QEXPORT, "bundle", artifact, "--app", app, "--license", terms, "--runtime", "onnxruntime"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (folder,) = (app / "app/src/main/assets/models").iterdir()
    return folder


def run_java(
    java: list[str], command: str, folder: Path, *rest: object, given: str = ""
) -> subprocess.CompletedProcess[bytes]:
    """One command of the host on a bundle, two threads."""
    arguments = [*java, command, str(folder), *map(str, rest), "2"]
    return subprocess.run(arguments, input=given.encode(), capture_output=True)
