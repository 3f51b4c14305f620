"""The layers of a torch module, and the cached list for a configuration that was seen before.

Building even an empty model imports torch and transformers, which takes seconds; a typing error in
a recipe should not have to wait for that twice.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Container
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.errors import PlanError
from exporter.layers import CacheShape, Kind, LayerInfo, ModelLayers

if TYPE_CHECKING:
    import torch

_FORMAT = 3  # raise when what is kept changes, so that old lists are left behind


def layers_of(
    model: torch.nn.Module,
    description: str,
    cache: tuple[CacheShape, ...] = (),
    max_context: int | None = None,
    used: Container[str] | None = None,
) -> ModelLayers:
    """Every linear, embedding and convolution, in the order of the module tree. Meta tensors will do.

    `used`: names of modules that a run enters; the others hold nothing that is lowered. None: all.
    """
    import torch

    from exporter.models.derived import obstacle

    owners: dict[int, str] = {}
    layers: list[LayerInfo] = []
    for name, module in model.named_modules():
        kind = _kind(module)
        if kind is None or (used is not None and name not in used):
            continue
        weight = module.weight
        if not isinstance(weight, torch.nn.Parameter):
            raise PlanError(
                f"layer {name}: its weight is computed (parametrised), not stored; remove that first"
            )
        owner = owners.setdefault(id(weight), name)
        tied_to = None if owner == name else owner
        fixed = _unlowered(module) or obstacle(module)
        layers.append(LayerInfo(name, kind, tuple(weight.shape), tied_to, fixed, _is_pointwise(module)))
    decided = sum(layer.parameters for layer in layers if layer.tied_to is None)
    total = sum(parameter.numel() for parameter in model.parameters())
    return ModelLayers(tuple(layers), total - decided, description, cache, max_context)


def without(layers: ModelLayers, parameters: int) -> ModelLayers:
    """The same of a model that has so many parameters less, outside its layers: no output depends on them."""
    return dataclasses.replace(layers, other_parameters=layers.other_parameters - parameters)


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
    if isinstance(module, torch.nn.modules.conv._ConvNd):
        return "conv"
    return None


def _unlowered(module: torch.nn.Module) -> str | None:
    """Why a convolution has no quantised kernel in any runtime here, or None."""
    import torch

    if isinstance(module, torch.nn.modules.conv._ConvTransposeNd):
        return "transposed convolutions are not quantised: no kernel was proven; set `scheme: float`"
    if isinstance(module, torch.nn.Conv3d):
        return "convolutions over three axes have no quantised kernel; set `scheme: float`"
    return None


def _is_pointwise(module: torch.nn.Module) -> bool:
    """Whether a convolution is a linear layer on the channels of each place.

    A class with a forward of its own is run once beside the plain convolution, where it holds real weights.
    """
    import torch

    if not isinstance(module, torch.nn.Conv2d) or (module.kernel_size, module.stride) != ((1, 1), (1, 1)):
        return False
    if module.groups != 1 or module.padding not in ((0, 0), "valid"):
        return False
    if type(module).forward is torch.nn.Conv2d.forward:
        return True
    if module.weight.is_meta:
        return False
    example = torch.linspace(-1, 1, module.in_channels * 6, device=module.weight.device).reshape(1, -1, 2, 3)
    try:
        with torch.no_grad():
            found = module(example)
    except Exception:  # the class may raise anything; then it is not a plain convolution
        return False
    plain = torch.nn.functional.conv2d(example, module.weight, module.bias)
    return isinstance(found, torch.Tensor) and found.shape == plain.shape and bool((found == plain).all())


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
