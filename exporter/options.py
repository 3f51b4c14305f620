"""Values of command-line options that click does not read itself."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Any

import click


class Bytes(click.ParamType[int]):
    """`3GB`, `900MB`: powers of 1000, as the sizes that qexport prints."""

    name = "SIZE"
    _units = MappingProxyType({"KB": 10**3, "MB": 10**6, "GB": 10**9})

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]B)", str(value).strip(), re.IGNORECASE)
        if match is None:
            self.fail(f"{value!r} is not a size such as 3GB or 900MB", param, ctx)
        return int(float(match[1]) * self._units[match[2].upper()])


class Counts(click.ParamType[tuple[int, ...]]):
    """`16,128,512`: whole numbers above zero."""

    name = "N,N,…"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """The numbers; a default may be them already."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",")]
        if not all(part.isdigit() and int(part) > 0 for part in parts):
            self.fail(f"{value!r} is not a list of numbers above zero such as 16,128,512", param, ctx)
        return tuple(map(int, parts))


class Names(click.ParamType[tuple[str, ...]]):
    """`text,code`: names with commas between; who takes them knows which there are."""

    name = "NAME,NAME,…"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Each name once; a default may be them already."""
        if isinstance(value, tuple):
            return value
        return tuple(dict.fromkeys(part.strip() for part in str(value).split(",") if part.strip()))
