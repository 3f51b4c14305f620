"""`qat:` of a recipe, from a store's integers to better ones in the same store."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from exporter.blockwise import calibration_windows
from exporter.errors import QexportError
from exporter.models.causal_lm import CausalLM, CausalLMSkeleton
from exporter.qat.training import Settings
from exporter.qat.training import Training as Run
from exporter.quantizing import QuantizedStore
from exporter.recipe import Training

HELD_OUT = 8  # windows at most that nothing is trained on
_FEWEST = 8  # windows in all


def train(
    model: CausalLM,
    skeleton: CausalLMSkeleton,
    asked: Training,
    layers: Sequence[str],
    texts: Sequence[str],
    store: QuantizedStore,
    folder: Path,
    progress: Callable[[str, float], None],
) -> Mapping[str, Any]:
    """Train the named layers' integers, and give what the run saw. `folder`: checkpoints, which a second call goes on
    from. Raises QexportError for too little text."""
    windows = calibration_windows(model.tokenizer(), texts, model.layers().max_context)
    if len(windows) < _FEWEST:
        raise QexportError(
            f"qat: {len(windows)} windows of {windows.shape[1]} tokens; training sees some, is judged on others and "
            f"needs {_FEWEST}; give more calibration.text"
        )
    held_out = windows[-min(HELD_OUT, len(windows) // 4) :]
    settings = Settings(
        steps=asked.steps,
        weights=asked.weights,
        learning_rate=asked.learning_rate,
        scale_rate=asked.scale_rate,
        seed=asked.seed,
        patience=asked.patience,
    )
    folder.mkdir(exist_ok=True)
    run = Run(model, skeleton, layers, windows[: -len(held_out)], held_out, settings, folder)
    for name, tensor in run.run(progress).items():
        store.save(name, tensor)
    shutil.rmtree(folder)
    return {
        "layers": len(layers),
        "losses": run.history.losses,
        "held_out": {str(step): kl for step, kl in run.history.held_out.items()},
        "stopped": run.history.stopped,
    }
