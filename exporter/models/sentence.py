"""From the vectors of tokens to one of a text, as a folder of sentence-transformers says (modules.json)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from exporter.errors import SourceError

if TYPE_CHECKING:
    import torch

LISTING = "modules.json"
OUTPUT = "sentence_embedding"
_KINDS = {"Pooling": "pooling", "Dense": "dense", "Normalize": "normalize"}
_PREFIX = "pooling_mode_"
# Names in a pooling's configuration, in the order in which sentence-transformers puts several side by side.
_MODES = (
    "cls_token",
    "max_tokens",
    "mean_tokens",
    "mean_sqrt_len_tokens",
    "weightedmean_tokens",
    "lasttoken",
)
_NO_LENGTH = 1e-24  # square of the least length that a vector is divided by (torch.nn.functional.normalize)


@dataclass(frozen=True)
class Stage:
    """One module behind the transformer."""

    kind: Literal["pooling", "dense", "normalize"]
    path: str  # its folder, and its name in the model
    modes: tuple[str, ...] = ()  # of a pooling
    shape: tuple[int, int] = (0, 0)  # of a dense layer: in, out
    bias: bool = True
    activation: str = "Identity"  # class of torch.nn


@dataclass(frozen=True)
class Sentence:
    """The stages in order, and what is put before a text."""

    stages: tuple[Stage, ...]
    prompts: Mapping[str, str]
    default_prompt: str | None  # name of the one that is used where none is asked for
    max_length: int | None  # tokens

    @property
    def prompt(self) -> str:
        """What is put before a text when nobody asks for anything else."""
        return self.prompts.get(self.default_prompt or "", "")

    def describe(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "output": OUTPUT,
            "stages": [asdict(stage) for stage in self.stages],
            "prompts": dict(self.prompts),
            "default_prompt": self.default_prompt,
        }


def read_sentence(folder: Path) -> Sentence | None:
    """What modules.json asks for behind the transformer; None where there is no such file.

    Raises SourceError for a module that is not known here.
    """
    listing = folder / LISTING
    if not listing.is_file():
        return None
    entries = sorted(_json(listing), key=lambda entry: entry["idx"])
    stages = [_stage(folder, entry) for entry in entries if _class(entry) != "Transformer"]
    options = _json(folder / "config_sentence_transformers.json")
    limit = _json(folder / "sentence_bert_config.json").get("max_seq_length")
    return Sentence(
        tuple(stages),
        options.get("prompts") or {},
        options.get("default_prompt_name"),
        limit if limit else None,
    )


def configuration_text(folder: Path) -> str:
    """Everything that decides the stages, for a key."""
    files = [folder / LISTING, *sorted(folder.glob("*_*/config.json"))]
    return "\n".join(path.read_text("utf-8") for path in files if path.is_file())


def add_heads(net: torch.nn.Module, sentence: Sentence) -> None:
    """Give the model its dense layers, named by their folders, so that rules and weights know them."""
    import torch

    for stage in sentence.stages:
        if stage.kind == "dense":
            head = torch.nn.Module()
            head.add_module("linear", torch.nn.Linear(*stage.shape, bias=stage.bias))
            net.add_module(stage.path, head)


def embed(
    net: torch.nn.Module, sentence: Sentence, states: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """Last hidden states (batch, tokens, features) and mask (batch, tokens), None where nothing is padding
    -> (batch, features of a sentence)."""
    import torch

    found = states
    for stage in sentence.stages:
        if stage.kind == "pooling":
            weight = None if mask is None else mask[:, :, None].to(found.dtype)
            pooled = [_pool(found, weight, mode) for mode in stage.modes]
            found = pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=-1)
        elif stage.kind == "dense":
            found = getattr(torch.nn, stage.activation)()(net.get_submodule(f"{stage.path}.linear")(found))
        else:
            square = (found * found).mean(-1, keepdim=True) * found.shape[-1]
            found = found * torch.rsqrt(square.clamp(min=_NO_LENGTH))
    return found


def _pool(states: torch.Tensor, weight: torch.Tensor | None, mode: str) -> torch.Tensor:
    """(batch, tokens, features), (batch, tokens, 1) of 1 and 0 -> (batch, features)."""
    import torch

    if mode == "cls_token":
        return states[:, 0]
    valid = torch.ones_like(states[:, :, :1]) if weight is None else weight
    if mode == "lasttoken":
        if weight is None:
            return states[:, -1]
        place = torch.arange(states.shape[1])[None, :, None].to(valid.dtype) * valid
        last = place.argmax(dim=1, keepdim=True).expand(-1, 1, states.shape[2])
        return states.gather(1, last)[:, 0]
    if mode == "max_tokens":
        return (states if weight is None else states.masked_fill(weight == 0, -1e9)).amax(dim=1)
    if mode == "mean_tokens" and weight is None:
        return states.mean(dim=1)
    if mode == "weightedmean_tokens":
        valid = valid * torch.arange(1, states.shape[1] + 1)[None, :, None].to(valid.dtype)
    count = valid.sum(dim=1).clamp(min=1e-9)
    return (states * valid).sum(dim=1) / (count.sqrt() if mode == "mean_sqrt_len_tokens" else count)


def _stage(folder: Path, entry: Mapping[str, Any]) -> Stage:
    kind: Any = _KINDS.get(_class(entry))
    path = str(entry["path"])
    if kind is None:
        raise SourceError(
            f"{folder / LISTING}: module {entry.get('type')!r} is not known; there are {', '.join(_KINDS)}. Without "
            f"{LISTING} the model gives the vectors of tokens alone"
        )
    settings = _json(folder / path / "config.json")
    if kind == "pooling":
        if settings.get("include_prompt") is False:
            raise SourceError(
                f"{folder / path}: a pooling that leaves the prompt out is not known; set include_prompt"
            )
        modes = tuple(mode for mode in _MODES if settings.get(_PREFIX + mode)) or _stated_modes(settings)
        return Stage(kind, path, modes)
    if kind == "dense":
        activation = str(settings.get("activation_function", "Identity")).rpartition(".")[2]
        sizes = (int(settings["in_features"]), int(settings["out_features"]))
        return Stage(kind, path, (), sizes, bool(settings.get("bias", True)), activation)
    return Stage(kind, path)


def _stated_modes(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Newer files name the modes: `pooling_mode: mean`."""
    stated = settings.get("pooling_mode", "mean")
    names: Sequence[str] = [stated] if isinstance(stated, str) else stated
    by_short = {mode.removesuffix("_tokens").removesuffix("_token"): mode for mode in _MODES}
    return tuple(by_short.get(name, name) for name in names)


def _class(entry: Mapping[str, Any]) -> str:
    return str(entry.get("type", "")).rpartition(".")[2]


def _json(path: Path) -> Any:
    """A file's content; nothing where there is no such file."""
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as problem:
        raise SourceError(f"{path}: not JSON ({problem})") from problem
