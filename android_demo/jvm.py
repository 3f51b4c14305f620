"""Compiles the demo's Java parts and runs their tests on the JVM.

    python android_demo/jvm.py core                   compile the core, run its tests
    python android_demo/jvm.py app                    the same for the app's classes that need nothing of Android
    python android_demo/jvm.py host --library FILE    also the engine, for an ONNX Runtime library of this machine;
                                                      prints the command that runs host/src/qexport/host/Main.java
    python android_demo/jvm.py et --executorch DIR    host/et_run, which runs .pte files, for the ExecuTorch of an
                                                      unpacked or installed wheel; --compiler aarch64-linux-gnu-g++
                                                      with ARM's wheel makes a program for emulation

Needs a JDK of version 17 or later, gcc for the host and, for the first run, Debian's apt-get and dpkg-deb or npm.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("QEXPORT_CACHE") or Path.home() / ".cache" / "qexport") / "android"
PARTS = ("core", "app", "host", "et")
APP = HERE / "app" / "src" / "main" / "java"
AAR = "package/Plugins/Android/onnxruntime.aar"
TEST_PACKAGES = ("junit4", "libhamcrest-java")
JARS = ("junit4.jar", "hamcrest.jar")
EXECUTORCH = ("", "_backend_xnnpack", "_kernels_optimized", "_kernels_quantized", "_threadpool")


class Failed(Exception):
    """Something is missing or does not compile; the message says what and the way out."""


def tool(name: str, way_out: str) -> str:
    """The program's path."""
    found = shutil.which(name)
    if found is None:
        raise Failed(f"{name} is not on this machine; {way_out}")
    return found


def run(command: list[str], what: str, where: Path | None = None) -> None:
    """Runs it with its output shown; a failure is named by `what`."""
    code = subprocess.run(command, cwd=where, check=False).returncode
    if code:
        raise Failed(f"{what} failed (exit code {code}); the lines above say why")


def pinned() -> dict[str, dict[str, str]]:
    """packages.toml by name."""
    with open(HERE / "packages.toml", "rb") as file:
        return {package["name"]: package for package in tomllib.load(file)["package"]}


def check(path: Path, package: dict[str, str]) -> None:
    """Refuses a file that is not the pinned one."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != package["sha256"]:
        path.unlink()
        raise Failed(
            f"{path}: sha256 {found}, packages.toml pins {package['sha256']}; it has been deleted, so run this "
            "again, and if the same happens, look at what changed before you pin the new one"
        )


def fetched(package: dict[str, str]) -> Path:
    """The package's archive in the cache, downloaded when it is not there yet, and checked."""
    archive = CACHE / package["file"]
    by_hand = f"put {package['file']} into {CACHE} by hand"
    CACHE.mkdir(parents=True, exist_ok=True)
    if not archive.exists():
        print(f"fetching {package['name']} {package['version']} …", file=sys.stderr)
        if package["kind"] == "deb":
            apt = tool("apt-get", by_hand)
            command = [apt, "download", f"{package['name']}={package['version']}"]
        else:
            command = [tool("npm", by_hand), "pack", "--silent", f"{package['name']}@{package['version']}"]
        with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
            result = subprocess.run(command, cwd=temporary, check=False, capture_output=True, text=True)
            if result.returncode and package["kind"] == "deb":  # a fresh machine has no lists of packages yet
                subprocess.run([apt, "update"], check=False, capture_output=True)
                result = subprocess.run(command, cwd=temporary, check=False, capture_output=True, text=True)
            found = [path for path in Path(temporary).iterdir() if path.suffix in (".deb", ".tgz")]
            if result.returncode or len(found) != 1:
                raise Failed(
                    f"{' '.join(command)} failed: {result.stderr.strip()}; is the registry reachable? Or {by_hand}"
                )
            os.replace(found[0], archive)
    check(archive, package)
    return archive


