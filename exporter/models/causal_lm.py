"""Language models of the Hugging Face layout (task text-generation)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from exporter.layers import ModelLayers
from exporter.models import layer_list
from exporter.models.checkpoint import Checkpoint
from exporter.models.gguf import convert_weights
from exporter.models.pretrained import Pretrained, replacement
from exporter.models.skeleton import LayerFactory, Program, planned_layers_of
from exporter.models.sources import ModelFiles
from exporter.numerics import QuantizedTensor
from exporter.schemes import QuantScheme

if TYPE_CHECKING:
    import torch

_CALIBRATION_TEXT = "calibration_text.txt"
_CALIBRATION_WINDOW = 256  # tokens


def own_text() -> str:
    """The package's, for ranges where a recipe names no samples."""
    return (resources.files("exporter") / "data" / _CALIBRATION_TEXT).read_text(encoding="utf-8")


class CausalLM(Pretrained):
    """A language model: every weight is used, and the backends wrap it with their own KV cache."""

    def __init__(self, files: ModelFiles, cache: Path) -> None:
        super().__init__(files, "text-generation", cache)

    def layers(self) -> ModelLayers:
        """Layers from the configuration alone; no weight is read."""
        entry = layer_list.cache_entry(self._cache, self._config_text(), self.task)
        found = layer_list.read_cached(entry)
        if found is None:
            found = layer_list.layers_of(
                self.meta,
                self._describe(),
                layer_list.cache_shapes(self.config),
                layer_list.max_context(self.config),
            )
            layer_list.write_cached(entry, found)
        return found

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The weights; a GGUF file is converted on first use."""
        if self.files.is_gguf:
            convert_weights(self.files.path, self.folder)
        return self._own_checkpoint

    def skeleton(  # type: ignore[override]  # lowered in another way: there are no programs
        self,
        schemes: Mapping[str, QuantScheme],
        load: Callable[[str], QuantizedTensor],
        calibration: Sequence[str] = (),
    ) -> CausalLMSkeleton:
        """What a backend lowers: `schemes` by layer name, `load` gives a layer's integers.

        `calibration`: texts to measure ranges on, the package's own when there are none.
        """
        return CausalLMSkeleton(self, schemes, load, calibration)

    def bias(self, layer: str) -> torch.Tensor | None:
        """The layer's bias, where it has one."""
        name = f"{layer}.bias"
        return self.checkpoint.read(name) if name in self.checkpoint.files else None

    def _uses(self, name: str) -> bool:
        return True

    def _find(self, name: str, checkpoint: Checkpoint) -> str | None:
        """As of any model, without building one where the names tell."""
        if name in checkpoint.files:
            return name
        tied = {layer.tied_to: layer.name for layer in self.layers().layers if layer.tied_to}
        module = name.removesuffix(".weight")
        for other in (tied.get(module), {v: k for k, v in tied.items()}.get(module)):
            if other and f"{other}.weight" in checkpoint.files:
                return f"{other}.weight"
        prefix, _, rest = name.partition(".")
        return rest if prefix == "model" and rest in checkpoint.files else None

    def _describe(self) -> str:
        return f"{(self.config.architectures or [self.config.model_type])[0]}, {self.config.num_hidden_layers} layers"


class CausalLMSkeleton:
    """See exporter.models.skeleton.Skeleton."""

    task: Literal["text-generation"] = "text-generation"
    programs: tuple[Program, ...] = ()  # each backend has its own
    example_inputs: tuple[Any, ...] = ()
    dynamic_shapes: Any = None

    def __init__(
        self,
        model: CausalLM,
        schemes: Mapping[str, QuantScheme],
        load: Callable[[str], QuantizedTensor],
        calibration: Sequence[str] = (),
    ) -> None:
        self._model = model
        self._calibration = calibration
        self.config = model.config
        self.tokenizer_folder: Path | None = model.folder
        self.layers = planned_layers_of(model.layers().layers, schemes, load, model.bias)

    @cached_property
    def calibration(self) -> tuple[tuple[int, ...], ...]:
        """See Skeleton.calibration; tokenised when first asked for.

        A model that marks where a text begins sees every other window begin so: what it makes of the
        first token often has another range than all the rest. Raises SourceError without a tokenizer.
        """
        tokenizer = self._model.tokenizer()
        windows: list[tuple[int, ...]] = []
        for text in self._calibration or [own_text()]:
            tokens = tokenizer.encode(text, add_special_tokens=False)
            for start in range(0, len(tokens), _CALIBRATION_WINDOW):
                window = tuple(tokens[start : start + _CALIBRATION_WINDOW])
                marked = tokenizer.bos_token_id is not None and len(windows) % 2 == 0
                windows.append((tokenizer.bos_token_id, *window) if marked else window)
        return tuple(windows)

    def build(self, make_layer: LayerFactory, attention: str | None = None) -> torch.nn.Module:
        """See Skeleton.build."""
        return self._model.built(
            lambda name, module: replacement(self.layers, name, module, make_layer), attention or "sdpa"
        )
