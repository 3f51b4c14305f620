"""Where training of a tiny language model begins."""

from pathlib import Path
from typing import Any

import numpy as np
import tiny_models

from exporter.blockwise import calibration_windows
from exporter.models.loading import open_model
from exporter.quantizing import QuantizedStore, quantize_layers
from exporter.schemes import QuantScheme


def begun(folder: Path, scheme: QuantScheme, texts: int) -> tuple[Any, Any, list[str], Any]:
    """Model, skeleton with plain integers, layers that own a weight, windows of 64 tokens."""
    folder = tiny_models.llama_with_tokenizer(folder)
    model = open_model(str(folder), "text-generation", folder)
    layers = model.layers().layers
    (folder / "store").mkdir()
    store = QuantizedStore(folder / "store")
    quantize_layers(model, [(layer, scheme) for layer in layers], store, lambda *_: None)
    owners = {layer.name: layer.tied_to or layer.name for layer in layers}
    skeleton = model.skeleton(dict.fromkeys(owners, scheme), lambda name: store.load(owners[name]))
    generator = np.random.default_rng(0)
    words = [bytes(generator.integers(97, 122, 5)).decode() for _ in range(50)]
    found = [" ".join(generator.choice(words, 200)) for _ in range(texts)]
    windows = calibration_windows(model.tokenizer(), found, 64)
    return model, skeleton, [name for name, owner in owners.items() if name == owner], windows
