"""What must be true of a finished APK, asked of Android's own tools and of its bytes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import subprocess
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from common import Failed, cache, part, run_quietly, tool

from apk.packing import ABI, LIBRARY_ALIGNMENT, PACKAGE, aapt2, alignment_of, numbers
from apk.signing import apksigner

_MAIN = "qexport.app.PickerActivity"
_SEVEN_ZIP = (
    "CrcGenerateTable", "Crc64GenerateTable", "XzUnpacker_Code", "XzUnpacker_Construct", "XzUnpacker_Free",
    "XzUnpacker_IsStreamWasFinished",
)  # fmt: skip
_CALL_SITE = 7  # TYPE_CALL_SITE_ID_ITEM of the DEX format; dx writes some for lambdas that were left
_SCHEMES = ("APK Signature Scheme v2", "APK Signature Scheme v3")
_LOAD = 1  # PT_LOAD of elf.h


def check(apk: Path) -> list[str]:
    """What was found to be right, a line for each. Raises Failed with the first thing that is not."""
    if not zipfile.is_zipfile(apk):
        raise Failed(f"{apk}: is no APK")
    checks: list[Callable[[Path], str]] = [_signature, _manifest, _dex, _libraries, _stored, _assets]
    return [one(apk) for one in checks]


def _output(command: list[str], environment: dict[str, str] | None = None) -> tuple[int, str]:
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    return done.returncode, done.stdout + done.stderr


def _signature(apk: Path) -> str:
    code, said = _output([*apksigner(), "verify", "--verbose", str(apk)])
    if code or any(f"({scheme}): true" not in said for scheme in _SCHEMES):
        raise Failed(
            f"{apk}: its signature does not hold: {' '.join(said.split()) or 'apksigner says nothing'}"
        )
    return "signature: v2 and v3 hold (apksigner)"


def _manifest(apk: Path) -> str:
    code, said = _output([str(aapt2()), "dump", "badging", str(apk)])
    if code:
        raise Failed(f"{apk}: aapt2 cannot read it: {' '.join(said.split())}")
    found = numbers()
    wanted = [
        f"package: name='{PACKAGE}'", f"sdkVersion:'{found['minSdk']}'", f"targetSdkVersion:'{found['targetSdk']}'",
        f"launchable-activity: name='{_MAIN}'", f"native-code: '{ABI}'",
    ]  # fmt: skip
    for line in wanted:
        if line not in said:
            raise Failed(f"{apk}: its manifest has no {line} (aapt2 dump badging)")
    permissions = re.findall(
        r"^uses-permission.*", _output([str(aapt2()), "dump", "permissions", str(apk)])[1], re.M
    )
    if permissions:
        raise Failed(f"{apk}: asks for {', '.join(permissions)}; the app works without any")
    return f"manifest: Android API {found['minSdk']} to {found['targetSdk']}, {ABI}, no permission (aapt2)"


def _dex(apk: Path) -> str:
    """dexdump opens it with the structural checks of Android's own loader."""
    program = part("apk") / "usr/lib/android-sdk/build-tools/debian/dexdump"
    libraries = f"{part('apk') / 'usr/lib/x86_64-linux-gnu/android'}:{_seven_zip()}"
    environment = {**os.environ, "LD_LIBRARY_PATH": libraries}
    with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(apk) as archive:
        dex = Path(archive.extract("classes.dex", scratch))
        code, said = _output([str(program), "-f", str(dex)], environment)
        kinds = _kinds(dex.read_bytes())
    if _CALL_SITE in kinds:
        raise Failed(f"{apk}: classes.dex has calls by invoke-custom, which phones cannot link")
    if code or f"Class descriptor  : 'L{_MAIN.replace('.', '/')};'" not in said:
        last = " ".join(said.split()[-30:])
        raise Failed(f"{apk}: dexdump does not accept classes.dex, or it lacks {_MAIN}: {last}")
    return f"classes.dex: {said.count('Class descriptor')} classes (dexdump)"


def _kinds(dex: bytes) -> set[int]:
    """The kinds of items in the file's map_list (DEX format, "type codes")."""
    start = struct.unpack_from("<I", dex, 52)[0]
    count = struct.unpack_from("<I", dex, start)[0]
    return {struct.unpack_from("<H", dex, start + 4 + 12 * number)[0] for number in range(count)}


