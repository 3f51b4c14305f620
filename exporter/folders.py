"""Where things are kept between jobs: converted checkpoints, fetched models and data sets, drawn samples."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from exporter.errors import QexportError

DATA_SCHEME = "data:"  # of a path in a recipe: what scripts/fetch_data.py fetched


def cache_folder() -> Path:
    """Where converted checkpoints, layer lists and fetched files are kept; QEXPORT_CACHE overrides the
    platform's place."""
    override = os.environ.get("QEXPORT_CACHE")
    if override:
        return Path(override)
    import platformdirs

    return platformdirs.user_cache_path("qexport")


def data_folder() -> Path:
    """Where scripts/fetch_data.py puts data sets, and where `data:NAME/FILE` of a recipe is looked for."""
    return cache_folder() / "data"


def data_path(written: str, beside: Path) -> Path:
    """`data:NAME/FILE` in data_folder(), anything else relative to the folder `beside`."""
    if written.startswith(DATA_SCHEME):
        return data_folder() / written.removeprefix(DATA_SCHEME)
    return beside / Path(written).expanduser()


def fetch_hint(path: Path) -> str:
    """The end of a message about a missing file: how data of the cache folder get there; else nothing."""
    if not path.is_relative_to(data_folder()):
        return ""
    name = path.relative_to(data_folder()).parts[:1]
    return f"; `python scripts/fetch_data.py {name[0]}` fetches it" if name else ""


def not_fetched(path: Path) -> bool:
    """Whether this is of a data set that is not on this machine, so that nothing can be said of its files."""
    if not path.is_relative_to(data_folder()):
        return False
    name = path.relative_to(data_folder()).parts[:1]
    return bool(name) and not (data_folder() / name[0]).is_dir()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Inside, no other process works in this folder. Raises QexportError where one does; a process that was killed
    holds no lock."""
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise QexportError(
                f"{folder}: another qexport is at work there; wait for it, or stop it and run again"
            ) from None
        yield
