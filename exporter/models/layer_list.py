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
from typing import TYPE_CHECKING, Any

from exporter.errors import PlanError
from exporter.layers import CacheShape, Kind, LayerInfo, ModelLayers

if TYPE_CHECKING:
    import torch

_FORMAT = 2  # raise when what is kept changes, so that old lists are left behind


def layers_of(
    model: torch.nn.Module,
    description: str,
    cache: tuple[CacheShape, ...] = (),
    max_context: int | None = None,
) -> ModelLayers:
    """Every linear, embedding and convolution, in the order of the module tree. Meta tensors will do."""
    import torch

    from exporter.models.derived import obstacle

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
        tied_to = None if owner == name else owner
        layers.append(LayerInfo(name, kind, tuple(weight.shape), tied_to, obstacle(module)))
    decided = sum(layer.parameters for layer in layers if layer.tied_to is None)
    total = sum(parameter.numel() for parameter in model.parameters())
    return ModelLayers(tuple(layers), total - decided, description, cache, max_context)


def cache_shapes(config: Any) -> tuple[CacheShape, ...]:
    """What each attention layer of a transformers configuration keeps, in the order of the network.

    Which layers keep anything, and which see a window only, is transformers' own reading of the
    configuration (its DynamicCache); a layer without keys and values, such as a convolution, has no entry.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    text = config.get_text_config(decoder=True)
    shapes = []
    for layer, own in zip(DynamicCache(config=text).layers, text.per_layer_config, strict=True):
        if not isinstance(layer, DynamicLayer):
            continue
        window = layer.sliding_window if isinstance(layer, DynamicSlidingWindowLayer) else None
        heads = own.num_attention_heads
        kv_heads = getattr(own, "num_key_value_heads", None) or heads
        head_size = getattr(own, "head_dim", None) or own.hidden_size // heads
        shapes.append(CacheShape(kv_heads, head_size, window))
    return tuple(shapes)


def max_context(config: Any) -> int | None:
    """Positions that the model was made for, where its configuration says so."""
    found = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else None


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
    parts = f"{_FORMAT}\n{version('transformers')}\n{task}\n{config_text}"
    key = hashlib.sha256(parts.encode()).hexdigest()[:32]
    return cache / "layers" / f"{key}.json"


def read_cached(entry: Path) -> ModelLayers | None:
    """The list kept in `entry`, or None when there is none that can be read."""
    try:
        data = json.loads(entry.read_text())
        layers = tuple(LayerInfo(**{**item, "shape": tuple(item["shape"])}) for item in data["layers"])
        cache = tuple(CacheShape(**item) for item in data["cache"])
        return ModelLayers(layers, data["other_parameters"], data["description"], cache, data["max_context"])
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
