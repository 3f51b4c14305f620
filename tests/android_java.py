"""The Android demo's classes on a JVM, over the runtimes' own libraries of this machine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from conftest import require_java
from tiny_jobs import QEXPORT, ROOT


def java_command(build: Path, *, executorch: bool = False, of_dex: bool = False) -> list[str]:
    """Runs qexport.host.Main in 64 MB of heap; with ONNX Runtime alone, or with ExecuTorch, too. `of_dex`: the very
    classes that become the APK's DEX."""
    import onnxruntime

    require_java()
    (library,) = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so*")
    command = [sys.executable, "android_demo/jvm.py", "host", "--build", build, "--library", library]
    if executorch:
        command += ["--executorch", installed_executorch()]
    if of_dex:
        jar = build / "dex.jar"
        done = build_apk("classes", "--out", jar)
        assert done.returncode == 0, done.stderr
        command += ["--jar", jar]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    java, *rest = json.loads(done.stdout.splitlines()[-1])
    return [java, "-Xmx64m", "-Xcheck:jni", *rest]


def build_apk(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The offline build's command line."""
    command = [sys.executable, "android_demo/build_apk.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def run_junit(*arguments: object) -> None:
    """The JUnit tests of the parts that jvm.py is asked for pass."""
    require_java()
    command = [sys.executable, "android_demo/jvm.py", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\nOK (" in done.stdout


def installed_executorch() -> Path:
    """The wheel's folder with its C++ libraries."""
    spec = find_spec("executorch")
    assert spec is not None
    (folder,) = [
        place for place in map(Path, spec.submodule_search_locations or ()) if (place / "lib").is_dir()
    ]
    return folder


def bundled(artifact: Path, app: Path, runtime: str = "onnxruntime", licensed: bool = False) -> Path:
    """The folder that `qexport bundle` makes of the artifact, in an app without its sources; `licensed`: the model
    comes with a licence."""
    (app / "app").mkdir(parents=True)
    shutil.copy(ROOT / "android_demo/app/runtimes.json", app / "app")
    command = [QEXPORT, "bundle", artifact, "--app", app, "--runtime", runtime]
    if not licensed:
        terms = app / "terms.txt"
        terms.write_text("Do as you like.\n")
        command += ["--license", terms]
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