def deb(package: dict[str, str]) -> Path:
    """A Debian package's folder, unpacked when it is not there yet."""
    folder = CACHE / f"{package['file']}.{package['sha256'][:12]}"
    if folder.is_dir():
        return folder
    archive = fetched(package)
    with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
        unpacked = Path(temporary) / "unpacked"
        run([tool("dpkg-deb", "install dpkg"), "-x", str(archive), str(unpacked)], f"unpacking {archive}")
        if not folder.is_dir():
            os.replace(unpacked, folder)
    return folder


def aar(build: Path) -> Path:
    """ONNX Runtime's Android archive, unpacked: classes.jar, headers, jni."""
    folder = build / "aar"
    if not (folder / "classes.jar").exists():
        with tarfile.open(fetched(pinned()["com.github.asus4.onnxruntime"])) as packed:
            member = packed.extractfile(AAR)
            assert member is not None
            with zipfile.ZipFile(member) as archive:
                archive.extractall(folder)
    return folder


def host(build: Path, library: Path) -> list[str]:
    """Compiles core, engine and host; the command that runs host/src/qexport/host/Main.java against the library."""
    if not library.is_file():
        raise Failed(
            f"{library}: is no library; pass the libonnxruntime.so of an ONNX Runtime of this machine"
        )
    unpacked = aar(build)
    libraries, classes = build / "host" / "lib", build / "host" / "classes"
    for folder in (libraries, classes):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (libraries / name).symlink_to(library)
    java_home = Path(tool("javac", "install a JDK of version 17 or later")).resolve().parents[1]
    shim = [tool("gcc", "install gcc"), "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    shim += [
        f"-I{unpacked / 'headers'}",
        f"-I{java_home / 'include'}",
        f"-I{java_home / 'include' / 'linux'}",
    ]
    shim += [str(HERE / "host" / "shim.c"), "-o", str(libraries / "libonnxruntime4j_jni.so")]
    run([*shim, "-ldl"], "compiling host/shim.c")
    jar = unpacked / "classes.jar"
    compile_java(HERE / "core" / "src", classes, 8, [])
    compile_java(HERE / "engine-ort" / "src", classes, 8, [classes, jar])
    compile_java(HERE / "host" / "src", classes, 17, [classes, jar])
    classpath = os.pathsep.join(map(str, (classes, jar)))
    return [tool("java", ""), f"-Donnxruntime.native.path={libraries}", "-cp", classpath, "qexport.host.Main"]


def et_run(build: Path, executorch: Path, compiler: str) -> Path:
    """Compiles the runner of .pte files against a wheel's folder `executorch`; a run elsewhere needs its lib/ in
    LD_LIBRARY_PATH."""
    include, libraries = executorch / "include", executorch / "lib"
    if not (include.is_dir() and libraries.is_dir()):
        raise Failed(f"{executorch}: has no include and lib; pass the folder executorch of a wheel")
    program = build / "host" / "et_run"
    program.parent.mkdir(parents=True, exist_ok=True)
    ten = include / "executorch" / "runtime" / "core" / "portable_type" / "c10"
    command = [tool(compiler, f"install {compiler}"), "-std=c++17", "-O2", "-Wall", "-Werror"]
    command += ["-DC10_USING_CUSTOM_GENERATED_MACROS", "-DET_EVENT_TRACER_ENABLED"]
    command += ["-isystem", str(include), "-isystem", str(ten)]
    command += [str(HERE / "host" / name) for name in ("et_run.cpp", "et_attention.cpp")]
    command += ["-o", str(program), f"-L{libraries}", f"-Wl,-rpath,{libraries}"]
    # kernels register themselves when their library loads: nothing else refers to them
    command += ["-Wl,--no-as-needed", "-Wl,--allow-shlib-undefined"]
    run([*command, *(f"-lexecutorch{name}" for name in EXECUTORCH)], "compiling host/et_run.cpp")
    return program


