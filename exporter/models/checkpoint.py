"""Weights by name from a checkpoint folder, one at a time. Never unpickles arbitrary code."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.errors import SourceError, first_line
from exporter.models.sources import file_sha256

if TYPE_CHECKING:
    import torch

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLE, _PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


class Checkpoint:
    """Tensors of a folder in Hugging Face's layout; memory-mapped, so reading one costs one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def files(self) -> dict[str, Path]:
        """Tensor name -> the file that holds it. Raises SourceError for missing or truncated files."""
        if (self.folder / _SINGLE).is_file():
            return dict.fromkeys(self._names(self.folder / _SINGLE), self.folder / _SINGLE)
        for index in (_INDEX, _PICKLE_INDEX):
            if (self.folder / index).is_file():
                return self._indexed(self.folder / index)
        if (self.folder / _PICKLE).is_file():
            return dict.fromkeys(self._pickled(self.folder / _PICKLE), self.folder / _PICKLE)
        raise SourceError(
            f"{self.folder}: there are no weights; expected {_SINGLE}, {_INDEX} or {_PICKLE} beside config.json"
        )

    def sha256(self) -> dict[str, str]:
        """sha256 of every weight file, by file name."""
        return {path.name: file_sha256(path) for path in sorted(set(self.files.values()))}

    def read(self, name: str) -> torch.Tensor:
        """One tensor as float32. Raises SourceError when it is not there."""
        import torch

        if name not in self.files:
            raise SourceError(f"{self.folder}: the weights hold no tensor {name!r}")
        path = self.files[name]
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, framework="pt") as stream:
                tensor: torch.Tensor = stream.get_tensor(name)
        else:
            tensor = self._pickled(path)[name]
        return tensor.to(torch.float32) if tensor.is_floating_point() else tensor

    def _indexed(self, index: Path) -> dict[str, Path]:
        try:
            weight_map = json.loads(index.read_text())["weight_map"]
        except (ValueError, KeyError) as problem:
            raise SourceError(f"{index}: not a weight index ({problem})") from problem
        missing = sorted({file for file in weight_map.values() if not (self.folder / file).is_file()})
        if missing:
            raise SourceError(
                f"{self.folder}: {index.name} names {missing[0]!r}, which is not there; fetch it again"
            )
        for file in set(weight_map.values()):
            if file.endswith(".safetensors"):
                self._names(self.folder / file)
        return {name: self.folder / file for name, file in weight_map.items()}

    def _names(self, path: Path) -> list[str]:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="np") as stream:
                return list(stream.keys())
        except (SafetensorError, OSError) as problem:
            size = path.stat().st_size
            raise SourceError(
                f"{path}: damaged or truncated safetensors file of {size:,} bytes ({problem}); fetch it again"
            ) from problem

    def _pickled(self, path: Path) -> dict[str, torch.Tensor]:
        import pickle

        import torch

        try:
            state: dict[str, torch.Tensor] = torch.load(
                path, map_location="cpu", weights_only=True, mmap=True
            )
        except (RuntimeError, pickle.UnpicklingError, EOFError, OSError) as problem:
            raise SourceError(
                f"{path}: cannot be read with weights_only=True ({first_line(problem)}). It is truncated, or "
                "holds more than tensors; save it again as safetensors"
            ) from problem
        return state
