"""A model in memory with every linear and embedding quantised: what a backend is given, without a
recipe or a checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from exporter.layers import LayerInfo
from exporter.models.reference import own_rows
from exporter.models.skeleton import LayerFactory, PlannedLayer
from exporter.numerics import QuantizedTensor, quantize
from exporter.rotation import rotated
from exporter.schemes import QuantScheme

SchemeOf = Callable[[str], QuantScheme]


class MemorySkeleton:
    """Satisfies exporter.models.skeleton.Skeleton for a module that is already loaded."""

    def __init__(
        self,
        model: torch.nn.Module,
        scheme_of: SchemeOf,
        task: Literal["text-generation", "module"] = "text-generation",
        example_inputs: tuple[Any, ...] = (),
        dynamic_shapes: Any = None,
        tokenizer_folder: Path | None = None,
        calibration: tuple[tuple[int, ...], ...] = (),
    ) -> None:
        self.model = model.eval()
        self.task = task
        self.config = getattr(model, "config", None)
        self.tokenizer_folder = tokenizer_folder
        self.example_inputs = example_inputs
        self.dynamic_shapes = dynamic_shapes
        self.calibration = calibration
        self.layers: dict[str, PlannedLayer] = {}
        owners: dict[int, str] = {}
        for name, module in model.named_modules():
            kind: Literal["linear", "embedding"]
            if isinstance(module, torch.nn.Linear):
                kind = "linear"
            elif isinstance(module, torch.nn.Embedding):
                kind = "embedding"
            else:
                continue
            tied_to = owners.get(id(module.weight))
            owners.setdefault(id(module.weight), name)
            scheme = scheme_of(tied_to or name)
            if scheme.is_float:
                continue
            if tied_to is not None:
                tensor = self.layers[tied_to].load()
            else:
                weight = module.weight.detach().numpy().astype(np.float32)
                turned = weight if scheme.rotate is None else rotated(weight, scheme.rotate)
                tensor = quantize(turned, scheme)
            info = LayerInfo(name, kind, tuple(module.weight.shape), tied_to)
            bias = getattr(module, "bias", None)
            self.layers[name] = PlannedLayer(info, scheme, lambda t=tensor: t, bias)  # type: ignore[misc]

    def build(self, make_layer: LayerFactory, attention: str | None = None) -> torch.nn.Module:
        """The model with its planned layers replaced."""
        model = copy.deepcopy(self.model)
        if attention is not None:
            model.set_attn_implementation(attention)  # type: ignore[operator]
        for name, planned in self.layers.items():
            model.set_submodule(name, make_layer(planned))
        return model.eval()

    def dequantized(self) -> torch.nn.Module:
        """The model with every planned weight replaced by what its integers stand for."""
        model = copy.deepcopy(self.model)
        for name, planned in self.layers.items():
            weight = model.get_submodule(name).weight
            weight.data = own_rows(planned.load(), slice(None))
        return model.eval()

    def integers(self) -> dict[str, QuantizedTensor]:
        """Every planned layer's integers."""
        return {name: planned.load() for name, planned in self.layers.items()}
