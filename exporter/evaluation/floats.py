"""The float model's side, run once for a model: what it gave is kept in the cache folder by the model's hash and the
tokens that it read, so that the next artifact of the same model only pays for its own files."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.evaluate import Window
from exporter.folders import cache_folder
from exporter.memory import VerifyRoom
from exporter.models.causal_lm import CausalLM
from exporter.models.reference import streamed_float_model
from exporter.verify.continuing import Tokens, greedy_together
from exporter.verify.references import Reference

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

_FORMAT = 1  # of what is kept
_TOGETHER = 16  # requests answered at the same time
_ROWS = "states"
Progress = Callable[[str, float], None]


class FloatSide:
    """The float model of an artifact, with what it gave before."""

    def __init__(self, model: CausalLM, skeleton: Any, room: VerifyRoom) -> None:
        self._model, self._skeleton, self._room = model, skeleton, room
        self.reused: list[str] = []  # suites that it did not run for
        self.identity = model.identity()  # source, revision and hashes
        weights = self.identity["weights_sha256"]
        config = json.dumps(model.config.to_dict(), sort_keys=True, default=str)
        self._key = json.dumps([_FORMAT, weights, config, version("transformers"), version("torch")])

    @cached_property
    def module(self) -> torch.nn.Module:
        """The model itself, its weights mapped while they are multiplied."""
        return streamed_float_model(
            self._skeleton, lambda layer: self._model.weight(layer.info), self._room.kept_bytes
        )

    def read(self, suite: str, windows: Sequence[Window], progress: Progress) -> Reference:
        """The model's logits on these windows, made when asked for from its last hidden states."""
        reference = Reference(self.module, self._room.batch_tokens)
        tokens = [[list(window.tokens), window.first_scored] for window in windows]
        path = self._place("states", tokens, ".safetensors")
        if path.is_file() and reference.restore(windows, _split(path, windows)):
            self.reused.append(suite)
            return reference
        # those of one length go through the model together
        order = sorted(range(len(windows)), key=lambda index: len(windows[index].tokens))
        ordered = Reference(self.module, self._room.batch_tokens)
        for done in ordered.collect(None, [windows[index] for index in order]):
            progress(f"{suite}: float model", done / len(windows))
        states = {index: ordered.states(place) for place, index in enumerate(order)}
        found = [rows for _, rows in sorted(states.items()) if rows is not None]
        if len(found) < len(windows) or not reference.restore(windows, found):
            # a model of another build keeps no states: it reads each window again, and nothing can be kept
            list(reference.collect(None, windows))
            return reference
        _keep(path, found)
        return reference

    def answers(
        self,
        prompts: Sequence[Sequence[int]],
        count: int,
        ends: frozenset[int],
        progress: Progress,
    ) -> list[Tokens]:
        """The `count` most likely tokens after each prompt, up to and with an end token."""
        content = [[list(prompt) for prompt in prompts], count, sorted(ends)]
        path = self._place("answers", content, ".json")
        with suppress(OSError, ValueError):
            kept = json.loads(path.read_text())
            if len(kept) == len(prompts):
                return [tuple(tokens) for tokens in kept]
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))  # less padding
        found: dict[int, Tokens] = {}
        for start in range(0, len(order), _TOGETHER):
            part = order[start : start + _TOGETHER]
            progress("safety: float model", start / len(order))
            written = greedy_together(self.module, [prompts[index] for index in part], count, ends)
            found |= {index: tokens for index, (tokens, _) in zip(part, written, strict=True)}
        result = [found[index] for index in range(len(prompts))]
        with _whole(path) as draft:
            draft.write_text(json.dumps(result))
        return result

    def _place(self, kind: str, content: Any, suffix: str) -> Path:
        """Where results on this content are kept."""
        key = hashlib.sha256(json.dumps([self._key, kind, content]).encode()).hexdigest()
        return cache_folder() / "evaluation" / (key + suffix)


def _split(path: Path, windows: Sequence[Window]) -> list[torch.Tensor]:
    from safetensors.torch import load_file

    rows = load_file(path)[_ROWS]
    return list(rows.split([len(window.targets) for window in windows]))


def _keep(path: Path, states: Sequence[torch.Tensor]) -> None:
    import torch
    from safetensors.torch import save_file

    with _whole(path) as draft:
        save_file({_ROWS: torch.cat(list(states)).contiguous()}, draft)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A file that is there whole or not at all, whoever else writes the same one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".draft-", dir=path.parent) as folder:
        draft = Path(folder) / path.name
        yield draft
        os.replace(draft, path)
