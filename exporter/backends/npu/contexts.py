"""What a compiled program of Qualcomm's HTP says of itself: the chip, its generation and the SDK.

Read by Qualcomm's own libQnnSystem.so through its C interface (QnnSystemInterface.h, QnnSystemContext.h of SDK 2.49):
QnnSystemInterface_getProviders gives a table of functions, of which the first creates a handle and the second fills
a QnnSystemContext_BinaryInfo_t. Version 3 of that structure holds the number of the chip, and the block of the
hardware, of version 1, the generation (dspArch).
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from exporter.backends.npu.vendor import library_folder
from exporter.errors import ArtifactError
from exporter.socs import SOCS

_TABLE = 4  # 8-byte words before the functions: backend, name, version of the interface (two)
_INFO_VERSION = 3
_BUILD, _BLOB, _SOC = (
    4,
    32,
    34,
)  # 4-byte words in BinaryInfo: pointers to text and hardware block, number of the chip
_BLOB_SIZE = 30


@dataclass(frozen=True)
class Compiled:
    """For what a program was compiled."""

    soc: int  # QNN's number of the chip
    arch: int  # generation of the HTP
    sdk: str


def read_context(content: bytes, where: str) -> Compiled:
    """Of the bytes of one context. Raises ArtifactError where they are none, or of a layout that is not known."""
    create, describe, free = _functions()
    handle, info, size = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_uint64()
    if create(ctypes.byref(handle)):
        raise ArtifactError(f"{where}: Qualcomm's library gives no handle")
    buffer = ctypes.create_string_buffer(content, len(content))
    try:
        failed = describe(handle, buffer, len(content), ctypes.byref(info), ctypes.byref(size))
        if failed or not info.value:
            raise ArtifactError(f"{where}: is no program of Qualcomm's HTP, or was damaged; export again")
        words = (ctypes.c_uint32 * 44).from_address(info.value)
        if words[0] != _INFO_VERSION or words[_BLOB_SIZE] < 8:
            raise ArtifactError(
                f"{where}: describes itself in version {words[0]}, and version {_INFO_VERSION} can be read here; use "
                "the pinned onnxruntime-qnn"
            )
        blob = (ctypes.c_uint32 * 2).from_address(_pointer(words, _BLOB))
        sdk = ctypes.string_at(_pointer(words, _BUILD)).decode(errors="replace")
        return Compiled(int(words[_SOC]), int(blob[1]), sdk)
    finally:
        free(handle)


def check_chip(content: bytes, soc: str, path: Path) -> None:
    """Raise ArtifactError where one context in a file is not compiled for that chip."""
    found, wanted = read_context(content, str(path)), SOCS[soc]
    if (found.soc, found.arch) != (wanted.number, wanted.arch):
        raise ArtifactError(
            f"{path}: is compiled for {_named(found)}, and the recipe asks for {soc} (v{wanted.arch}); export "
            "again for the chip of the phone"
        )


def _named(found: Compiled) -> str:
    """`SM8750 (v79)`."""
    name = next((soc.name for soc in SOCS.values() if soc.number == found.soc), f"chip {found.soc}")
    return f"{name} (v{found.arch})"


def _pointer(words: ctypes.Array[ctypes.c_uint32], place: int) -> int:
    return int(words[place]) | int(words[place + 1]) << 32


@cache
def _functions() -> tuple[ctypes._NamedFuncPointer, ...]:
    library = ctypes.CDLL(str(library_folder() / "libQnnSystem.so"))
    providers, count = ctypes.POINTER(ctypes.c_void_p)(), ctypes.c_uint32()
    if (
        library.QnnSystemInterface_getProviders(ctypes.byref(providers), ctypes.byref(count))
        or not count.value
    ):
        raise ArtifactError(
            "Qualcomm's libQnnSystem.so offers no interface; install the pinned onnxruntime-qnn"
        )
    address = providers[0]
    assert address is not None
    table = (ctypes.c_uint64 * (_TABLE + 3)).from_address(address)
    handle, number = ctypes.c_void_p, ctypes.c_uint64
    create = ctypes.CFUNCTYPE(number, ctypes.POINTER(handle))
    describe = ctypes.CFUNCTYPE(
        number, handle, handle, number, ctypes.POINTER(handle), ctypes.POINTER(number)
    )
    free = ctypes.CFUNCTYPE(number, handle)
    kinds = (create, describe, free)
    return tuple(kind(table[_TABLE + place]) for place, kind in enumerate(kinds))  # type: ignore[misc]
