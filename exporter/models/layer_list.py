"""The layers of a torch module, and the cached list for a configuration that was seen before.

Building even an empty model imports torch and transformers, which takes seconds; a typing error in
a recipe should not have to wait for that twice.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.errors import PlanError
from exporter.layers import Kind, LayerInfo, ModelLayers

if TYPE_CHECKING:
    import torch


def layers_of(model: torch.nn.Module, description: str) -> ModelLayers:
    """Every linear, embedding and convolution, in the order of the module tree. Meta tensors will do."""
    import torch

    owners: dict[int, str] = {}
    layers: list[LayerInfo] = []
    for name, module in model.named_modules():
        kind = _kind(module)
        if kind is None:
            continue
        weight = module.weight
        if not isinstance(weight, torch.nn.Parameter):
            raise PlanError(
                f"layer {name}: its weight is computed (parametrised), not stored; remove that first"
            )
        owner = owners.setdefault(id(weight), name)
        layers.append(LayerInfo(name, kind, tuple(weight.shape), None if owner == name else owner))
    decided = sum(layer.parameters for layer in layers if layer.tied_to is None)
    total = sum(parameter.numel() for parameter in model.parameters())
    return ModelLayers(tuple(layers), total - decided, description)


def _kind(module: torch.nn.Module) -> Kind | None:
    import torch

    if isinstance(module, torch.nn.Linear):
        return "linear"
    if isinstance(module, torch.nn.Embedding):
        return "embedding"
    if isinstance(module, torch.nn.Conv1d | torch.nn.Conv2d):
        return "conv"
    return None


def cache_entry(cache: Path, config_text: str, task: str) -> Path:
    """Where the layer list of this configuration is kept."""
    key = hashlib.sha256(f"{version('transformers')}\n{task}\n{config_text}".encode()).hexdigest()[:32]
    return cache / "layers" / f"{key}.json"


def read_cached(entry: Path) -> ModelLayers | None:
    """The list kept in `entry`, or None when there is none that can be read."""
    try:
        data = json.loads(entry.read_text())
        layers = tuple(LayerInfo(**{**item, "shape": tuple(item["shape"])}) for item in data["layers"])
        return ModelLayers(layers, data["other_parameters"], data["description"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_cached(entry: Path, layers: ModelLayers) -> None:
    """Keep a list for next time. A cache that cannot be written costs seconds, so it is no error."""
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        draft = entry.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(dataclasses.asdict(layers)))
        os.replace(draft, entry)
    except OSError:
        return