def test_jars() -> list[Path]:
    """JUnit and what it needs."""
    packages = pinned()
    folders = [deb(packages[name]) for name in TEST_PACKAGES]
    jars = [folder / "usr" / "share" / "java" / jar for folder, jar in zip(folders, JARS, strict=True)]
    for jar in jars:
        if not jar.exists():
            raise Failed(f"{jar} is missing; delete {jar.parents[3]} and run this again")
    return jars


def compile_java(
    sources: Path, classes: Path, release: int, classpath: list[Path], android: bool = True
) -> None:
    """All of a folder's classes, those that need Android's only where `android`; any warning is an error."""
    files = sorted(str(path) for path in sources.rglob("*.java") if android or not needs_android(path))
    if not files:
        raise Failed(f"{sources}: no Java files; is the checkout complete?")
    javac = tool("javac", "install a JDK of version 17 or later (Debian: openjdk-17-jdk-headless)")
    # options: later JDKs call release 8 itself old; path: JUnit's manifest names a jar that Debian names otherwise
    lint = "-Xlint:all,-options,-path"
    command = [javac, "--release", str(release), "-encoding", "UTF-8", lint, "-Werror", "-d", str(classes)]
    if classpath:
        command += ["-cp", os.pathsep.join(map(str, classpath))]
    run([*command, *files], f"compiling {sources.relative_to(HERE)}")


def needs_android(path: Path) -> bool:
    """Whether the class names Android's; one that uses such a class without naming Android would not compile."""
    return "\nimport android." in path.read_text("utf-8")


def test(part: str, build: Path, cases: Path | None) -> None:
    """Compiles one part with its tests and runs them."""
    jars = test_jars()
    tests = HERE / part / "test"
    classes, test_classes = build / part / "classes", build / part / "test-classes"
    for folder in (classes, test_classes):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    compile_java(HERE / "core" / "src", classes, 8, [])
    if part == "app":
        compile_java(APP, classes, 8, [classes], android=False)
    compile_java(tests, test_classes, 17, [classes, *jars])
    names = [
        ".".join(path.relative_to(tests).with_suffix("").parts) for path in sorted(tests.rglob("*Test.java"))
    ]
    classpath = os.pathsep.join(map(str, [classes, test_classes, *jars]))
    java = tool("java", "install a JDK of version 17 or later")
    command = [java, "-Xmx1g", "-cp", classpath, f"-Dqexport.samples={HERE / part / 'test' / 'samples'}"]
    if cases is not None:
        if not (cases / "cases.jsonl").exists():
            raise Failed(f"{cases}: no cases.jsonl; write it with android_demo/core/test/make_samples.py")
        command.append(f"-Dqexport.cases={cases}")
    run([*command, "org.junit.runner.JUnitCore", *names], f"testing {part}")


def main() -> int:
    """The command line; 1 with a message on standard error when something failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: core", metavar="part")
    parser.add_argument("--build", type=Path, default=HERE / "build", help="folder for classes")
    parser.add_argument("--library", type=Path, help="ONNX Runtime's library, for the host")
    parser.add_argument("--executorch", type=Path, help="folder of a wheel, for et")
    parser.add_argument("--compiler", default="g++", help="for et")
    parser.add_argument("--cases", type=Path, help="folder of core/test/make_samples.py to compare, too")
    arguments = parser.parse_args()
    try:
        for part in arguments.parts or PARTS[:1]:
            if part not in PARTS:
                raise Failed(f"there is no part {part}; choose of {', '.join(PARTS)}")
            if part == "host":
                if arguments.library is None:
                    raise Failed("the host needs --library, the libonnxruntime.so that it runs")
                print(json.dumps(host(arguments.build.resolve(), arguments.library.resolve())))
                continue
            if part == "et":
                if arguments.executorch is None:
                    raise Failed("et needs --executorch, the folder of an ExecuTorch wheel")
                print(et_run(arguments.build.resolve(), arguments.executorch.resolve(), arguments.compiler))
                continue
            test(part, arguments.build.resolve(), arguments.cases and arguments.cases.resolve())
    except Failed as failed:
        print(f"jvm.py: {failed}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
