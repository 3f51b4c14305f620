"""Integers of a language model whose methods look at calibration text, one block after the other.

How much each token counts for a layer is told by gradients of the float model first (sensitivity).

A block's layers are measured behind blocks that hold their integers already, so each makes up for what those before it
have lost. (Frantar et al., GPTQ, 2023, section 4: "sequentially, block by block".) Memory: one block's moments and
weights, and a few windows of hidden states; the states of all windows lie on disk.

Everything that is done is on disk before the next block begins, so a run that was killed goes on with the block that it
was in, and writes what it would have written.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from exporter.artifacts import write_json
from exporter.blockwise.blocks import Blocks
from exporter.blockwise.moments import InputMoments
from exporter.blockwise.sensitivity import VERSION, Sensitivity, measured
from exporter.errors import SourceError
from exporter.folders import cache_folder
from exporter.layers import LayerInfo
from exporter.memory import release_to_system
from exporter.methods.choosing import Seen, chosen
from exporter.models.causal_lm import CausalLM
from exporter.models.reference import hold_integers, streamed_float_model
from exporter.quantizing import QuantizedStore, quantize_layers
from exporter.schemes import CALIBRATED_METHODS, QuantScheme

_BATCH = 4  # windows that go through a block together
_STATE = "progress.json"
Progress = Callable[[str, float], None]


@dataclass
class Work:
    """What is done, and the hidden states it was done with."""

    folder: Path
    done: dict[str, Any]

    @classmethod
    def opened(cls, folder: Path, none_yet: dict[str, Any]) -> Work:
        """The folder's progress, or none yet."""
        folder.mkdir(exist_ok=True)
        path = folder / _STATE
        return cls(folder, json.loads(path.read_text("utf-8")) if path.is_file() else none_yet)

    def save(self) -> None:
        """Whole or not at all."""
        draft = self.folder / f"{_STATE}.partial"
        write_json(draft, self.done)
        os.replace(draft, self.folder / _STATE)

    def states(self, block: int) -> Path:
        """What the block is given, all windows."""
        return self.folder / f"states.{block}.npy"


def quantize_by_blocks(
    model: CausalLM,
    layers: Sequence[tuple[LayerInfo, QuantScheme]],
    windows: NDArray[np.int64],
    store: QuantizedStore,
    folder: Path,
    progress: Progress,
    workers: int | None = None,
) -> dict[str, dict[str, Any]]:
    """Write every layer's integers to the store; gives for each layer that was judged its method and the errors.

    `windows`: (n, length) token ids (calibration_windows). `folder`: where hidden states and progress lie; a second
    call with the same goes on where the first was stopped. Raises QexportError for inputs that are not finite,
    SourceError for such weights, TraceError for a model without blocks.
    """
    work = Work.opened(folder, {"outside": [], "blocks": 0, "methods": {}})
    job = _Job(model, layers, store, work, progress, workers)
    return job.run(torch.from_numpy(windows))


