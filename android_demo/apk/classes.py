"""Java sources and ONNX Runtime's classes -> one jar without anything that a DEX cannot say -> classes.dex."""

from __future__ import annotations

import zipfile
from pathlib import Path

from common import APP, ENGINES, HERE, JDK, Failed, aar, compile_java, fresh, part, run_quietly, sources, tool

from apk.levels import newer_than

_SHOWN = 5
# java.lang.invoke: of the lambdas that are taken out
_PROGUARD = """\
-injars {app}
-injars {runtime}
-outjars {out}
-libraryjars {android}
-target 1.7
-dontshrink
-dontoptimize
-dontobfuscate
-dontnote
-ignorewarnings
-dontwarn java.lang.invoke.**
-dontwarn org.pytorch.executorch.**
-keepattributes *
"""


def share(name: str) -> Path:
    """A jar of Debian's."""
    return part("apk") / "usr" / "share" / "java" / name


def android_jar() -> Path:
    """Android's classes, API 23."""
    return share("com.android.android-23.jar")


def plain_jar(resources: Path, min_sdk: int, work: Path) -> Path:
    """The app's, the engines' and ONNX Runtime's classes, without lambdas: what becomes the DEX.

    `resources`: folder of R.java.
    """
    classes = fresh(work / "classes")
    files = [*sources(*ENGINES), *resources.rglob("*.java")]
    stubs = fresh(work / "stubs")  # to compile against, not to ship
    compile_java(sources("host/src-et"), stubs, 8, [], "ExecuTorch's Java API")
    runtime = aar() / "classes.jar"
    files += (APP / "java").rglob("*.java")
    compile_java(files, classes, 8, [android_jar(), runtime, stubs], "the app")
    older = work / "onnxruntime.jar"
    _downgrade(runtime, older, work)
    app = work / "app.jar"
    _pack(classes, app)
    plain, rules = work / "plain.jar", work / "proguard.txt"
    rules.write_text(_PROGUARD.format(app=app, runtime=older, out=plain, android=android_jar()), "utf-8")
    said = run_quietly(
        [tool("java", JDK), "-cp", share("proguard-6.2.2.jar"), "proguard.ProGuard", f"@{rules}"],
        "taking lambdas out of the classes",
    )
    newer = newer_than(min_sdk, said)
    if newer:
        raise Failed(
            f"{'; '.join(newer[:_SHOWN])}: not on phones of Android API {min_sdk}, as far as apk/levels.py knows; use "
            "something older, or add the API level that Android's reference names"
        )
    return plain


def dex(jar: Path, min_sdk: int, work: Path) -> Path:
    """classes.dex."""
    target = work / "classes.dex"
    dx = [
        tool("java", JDK),
        "-cp",
        share("com.android.dx-10.0.0.jar"),
        "com.android.dx.command.Main",
        "--dex",
    ]
    run_quietly([*dx, f"--min-sdk-version={min_sdk}", f"--output={target}", jar], "making the DEX")
    return target


def _downgrade(jar: Path, target: Path, work: Path) -> None:
    asm, classes = share("asm-9.4.jar"), fresh(work / "downgrade")
    compile_java([HERE / "apk" / "Downgrade.java"], classes, 17, [asm], "Downgrade.java")
    command = [tool("java", JDK), "-cp", f"{classes}:{asm}", "Downgrade", jar, target]
    run_quietly(command, f"making {jar.name} readable for dx")


def _pack(classes: Path, jar: Path) -> None:
    with zipfile.ZipFile(jar, "w") as archive:
        for path in sorted(classes.rglob("*.class")):
            archive.write(path, path.relative_to(classes).as_posix())
