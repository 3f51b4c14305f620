"""Resources, DEX, libraries and models -> an APK whose stored entries lie where a phone maps them."""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

from common import APP, HERE, aar, fresh, part, run_quietly

ABI = "arm64-v8a"
LIBRARY_ALIGNMENT = 16384  # pages of newer phones
MODEL_ALIGNMENT = 4096
MODEL_ENDINGS = (".ort", ".onnx", ".pte")
_WORD = 4  # zipalign's: resources.arsc is mapped, too
_PADDING = 0xD935  # zipalign's id of an extra field
_DATE = (1981, 1, 1, 1, 1, 2)  # of every entry: two builds are equal
PACKAGE = "org.qexport.demo"


def numbers() -> dict[str, str]:
    """minSdk, targetSdk, versionCode, versionName: as Gradle's build has them."""
    text = (HERE / "app" / "build.gradle").read_text("utf-8")
    return {
        name: re.search(rf"^\s*{name} '?([\w.]+)'?$", text, re.MULTILINE)[1]  # type: ignore[index]
        for name in ("minSdk", "targetSdk", "versionCode", "versionName")
    }


def aapt2() -> Path:
    """The program, which a wheel does not mark as one."""
    program = part("apk") / "aapt2" / "bin" / "Linux" / "aapt2"
    program.chmod(0o755)
    return program


def link(work: Path) -> tuple[Path, Path]:
    """The APK of manifest and resources alone, and the folder of R.java."""
    compiled, base, java = work / "resources.zip", work / "base.apk", fresh(work / "java")
    run_quietly([aapt2(), "compile", "--dir", APP / "res", "-o", compiled], "compiling the resources")
    command = [aapt2(), "link", "--manifest", APP / "AndroidManifest.xml", "--java", java, "-o", base]
    command += ["-I", part("apk") / "usr/share/android-framework-res/framework-res.apk", "--auto-add-overlay"]
    command += ["--rename-manifest-package", PACKAGE]
    found = numbers()
    command += ["--min-sdk-version", found["minSdk"], "--target-sdk-version", found["targetSdk"]]
    command += ["--version-code", found["versionCode"], "--version-name", found["versionName"]]
    run_quietly([*command, compiled], "linking the resources")
    return base, java


def pack(base: Path, dex: Path, models: list[Path], target: Path) -> None:
    """Write the unsigned APK."""
    with target.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
        for name, source in _entries(base, dex, models):
            entry = zipfile.ZipInfo(name, _DATE)
            entry.external_attr = 0o644 << 16
            alignment = alignment_of(name)
            entry.compress_type = zipfile.ZIP_STORED if alignment else zipfile.ZIP_DEFLATED
            if alignment:
                entry.extra = _padding(file.tell() + 30 + len(name.encode()), alignment)
            archive.writestr(entry, source if isinstance(source, bytes) else source.read_bytes())


def alignment_of(name: str) -> int:
    """Of an entry that is stored; 0: it is compressed."""
    if name.endswith(".so"):
        return LIBRARY_ALIGNMENT
    if name.startswith("assets/models/") and name.endswith(MODEL_ENDINGS):
        return MODEL_ALIGNMENT
    return _WORD if name == "resources.arsc" else 0


def _padding(start: int, alignment: int) -> bytes:
    """An extra field after which the data lie aligned; `start`: where they would without one."""
    length = -start % alignment
    if not length:
        return b""
    while length < 6:
        length += alignment
    return struct.pack("<HHH", _PADDING, length - 4, alignment) + bytes(length - 6)


def _entries(base: Path, dex: Path, models: list[Path]) -> Iterator[tuple[str, bytes | Path]]:
    with zipfile.ZipFile(base) as archive:
        for name in sorted(archive.namelist()):
            yield name, archive.read(name)
    yield "classes.dex", dex
    package = part("onnxruntime") / "package"
    yield "assets/licenses/onnxruntime.txt", package / "LICENSE"
    yield "assets/licenses/onnxruntime-third-parties.txt", package / "ThirdPartyNotices.txt"
    for library in sorted((aar() / "jni" / ABI).glob("*.so")):
        yield f"lib/{ABI}/{library.name}", library
    for folder in models:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            yield f"assets/models/{folder.name}/{path.relative_to(folder).as_posix()}", path
