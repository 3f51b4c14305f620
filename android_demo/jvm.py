"""Compiles the demo's Java parts and runs their tests on the JVM: `python android_demo/jvm.py core`.

`python android_demo/jvm.py host` builds the command line that runs bundles here (host/host_build.py).

Needs a JDK of version 17 or later and, for the first run, Debian's apt-get and dpkg-deb to fetch JUnit.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("QEXPORT_CACHE") or Path.home() / ".cache" / "qexport") / "android"
PARTS = ("core", "host")
TEST_PACKAGES = ("junit4", "libhamcrest-java")
JARS = ("junit4.jar", "hamcrest.jar")


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


def deb(package: dict[str, str]) -> Path:
    """The package's folder, downloaded, checked and unpacked when it is not there yet."""
    archive = CACHE / package["file"]
    folder = CACHE / f"{package['file']}.{package['sha256'][:12]}"
    if folder.is_dir():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    if not archive.exists():
        apt = tool("apt-get", f"put {package['file']} of Debian {package['suite']} into {CACHE} by hand")
        with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
            wanted = f"{package['name']}={package['version']}"
            result = subprocess.run(
                [apt, "download", wanted], cwd=temporary, check=False, capture_output=True, text=True
            )
            fetched = list(Path(temporary).glob("*.deb"))
            if result.returncode or len(fetched) != 1:
                raise Failed(
                    f"apt-get download {wanted} failed: {result.stderr.strip()}; run apt-get update, or put "
                    f"{package['file']} of Debian {package['suite']} into {CACHE} by hand"
                )
            os.replace(fetched[0], archive)
    check(archive, package)
    with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
        unpacked = Path(temporary) / "unpacked"
        run([tool("dpkg-deb", "install dpkg"), "-x", str(archive), str(unpacked)], f"unpacking {archive}")
        if not folder.is_dir():
            os.replace(unpacked, folder)
    return folder


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
    sources: Path, classes: Path, release: int, classpath: list[Path], lint: tuple[str, ...] = ()
) -> None:
    """All of a folder's classes; any warning is an error, but for the kinds that `lint` takes out."""
    files = sorted(str(path) for path in sources.rglob("*.java"))
    if not files:
        raise Failed(f"{sources}: no Java files; is the checkout complete?")
    javac = tool("javac", "install a JDK of version 17 or later (Debian: openjdk-17-jdk-headless)")
    # options: later JDKs call release 8 itself old; path: JUnit's manifest names a jar that Debian names otherwise
    kinds = "-Xlint:" + ",".join(("all", "-options", "-path", *lint))
    command = [javac, "--release", str(release), "-encoding", "UTF-8", kinds, "-Werror", "-d", str(classes)]
    if classpath:
        command += ["-cp", os.pathsep.join(map(str, classpath))]
    run([*command, *files], f"compiling {sources.relative_to(HERE)}")


def test(part: str, build: Path, cases: Path | None) -> None:
    """Compiles one part with its tests and runs them."""
    jars = test_jars()
    sources, tests = HERE / part / "src", HERE / part / "test"
    classes, test_classes = build / part / "classes", build / part / "test-classes"
    for folder in (classes, test_classes):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    compile_java(sources, classes, 8, [])
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


def build_host(build: Path) -> None:
    """The host parts; a module of their own, since only they need npm and a C compiler."""
    sys.modules.setdefault("jvm", sys.modules[__name__])  # this file, also when it runs as the program
    sys.path.insert(0, str(HERE / "host"))
    import host_build as host

    host.build_all(build)


def main() -> int:
    """The command line; 1 with a message on standard error when something failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all", metavar="part")
    parser.add_argument("--build", type=Path, default=HERE / "build", help="folder for classes")
    parser.add_argument("--cases", type=Path, help="folder of core/test/make_samples.py to compare, too")
    arguments = parser.parse_args()
    try:
        for part in arguments.parts or PARTS:
            if part not in PARTS:
                raise Failed(f"there is no part {part}; choose of {', '.join(PARTS)}")
            if part == "host":
                build_host(arguments.build.resolve() / "host")
            else:
                test(part, arguments.build.resolve(), arguments.cases and arguments.cases.resolve())
    except Failed as failed:
        print(f"jvm.py: {failed}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
