"""The ARM64 runtimes of packages.toml, in qexport's cache folder: what of them is there, and how it is fetched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from exporter.errors import FetchError
from exporter.fetching import Package, fetch, missing, place, read_packages, unpack
from exporter.folders import cache_folder

PARTS = {
    "onnxruntime": ("emulator", "python", "onnxruntime"),
    "executorch": ("emulator", "python", "executorch", "compiler"),  # python for its C library
}
_LIST = Path(__file__).with_name("packages.toml")


def archives() -> Path:
    """Where the downloads are kept."""
    return cache_folder() / "arm64"


def folder(part: str) -> Path:
    """Where a part is unpacked: another folder where a pin changes."""
    return place(_of((part,)), part, archives())


def provide(runtimes: Sequence[str], download: bool, command: str, say: Callable[[str], None]) -> None:
    """See to it that the parts for these runtimes are unpacked.

    Raises FetchError where something is not there and may not be downloaded, with the command that does so.
    """
    parts = list(dict.fromkeys(part for runtime in runtimes for part in PARTS[runtime]))
    wanted = [part for part in parts if not folder(part).is_dir()]
    absent = missing(_of(wanted), archives())
    if absent:
        size = f"{sum(package.bytes for package in absent) / 1e6:,.0f} MB"
        names = ", ".join(dict.fromkeys(package.part for package in absent))
        if not download:
            raise FetchError(
                f"{archives()}: the ARM64 side is not there ({names}): {size} in {len(absent)} packages of Debian and "
                f"PyPI, pinned by sha256, and some 20 MB of Debian's lists. To fetch them once, type\n  {command}"
            )
        say(f"{len(absent)} packages of Debian and PyPI, {size}, go into {archives()}")
        fetch(_of(wanted), archives(), say)
    for part in wanted:
        unpack(_of((part,)), archives(), folder(part))


def version(name: str) -> str:
    """Of a pinned package, as a person writes it: 1:10.0.13+ds-0+deb13u1 is 10.0.13."""
    found = next(package.version for package in read_packages(_LIST) if package.name == name)
    return found.rpartition(":")[2].partition("+")[0]


def _of(parts: Sequence[str]) -> list[Package]:
    return [package for package in read_packages(_LIST) if package.part in parts]
