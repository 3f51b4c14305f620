"""Compiles the demo's Java parts and runs their tests on the JVM.

    python android_demo/jvm.py core                   compile the core, run its tests
    python android_demo/jvm.py app                    the same for the app's classes that need nothing of Android
    python android_demo/jvm.py host --library FILE    also the engine, for an ONNX Runtime library of this machine;
                                                      prints the command that runs host/src/qexport/host/Main.java
    … --executorch DIR                                and for the ExecuTorch of an unpacked or installed wheel
    … --jar FILE                                      the classes that become the APK's DEX instead of fresh ones:
                                                      `python android_demo/build_apk.py classes --out FILE`

Needs qexport's own environment, a JDK of version 17 or later, gcc for the host and, for the first run, Debian's apt-get
and dpkg-deb or npm.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from common import APP, ENGINES, HERE, JDK, Failed, aar, compile_java, fresh, part, run, sources, tool

PARTS = ("core", "app", "host")
# attention's sums several at a time: its plain loops are no part of what is tested
QUICK_SUMS = ("-O3", "-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math", "-fno-math-errno")
EXECUTORCH = ("", "_backend_xnnpack", "_kernels_optimized", "_kernels_quantized", "_threadpool")


def host(build: Path, library: Path, executorch: Path | None, jar: Path | None) -> list[str]:
    """Compiles core, engines and host; the command that runs host/src/qexport/host/Main.java against the libraries."""
    if not library.is_file():
        raise Failed(
            f"{library}: is no library; pass the libonnxruntime.so of an ONNX Runtime of this machine"
        )
    libraries, classes = fresh(build / "host" / "lib"), fresh(build / "host" / "classes")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (libraries / name).symlink_to(library)
    java = Path(tool("javac", JDK)).resolve().parents[1] / "include"
    headers = [f"-I{java}", f"-I{java / 'linux'}"]
    shim = [tool("gcc", "install gcc"), "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", *headers]
    shim += [f"-I{aar() / 'headers'}", str(HERE / "host" / "shim.c")]
    run([*shim, "-o", libraries / "libonnxruntime4j_jni.so", "-ldl"], "compiling host/shim.c")
    api = fresh(build / "host" / "executorch")  # apart from the classes: it is in no APK
    compile_java(sources("host/src-et"), api, 8, [], "ExecuTorch's Java API")
    given = [jar] if jar else [aar() / "classes.jar"]
    if jar is None:
        compile_java(sources(*ENGINES), classes, 8, [*given, api], "core and engines")
    compile_java(sources("host/src"), classes, 17, [classes, *given], "host")
    classpath = [classes, *given]
    if executorch is not None:
        target = libraries / "libexecutorch_jni.so"
        compile_natives(
            "et_shim.cpp", executorch, ["-shared", "-fPIC", *QUICK_SUMS, *headers, "-o", str(target)]
        )
        classpath.append(api)
    native = [f"-Donnxruntime.native.path={libraries}", f"-Djava.library.path={libraries}"]
    return [tool("java", JDK), *native, "-cp", os.pathsep.join(map(str, classpath)), "qexport.host.Main"]


def compile_natives(source: str, executorch: Path, options: list[str]) -> None:
    """Compiles a source of host/ and qexport's attention kernels, linked to the libraries of a wheel."""
    include, libraries = executorch / "include", executorch / "lib"
    if not (include.is_dir() and libraries.is_dir()):
        raise Failed(f"{executorch}: has no include and lib; pass the folder executorch of a wheel")
    ten = include / "executorch" / "runtime" / "core" / "portable_type" / "c10"
    command = [tool("g++", "install g++"), "-std=c++17", "-O2", "-Wall", "-Werror"]
    command += ["-DC10_USING_CUSTOM_GENERATED_MACROS", "-DET_EVENT_TRACER_ENABLED"]
    command += ["-isystem", str(include), "-isystem", str(ten)]
    attention = HERE.parent / "exporter" / "replay" / "et_attention.cpp"
    command += [str(HERE / "host" / source), str(attention)]
    command += [*options, f"-L{libraries}", f"-Wl,-rpath,{libraries}"]
    # kernels register themselves when their library loads: nothing else refers to them
    command += ["-Wl,--no-as-needed", "-Wl,--allow-shlib-undefined"]
    run([*command, *(f"-lexecutorch{name}" for name in EXECUTORCH)], f"compiling host/{source}")


def test_jars() -> list[Path]:
    """JUnit and what it needs."""
    folder = part("tests") / "usr" / "share" / "java"
    return [folder / "junit4.jar", folder / "hamcrest.jar"]


def needs_android(path: Path) -> bool:
    """Whether the class names Android's; one that uses such a class without naming Android would not compile."""
    return "\nimport android." in path.read_text("utf-8")


def test(name: str, build: Path, cases: Path | None, jar: Path | None) -> None:
    """Compiles one part with its tests and runs them."""
    tests = HERE / name / "test"
    classes, test_classes = fresh(build / name / "classes"), fresh(build / name / "test-classes")
    if jar is None:
        files = sources("core/src")
        if name == "app":
            files += [path for path in (APP / "java").rglob("*.java") if not needs_android(path)]
        compile_java(files, classes, 8, [], name)
    given = [jar or classes, *test_jars()]
    compile_java(tests.rglob("*.java"), test_classes, 17, given, f"the tests of {name}")
    names = [
        ".".join(path.relative_to(tests).with_suffix("").parts) for path in sorted(tests.rglob("*Test.java"))
    ]
    classpath = os.pathsep.join(map(str, [*given, test_classes]))
    command = [
        tool("java", JDK),
        "-Xmx1g",
        "-cp",
        classpath,
        f"-Dqexport.samples={HERE / name / 'test/samples'}",
    ]
    if cases is not None:
        if not (cases / "cases.jsonl").exists():
            raise Failed(f"{cases}: no cases.jsonl; write it with android_demo/core/test/make_samples.py")
        command.append(f"-Dqexport.cases={cases}")
    run([*command, "org.junit.runner.JUnitCore", *names], f"testing {name}")


def main() -> int:
    """The command line; 1 with a message on standard error when something failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: core", metavar="part")
    parser.add_argument("--build", type=Path, default=HERE / "build", help="folder for classes")
    parser.add_argument("--library", type=Path, help="ONNX Runtime's library, for the host")
    parser.add_argument("--executorch", type=Path, help="folder of a wheel, for the host")
    parser.add_argument("--cases", type=Path, help="folder of core/test/make_samples.py to compare, too")
    parser.add_argument("--jar", type=Path, help="classes to run instead of fresh ones")
    arguments = parser.parse_args()
    build, cases, jar = (
        path and path.resolve() for path in (arguments.build, arguments.cases, arguments.jar)
    )
    try:
        for name in arguments.parts or PARTS[:1]:
            if name not in PARTS:
                raise Failed(f"there is no part {name}; choose of {', '.join(PARTS)}")
            if name == "host":
                if arguments.library is None:
                    raise Failed("the host needs --library, the libonnxruntime.so that it runs")
                executorch = arguments.executorch and arguments.executorch.resolve()
                print(json.dumps(host(build, arguments.library.resolve(), executorch, jar)))
                continue
            test(name, build, cases, jar)
    except Failed as failed:
        print(f"jvm.py: {failed}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
