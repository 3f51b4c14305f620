"""Pinned packages of Debian, PyPI and npm: downloaded, checked by sha256, unpacked.

A list of them is a TOML file of [[package]] tables. Nothing is installed: Debian's come through apt-get with a state of
its own, signed by Debian's keyring, from the mirror that this machine's apt uses; wheels through pip and its index,
npm's packages through npm.
Standard library only.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from exporter.errors import FetchError

_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_SAID = 3  # last lines of a tool, in a message


@dataclass(frozen=True)
class Package:
    """One pinned archive."""

    name: str
    kind: Literal["deb", "wheel", "npm"]
    version: str
    file: str
    bytes: int
    sha256: str
    part: str  # what it is of; a list's own words
    why: str
    licence: str
    suite: str = ""  # of Debian
    arch: str = ""
    keep: tuple[str, ...] = ()  # what of it is unpacked, files and folders; all where empty


def read_packages(path: Path) -> tuple[Package, ...]:
    """The list's packages, in its order."""
    entries = tomllib.loads(path.read_text("utf-8"))["package"]
    return tuple(Package(**{**entry, "keep": tuple(entry.get("keep", ()))}) for entry in entries)


def missing(packages: Iterable[Package], cache: Path) -> list[Package]:
    """Those whose archive is not in the cache."""
    return [package for package in packages if not (cache / package.file).is_file()]


def fetch(packages: Iterable[Package], cache: Path, say: Callable[[str], None]) -> None:
    """Download what is not in the cache. Raises FetchError for one that cannot be had or has another sha256."""
    cache.mkdir(parents=True, exist_ok=True)
    for package in packages:
        archive = cache / package.file
        if not archive.is_file():
            say(f"fetching {package.name} {package.version}, {package.bytes / 1e6:.1f} MB")
            with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache) as scratch:
                _DOWNLOAD[package.kind](package, Path(scratch), cache)
                os.replace(Path(scratch) / package.file, archive)
        check(package, archive)


def check(package: Package, archive: Path) -> None:
    """Refuse, and delete, an archive that is not the pinned one."""
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != package.sha256:
        archive.unlink()
        raise FetchError(
            f"{archive}: sha256 {found}, pinned is {package.sha256}; it has been deleted, so run this again, and if "
            "the same happens, look at what changed before you pin the new one"
        )