def _seven_zip() -> Path:
    """dexdump is linked to 7-Zip's library, with which it would read packed symbols of a crash: never here."""
    folder = cache() / "dexdump"
    if not (folder / "7z.so").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f".7z.so.{os.getpid()}"
        source = folder / "7z.c"
        source.write_text("".join(f"void {name}(void) {{}}\n" for name in _SEVEN_ZIP), "utf-8")
        command = [tool("gcc", "install gcc"), "-shared", "-fPIC", "-o", str(draft), str(source)]
        run_quietly(command, "making a library for dexdump")
        os.replace(draft, folder / "7z.so")
    return folder


def _libraries(apk: Path) -> str:
    names = [name for name in _stored_entries(apk) if name.endswith(".so")]
    if not names:
        raise Failed(f"{apk}: has no library of a runtime")
    with zipfile.ZipFile(apk) as archive:
        for name in names:
            smallest = min(_load_alignments(archive.read(name)))
            if smallest < LIBRARY_ALIGNMENT:
                raise Failed(
                    f"{apk}: {name} is linked for pages of {smallest} bytes, phones have {LIBRARY_ALIGNMENT}"
                )
    return f"libraries: {', '.join(Path(name).name for name in names)} at and for pages of {LIBRARY_ALIGNMENT} bytes"


def _load_alignments(elf: bytes) -> list[int]:
    """p_align of the segments that are loaded; 64-bit, little endian."""
    start, size, count = struct.unpack_from("<Q", elf, 32)[0], *struct.unpack_from("<HH", elf, 54)
    headers = [struct.unpack_from("<IIQQQQQQ", elf, start + size * number) for number in range(count)]
    return [header[7] for header in headers if header[0] == _LOAD]


def _stored_entries(apk: Path) -> dict[str, int]:
    """Name -> where its data begin, of everything that must be stored. Raises Failed where one is not or lies wrong."""
    found = {}
    with zipfile.ZipFile(apk) as archive, apk.open("rb") as file:
        for entry in archive.infolist():
            alignment = alignment_of(entry.filename)
            if not alignment:
                continue
            file.seek(entry.header_offset + 26)
            name, extra = struct.unpack("<HH", file.read(4))
            start = entry.header_offset + 30 + name + extra
            if entry.compress_type != zipfile.ZIP_STORED or start % alignment:
                raise Failed(
                    f"{apk}: {entry.filename} lies compressed or at byte {start:,}, not stored at a multiple of "
                    f"{alignment}: it cannot be mapped"
                )
            found[entry.filename] = start
    return found


def _stored(apk: Path) -> str:
    models = [name for name in _stored_entries(apk) if name.startswith("assets/")]
    return f"models: {len(models)} stored and aligned"


def _assets(apk: Path) -> str:
    """Every file of a model is one that its bundle.json lists, and as it says."""
    with zipfile.ZipFile(apk) as archive:
        found = {name for name in archive.namelist() if name.startswith("assets/models/")}
        listed = {}
        for name in sorted(found):
            if re.fullmatch(r"assets/models/[^/]+/bundle\.json", name):
                listed[name] = hashlib.sha256(archive.read(name)).hexdigest()
                listed |= _listed(apk, archive, name)
        for path in sorted(found ^ listed.keys()):
            raise Failed(f"{apk}: {path} is {'missing' if path in listed else 'in no bundle.json'}")
        for path, expected in listed.items():
            with archive.open(path) as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != expected:  # type: ignore[arg-type]
                    raise Failed(f"{apk}: {path} has not the sha256 of its bundle.json")
    return f"assets: {len(listed)} files of models as their bundle.json says"


def _listed(apk: Path, archive: zipfile.ZipFile, name: str) -> dict[str, str]:
    folder = name.removesuffix("bundle.json")
    try:
        return {
            folder + file["path"]: str(file["sha256"]) for file in json.loads(archive.read(name))["files"]
        }
    except (ValueError, KeyError, TypeError) as problem:
        raise Failed(f"{apk}: {name} cannot be read ({type(problem).__name__}: {problem})") from problem
