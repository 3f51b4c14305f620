"""A float32 safetensors file that is filled tensor by tensor, so that no more than one is in memory.

Format (https://github.com/huggingface/safetensors#format): 8 bytes little-endian length of the header, the
header as JSON (name -> dtype, shape, [begin, end) in the data), padded with spaces to 8 bytes, the data.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

_ITEM = 4  # bytes of a float32


class SafetensorsFile:
    """`file[name] = array` writes a tensor; `file[name]` is a writable view of it in the file."""

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.path, self.shapes = path, dict(shapes)
        self._written: set[str] = set()
        entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
        self._begin: dict[str, int] = {}
        end = 0
        for name, shape in self.shapes.items():
            self._begin[name], end = end, end + prod(shape) * _ITEM
            entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [self._begin[name], end]}
        header = json.dumps(entries, separators=(",", ":")).encode()
        header += b" " * (-len(header) % 8)
        self._data = 8 + len(header)
        self._stream = path.open("w+b")
        self._stream.write(struct.pack("<Q", len(header)) + header)
        self._stream.truncate(self._data + end)

    @property
    def missing(self) -> list[str]:
        """Tensors that nothing was written to."""
        return [name for name in self.shapes if name not in self._written]

    def __contains__(self, name: object) -> bool:
        return name in self._written

    def __setitem__(self, name: str, values: Any) -> None:
        """Write one tensor (array or CPU tensor). Raises ValueError for another shape than was announced."""
        array = np.asarray(values)
        if array.shape != self.shapes[name]:
            raise ValueError(f"{name} has shape {array.shape}, config.json asks for {self.shapes[name]}")
        self._stream.seek(self._data + self._begin[name])
        np.ascontiguousarray(array, np.float32).tofile(self._stream)
        self._written.add(name)

    def __getitem__(self, name: str) -> torch.Tensor:
        """The tensor as it lies in the file; writing to it changes the file."""
        import torch

        self._stream.flush()
        offset = self._data + self._begin[name]
        return torch.from_numpy(np.memmap(self.path, np.float32, "r+", offset, self.shapes[name]))

    def __enter__(self) -> SafetensorsFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()
