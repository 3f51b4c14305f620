"""Builds what runs the app's parts on this machine: `python android_demo/jvm.py host`.

Into `build`: native/ (ONNX Runtime's desktop library and the natives of its Java API), classes/ (core, engine-ort,
host), classes.jar (ai.onnxruntime) and, where ExecuTorch is installed, et_run.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jvm

HOST = jvm.HERE / "host"
ONNX_RUNTIME = "com.github.asus4.onnxruntime"
AAR = "package/Plugins/Android/onnxruntime.aar"
LIBRARY = "package/Plugins/Linux/x64/libonnxruntime.so"
PARTS = ("core", "engine-ort")
ET_LIBRARIES = (
    "executorch",
    "executorch_backend_xnnpack",
    "executorch_kernels_optimized",
    "executorch_kernels_quantized",
    "executorch_threadpool",
)


def onnx_runtime() -> Path:
    """The npm package's folder in the cache: classes.jar, headers/ and libonnxruntime.so; fetched where missing."""
    package = jvm.pinned()[ONNX_RUNTIME]
    folder = jvm.CACHE / f"{package['file']}.{package['sha256'][:12]}"
    if folder.is_dir():
        return folder
    archive = jvm.CACHE / package["file"]
    jvm.CACHE.mkdir(parents=True, exist_ok=True)
    if not archive.exists():
        _npm_pack(package, archive)
    jvm.check(archive, package)
    with tempfile.TemporaryDirectory(dir=jvm.CACHE) as temporary:
        unpacked = Path(temporary) / "unpacked"
        unpacked.mkdir()
        with tarfile.open(archive) as tar:
            for name in (AAR, LIBRARY):
                tar.extract(name, temporary, filter="data")
        with zipfile.ZipFile(Path(temporary) / AAR) as aar:
            for name in aar.namelist():
                if name == "classes.jar" or name.startswith("headers/"):
                    aar.extract(name, unpacked)
        shutil.copy(Path(temporary) / LIBRARY, unpacked)
        if not folder.is_dir():
            os.replace(unpacked, folder)
    return folder


def _npm_pack(package: dict[str, str], archive: Path) -> None:
    npm = jvm.tool("npm", f"install it, or put {package['file']} into {jvm.CACHE} by hand")
    with tempfile.TemporaryDirectory(dir=jvm.CACHE) as temporary:
        command = [npm, "pack", "--silent", f"{package['name']}@{package['version']}"]
        jvm.run(command, f"downloading {package['name']} {package['version']} with npm", Path(temporary))
        os.replace(Path(temporary) / package["file"], archive)


def natives(build: Path, library: Path | None = None) -> Path:
    """The folder for -Donnxruntime.native.path: the shim beside `library`, by default npm's."""
    package = onnx_runtime()
    folder = build / "native"
    folder.mkdir(parents=True, exist_ok=True)
    java_home = Path(jvm.tool("javac", "install a JDK of version 17 or later")).resolve().parents[1]
    compiler = jvm.tool("gcc", "install gcc")
    includes = [java_home / "include", java_home / "include" / "linux", package / "headers"]
    jvm.run(
        [compiler, "-std=c11", "-O2", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]
        + [f"-I{path}" for path in includes]
        + [str(HOST / "shim.c"), "-o", str(folder / "libonnxruntime4j_jni.so"), "-ldl"],
        "compiling host/shim.c",
    )
    target = folder / "libonnxruntime.so"
    target.unlink(missing_ok=True)
    target.symlink_to((library or package / "libonnxruntime.so").resolve())
    return folder


def classes(build: Path) -> list[Path]:
    """The class path of qexport.host.Main, compiled anew."""
    jar = onnx_runtime() / "classes.jar"
    folder = build / "classes"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for part in PARTS:
        # the jar's classes are Java 17's, which javac for Java 8 reads but warns of
        jvm.compile_java(jvm.HERE / part / "src", folder, 8, [folder, jar], ("-classfile",))
    jvm.compile_java(HOST / "src", folder, 17, [folder, jar], ("-classfile",))
    return [folder, jar]


def et_run(build: Path, package: Path, compiler: str = "g++", flags: tuple[str, ...] = ()) -> Path:
    """The .pte runner, against an unpacked ExecuTorch wheel's folder `executorch`.

    For ARM: the aarch64 wheel, aarch64-linux-gnu-g++ and what else it needs in `flags`; run it with
    LD_LIBRARY_PATH=package/lib.
    """
    out = build / "et_run"
    build.mkdir(parents=True, exist_ok=True)
    include = package / "include"
    ten = include / "executorch" / "runtime" / "core" / "portable_type" / "c10"
    jvm.run(
        [jvm.tool(compiler, f"install {compiler}"), "-std=c++17", "-O2", "-Wall", *flags]
        + ["-DC10_USING_CUSTOM_GENERATED_MACROS", "-DET_EVENT_TRACER_ENABLED"]
        + [part for path in (include, ten) for part in ("-isystem", str(path))]
        + [str(HOST / name) for name in ("et_run.cpp", "et_attention.cpp")]
        + ["-o", str(out), f"-L{package / 'lib'}", f"-Wl,-rpath,{package / 'lib'}"]
        # kernels register themselves when their library loads; nothing else refers to them
        + ["-Wl,--no-as-needed", "-Wl,--allow-shlib-undefined", *(f"-l{name}" for name in ET_LIBRARIES)],
        "compiling host/et_run.cpp",
    )
    return out


def installed_executorch() -> Path | None:
    """The folder of this Python's ExecuTorch, without importing it."""
    from importlib.util import find_spec

    spec = find_spec("executorch")
    places = [] if spec is None else list(spec.submodule_search_locations or [])
    return next((Path(place) for place in places if (Path(place) / "lib").is_dir()), None)


def java(build: Path, *arguments: object, heap: str = "256m") -> list[str]:
    """The command that runs qexport.host.Main of this build."""
    classpath = os.pathsep.join(map(str, [build / "classes", onnx_runtime() / "classes.jar"]))
    return [
        jvm.tool("java", "install a JDK of version 17 or later"),
        f"-Xmx{heap}",
        f"-Donnxruntime.native.path={build / 'native'}",
        "-cp",
        classpath,
        "qexport.host.Main",
        *map(str, arguments),
    ]


def build_all(build: Path) -> None:
    """Everything that this machine can build; says how to run it."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise jvm.Failed(
            f"the host parts run on Linux x86_64, this is {platform.system()} {platform.machine()}"
        )
    natives(build)
    classes(build)
    print(" ".join(java(build, "chat", "BUNDLE_DIR", "--prompt", "TEXT")))
    executorch = installed_executorch()
    if executorch is None:
        print("et_run is not built: this Python has no executorch; use the project's .venv/bin/python")
    else:
        print(f"{et_run(build, executorch)} MODEL.pte STEPS < token ids")