def unpack(packages: Sequence[Package], cache: Path, folder: Path) -> None:
    """The archives' contents, one over the other, as `folder`: whole or not at all. Raises FetchError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=folder.parent) as scratch:
        whole, aside = Path(scratch) / "whole", Path(scratch) / "aside"
        for package in packages:
            archive, place = cache / package.file, aside if package.keep else whole
            check(package, archive)
            if package.kind == "deb":
                command = [_tool("dpkg-deb", "install dpkg"), "-x", str(archive), str(place)]
                _run(command, Path(scratch), f"dpkg-deb -x {archive}")
            elif package.kind == "npm":
                with tarfile.open(archive) as packed:
                    members = [packed.getmember(kept) for kept in package.keep] or packed.getmembers()
                    packed.extractall(place, members, filter="data")
            else:
                with zipfile.ZipFile(archive) as wheel:
                    wheel.extractall(place)
            for kept in package.keep:
                (whole / kept).parent.mkdir(parents=True, exist_ok=True)
                os.replace(aside / kept, whole / kept)
        if not folder.is_dir():
            os.replace(whole, folder)


def unpacked(list_: Path, part: str, cache: Path, say: Callable[[str], None]) -> Path:
    """The folder of one part of a list, downloaded and unpacked where it is not yet. Raises FetchError."""
    packages = [package for package in read_packages(list_) if package.part == part]
    folder = place(packages, part, cache)
    if not folder.is_dir():
        fetch(packages, cache, say)
        unpack(packages, cache, folder)
    return folder


def place(packages: Iterable[Package], part: str, cache: Path) -> Path:
    """Where a part is unpacked: another folder where a pin changes."""
    pins = "".join(package.sha256 for package in packages)
    return cache / f"{part}-{hashlib.sha256(pins.encode()).hexdigest()[:12]}"


def _deb(package: Package, scratch: Path, cache: Path) -> None:
    apt = _tool("apt-get", f"use Debian, or put {package.file} into {cache} by hand")
    state = cache / "apt" / f"{package.suite}-{package.arch}"
    for folder in ("lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    (state / "sources.list").write_text(
        f"deb [arch={package.arch} signed-by={_KEYRING}] {_mirror(apt)} {package.suite} main\n", "utf-8"
    )
    settings = {
        "Dir::Etc::sourcelist": state / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": state / "lists",
        "Dir::State::status": os.devnull,
        "Dir::Cache": state / "cache",
        "Dir::Cache::pkgcache": "",
        "Dir::Cache::srcpkgcache": "",
        "APT::Architecture": package.arch,
        "APT::Architectures::": package.arch,
        "APT::Sandbox::User": "root",  # apt's own user may not write here
    }
    command = [apt, *(word for key, value in settings.items() for word in ("-o", f"{key}={value}"))]
    wanted = f"{package.name}={package.version}"
    if not any((state / "lists").glob("*_Packages*")) or _failed([*command, "download", wanted], scratch):
        way_out = _by_hand(package, cache)
        _run([*command, "update"], scratch, f"apt-get update for {package.suite}", way_out)
        _run([*command, "download", wanted], scratch, f"apt-get download {wanted}", way_out)


def _mirror(apt: str) -> str:
    """Of this machine's own sources."""
    command = [apt, "indextargets", "--format", "$(SITE)"]
    found = subprocess.run(command, check=False, capture_output=True, text=True).stdout.split()
    sites = [site for site in found if "security" not in site]
    if not sites:
        raise FetchError("apt-get indextargets names no mirror; set up apt's sources, or use Debian")
    return sites[0]


def _wheel(package: Package, scratch: Path, cache: Path) -> None:
    """The tags of the file's name tell pip which machine it is for; `any` is for all."""
    interpreter, abi, platforms = package.file.removesuffix(".whl").split("-")[-3:]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(scratch)]
    if platforms != "any":
        command += ["--implementation", "cp", "--abi", abi]
        command += ["--python-version", interpreter.removeprefix("cp")]
        command += [word for platform in platforms.split(".") for word in ("--platform", platform)]
    wanted = f"{package.name}=={package.version}"
    _run([*command, wanted], scratch, f"pip download {wanted}", _by_hand(package, cache))


def _npm(package: Package, scratch: Path, cache: Path) -> None:
    wanted = f"{package.name}@{package.version}"
    npm = _tool("npm", f"install it, or put {package.file} into {cache} by hand")
    _run([npm, "pack", "--silent", wanted], scratch, f"npm pack {wanted}", _by_hand(package, cache))


_DOWNLOAD: dict[str, Callable[[Package, Path, Path], None]] = {"deb": _deb, "wheel": _wheel, "npm": _npm}


def _failed(command: Sequence[str], where: Path) -> bool:
    return subprocess.run(command, cwd=where, check=False, capture_output=True).returncode != 0


def _run(command: Sequence[str], where: Path, what: str, way_out: str = "the lines above say why") -> None:
    result = subprocess.run(command, cwd=where, check=False, capture_output=True, text=True)
    if result.returncode:
        lines = result.stderr.strip().splitlines()
        errors = [line for line in lines if line.startswith(("E:", "ERROR:"))]
        said = "".join(f"\n  {line}" for line in (errors or lines)[-_SAID:])
        raise FetchError(f"{what} failed with exit code {result.returncode}:{said}\n{way_out}")


def _by_hand(package: Package, cache: Path) -> str:
    return f"is the network reachable, and this version still there? If not, put {package.file} into {cache} by hand"


def _tool(name: str, way_out: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise FetchError(f"{name} is not on this machine; {way_out}")
    return found