class _Job:
    """One model's way through its blocks."""

    def __init__(
        self,
        model: CausalLM,
        layers: Sequence[tuple[LayerInfo, QuantScheme]],
        store: QuantizedStore,
        work: Work,
        progress: Progress,
        workers: int | None,
    ) -> None:
        self.source, self.store, self.work, self.progress, self.workers = (
            model,
            store,
            work,
            progress,
            workers,
        )
        self.schemes = {info.name: scheme for info, scheme in layers}
        self.infos = {info.name: info for info, scheme in layers if not scheme.is_float}
        self.judged = {
            name for name, info in self.infos.items() if self.schemes[name].method in CALIBRATED_METHODS
        }
        owners = {info.name: info.tied_to or info.name for info, _ in layers}
        self.skeleton = model.skeleton(self.schemes, lambda name: store.load(owners[name]))
        self.torch = self._float_model()
        self.blocks = Blocks(self.torch, list(self.infos))
        self.sensitivity = Sensitivity()

    def _float_model(self) -> torch.nn.Module:
        return streamed_float_model(self.skeleton, lambda planned: self.source.weight(planned.info), 0)

    def run(self, tokens: torch.Tensor) -> dict[str, dict[str, Any]]:
        plain = [(info, self.schemes[name]) for name, info in self.infos.items() if name not in self.judged]
        for name, scheme in self.schemes.items():
            if name in self.infos:
                self.store.expect(name, scheme)
        outside = self.blocks.outside(list(self.infos))
        if "plain" not in self.work.done:
            quantize_layers(self.source, plain, self.store, lambda *_: None, self.workers)
            self.work.done["plain"] = True
            self.work.save()
        self.blocks.record(tokens[:1])
        self._gradients(tokens)
        before = [name for name in outside if self.infos[name].kind == "embedding"]
        self._tables(before)
        self._all_blocks(tokens)
        after = [name for name in outside if name not in before and self.infos[name].tied_to is None]
        self._outputs(
            [name for name in after if name in self.judged], self.work.states(len(self.blocks.blocks))
        )
        methods: dict[str, dict[str, Any]] = self.work.done["methods"]
        return methods

    def _gradients(self, tokens: torch.Tensor) -> None:
        """How much each token counts for each layer: of the float model, and so kept for every scheme of it."""
        names = list(self.infos)  # all of them, so that other schemes find the same file
        asked = {"version": VERSION, "model": self.source.identity(), "layers": names}
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode())
        digest.update(tokens.numpy().tobytes())
        folder = cache_folder() / "gradients"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{digest.hexdigest()[:32]}.npz"
        if not path.is_file():
            measured(self._float_model(), names, tokens, self.progress).save(path)
            release_to_system()
        self.sensitivity = Sensitivity.load(path)

    # -- tables -----------------------------------------------------------------------------------------------------

    def _tables(self, names: Sequence[str]) -> None:
        """Tables first: all that follows is measured behind them. One that is the output layer too is rounded for both
        of its uses."""
        for name in names:
            if name in self.judged and name not in self.work.done["outside"]:
                self._choose({name: self.sensitivity.tables[name]})
                self._done_outside(name)
            hold_integers(self.torch.get_submodule(name))
            for other, info in self.infos.items():
                if info.tied_to == name:
                    hold_integers(self.torch.get_submodule(other))

    def _outputs(self, names: Sequence[str], states: Path) -> None:
        """Layers behind the blocks, which end with these states."""
        for name in names:
            if name in self.work.done["outside"]:
                continue
            seen = InputMoments()
            held = np.load(states, mmap_mode="r")
            module = self.torch.get_submodule(name)
            for start in range(0, len(held), _BATCH):
                part = slice(start, start + _BATCH)
                taken = self.blocks.given_to(module, torch.from_numpy(np.array(held[part])))
                seen.add(name, taken, torch.from_numpy(self.sensitivity.tokens[name][part]))
            self._choose({name: seen.of(name)})
            self._done_outside(name)

    def _done_outside(self, name: str) -> None:
        self.work.done["outside"].append(name)
        self.work.save()

    # -- blocks -----------------------------------------------------------------------------------------------------

    def _all_blocks(self, tokens: torch.Tensor) -> None:
        """Each block's integers, in order; states of what is done are behind those integers."""
        count = len(self.blocks.blocks)
        first = self.work.done["blocks"]
        if first == 0 and not self.work.states(0).is_file():
            self._write_states(self.work.states(0), tokens)
        for block in range(count):
            names = self.blocks.layers_of(block, list(self.infos))
            if block >= first:
                self.progress(f"block {block + 1} of {count}", block / count)
                self._quantize_block(block, [name for name in names if name in self.judged])
            for name in names:
                hold_integers(self.torch.get_submodule(name))
            if block >= first:
                self._advance(block, self.work.states(block), self.work.states(block + 1))
                self.work.done["blocks"] = block + 1
                self.work.save()
                self.work.states(block).unlink()

    def _quantize_block(self, block: int, names: Sequence[str]) -> None:
        seen = InputMoments()
        modules = {name: self.torch.get_submodule(name) for name in names}
        held = np.load(self.work.states(block), mmap_mode="r")
        weights = {name: torch.from_numpy(self.sensitivity.weights(name)) for name in names}
        for start in range(0, len(held), _BATCH):
            part = slice(start, start + _BATCH)
            own = {name: counted[part] for name, counted in weights.items()}
            with seen.watching(modules, own.get), torch.no_grad():
                self.blocks.run(block, torch.from_numpy(np.array(held[part])))
        self._choose({name: seen.of(name) for name in names})

    def _choose(self, moments: Mapping[str, NDArray[np.float64]]) -> None:
        """Integers of layers, from the moments of what each takes."""

        def one(name: str) -> tuple[str, str, dict[str, float]]:
            try:
                seen = Seen.of(moments[name], self.schemes[name].rotate)
            except ValueError as problem:
                raise SourceError(
                    f"layer {name}: {problem}; the calibration text cannot be used"
                ) from problem
            try:
                choice = chosen(self.source.weight(self.infos[name]), self.schemes[name], seen)
            except ValueError as problem:
                raise SourceError(f"layer {name}: {problem}; the checkpoint cannot be quantised") from problem
            self.store.save(name, choice.tensor)
            return name, choice.method, choice.errors

        with ThreadPoolExecutor(self.workers or os.cpu_count() or 1) as pool:
            for name, method, errors in pool.map(one, moments):
                self.work.done["methods"][name] = {"method": method, "errors": errors}

    # -- hidden states ----------------------------------------------------------------------------------------------

    def _write_states(self, path: Path, tokens: torch.Tensor) -> None:
        """What the first block is given."""

        def parts() -> Iterable[torch.Tensor]:
            for start in range(0, len(tokens), _BATCH):
                yield self.blocks.first_states(tokens[start : start + _BATCH])

        write_states(path, len(tokens), parts())

    def _advance(self, block: int, source: Path, target: Path) -> None:
        """All states through one block."""
        held = np.load(source, mmap_mode="r")

        def parts() -> Iterable[torch.Tensor]:
            for start in range(0, len(held), _BATCH):
                with torch.no_grad():
                    yield self.blocks.run(block, torch.from_numpy(np.array(held[start : start + _BATCH])))

        write_states(target, len(held), parts())


def write_states(path: Path, rows: int, parts: Iterable[torch.Tensor]) -> None:
    """(rows, length, hidden) float32 into one .npy, whole or not at all."""
    draft = path.with_name(path.name + ".partial")
    file: NDArray[np.float32] | None = None
    start = 0
    for part in parts:
        if file is None:
            file = np.lib.format.open_memmap(draft, "w+", np.float32, (rows, *part.shape[1:]))
        file[start : start + len(part)] = part.numpy()
        start += len(part)
    assert isinstance(file, np.memmap)
    file.flush()
    os.replace(draft, path)
