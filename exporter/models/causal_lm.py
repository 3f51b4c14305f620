"""Language models of the Hugging Face layout (task text-generation)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from exporter.errors import PlanError, SourceError, first_line
from exporter.layers import LayerInfo, ModelLayers
from exporter.models import layer_list
from exporter.models.checkpoint import Checkpoint
from exporter.models.gguf import convert_weights, metadata_folder
from exporter.models.skeleton import LayerFactory, PlannedLayer
from exporter.models.sources import ModelFiles, file_sha256
from exporter.numerics import FloatArray, QuantizedTensor
from exporter.schemes import QuantScheme

if TYPE_CHECKING:
    import torch

_CALIBRATION_TEXT = "calibration_text.txt"
_CALIBRATION_WINDOW = 256  # tokens


class CausalLM:
    """A checkpoint on disk, with its layers, its weights one by one, and skeletons to lower."""

    task: Literal["text-generation"] = "text-generation"

    def __init__(self, files: ModelFiles, cache: Path) -> None:
        self.files = files
        self._gguf_sha256 = file_sha256(files.path) if files.is_gguf else None
        self.folder = (
            metadata_folder(files.path, self._gguf_sha256, cache) if self._gguf_sha256 else files.path
        )
        self._cache = cache

    def layers(self) -> ModelLayers:
        """Layers from the configuration alone; no weight is read."""
        config_text = self._config_text()
        entry = layer_list.cache_entry(self._cache, config_text, self.task)
        found = layer_list.read_cached(entry)
        if found is None:
            found = layer_list.layers_of(
                self._on_meta(),
                self._describe(),
                layer_list.cache_shapes(self.config),
                layer_list.max_context(self.config),
            )
            layer_list.write_cached(entry, found)
        return found

    def identity(self) -> dict[str, object]:
        """Source, revision and hashes for the manifest."""
        weights = {self.files.path.name: self._gguf_sha256} if self._gguf_sha256 else self.checkpoint.sha256()
        return {"source": self.files.source, "revision": self.files.revision, "weights_sha256": weights}

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The weights; a GGUF file is converted on first use."""
        if self.files.is_gguf:
            convert_weights(self.files.path, self.folder)
        return Checkpoint(self.folder)

    @cached_property
    def config(self) -> Any:
        """transformers' configuration. Raises SourceError when it cannot be read."""
        from transformers import AutoConfig

        try:
            return AutoConfig.from_pretrained(str(self.folder))
        except (ValueError, OSError, KeyError) as problem:
            raise SourceError(f"{self.folder / 'config.json'}: {first_line(problem)}") from problem

    def tokenizer(self) -> Any:
        """transformers' tokenizer, read once. Raises SourceError when the folder has none."""
        return self._tokenizer

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(str(self.folder))
        except (ValueError, OSError, KeyError) as problem:
            raise SourceError(
                f"{self.folder}: no tokenizer can be read ({first_line(problem).rstrip(':')}); tokenizer.json must lie "
                "beside config.json"
            ) from problem

    def weight(self, layer: LayerInfo) -> FloatArray:
        """(out, in) float32 weight of one layer."""
        tensor = self.checkpoint.read(self._stored_name(f"{layer.tied_to or layer.name}.weight"))
        if tuple(tensor.shape) != layer.shape:
            raise SourceError(
                f"{self.folder}: {layer.name}.weight has shape {tuple(tensor.shape)}, "
                f"config.json asks for {layer.shape}"
            )
        array: FloatArray = tensor.numpy()
        return array

    def float_model(self) -> torch.nn.Module:
        """The reference: every weight as the checkpoint has it, in float32."""
        return self._built(lambda name, module: None, attention="sdpa")

    def skeleton(
        self,
        schemes: Mapping[str, QuantScheme],
        load: Callable[[str], QuantizedTensor],
        calibration: Sequence[str] = (),
    ) -> CausalLMSkeleton:
        """What a backend lowers: `schemes` by layer name, `load` gives a layer's integers.

        `calibration`: texts to measure ranges on, the package's own when there are none.
        """
        return CausalLMSkeleton(self, schemes, load, calibration)

    def _built(
        self, replace: Callable[[str, torch.nn.Module], torch.nn.Module | None], attention: str
    ) -> torch.nn.Module:
        """A module with real buffers; layers replaced where `replace` gives one, the rest loaded."""
        import torch
        from transformers import AutoModelForCausalLM

        with _parameters_on_meta():
            model: torch.nn.Module = AutoModelForCausalLM.from_config(
                self.config, attn_implementation=attention, dtype=torch.float32
            )
        for name, module in list(model.named_modules()):
            replacement = replace(name, module)
            if replacement is not None:
                model.set_submodule(name, replacement)
        loaded: dict[int, torch.nn.Parameter] = {}
        for name, parameter in list(model.named_parameters(remove_duplicate=False)):
            if parameter.device.type != "meta":
                continue
            if id(parameter) not in loaded:
                tensor = self.checkpoint.read(self._stored_name(name))
                loaded[id(parameter)] = torch.nn.Parameter(tensor, requires_grad=False)
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, loaded[id(parameter)])
        return model.eval().requires_grad_(False)

    def _stored_name(self, name: str) -> str:
        """A checkpoint may hold a tied weight under either name, or lack the base model's prefix."""
        if name in self.checkpoint.files:
            return name
        tied = {layer.tied_to: layer.name for layer in self.layers().layers if layer.tied_to}
        module = name.removesuffix(".weight")
        for other in (tied.get(module), {v: k for k, v in tied.items()}.get(module)):
            if other and f"{other}.weight" in self.checkpoint.files:
                return f"{other}.weight"
        prefix, _, rest = name.partition(".")
        return rest if prefix == "model" and rest in self.checkpoint.files else name

    def _config_text(self) -> str:
        try:
            return (self.folder / "config.json").read_text()
        except (OSError, UnicodeDecodeError) as problem:
            raise SourceError(f"{self.folder / 'config.json'}: cannot be read ({problem})") from problem

    def _on_meta(self) -> torch.nn.Module:
        import torch
        from transformers import AutoModelForCausalLM

        try:
            with torch.device("meta"):
                model: torch.nn.Module = AutoModelForCausalLM.from_config(self.config)
        except ValueError as problem:
            kind = getattr(self.config, "model_type", "?")
            raise SourceError(
                f"{self.folder}: a model of type {kind!r} is not known for task text-generation"
            ) from problem
        return model

    def _describe(self) -> str:
        return f"{(self.config.architectures or [self.config.model_type])[0]}, {self.config.num_hidden_layers} layers"


class CausalLMSkeleton:
    """See exporter.models.skeleton.Skeleton."""

    task: Literal["text-generation"] = "text-generation"
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
        self.layers: dict[str, PlannedLayer] = {}
        for layer in model.layers().layers:
            scheme = schemes[layer.name]
            if scheme.is_float:
                continue
            owner = layer.tied_to or layer.name
            self.layers[layer.name] = PlannedLayer(layer, scheme, partial(load, owner), self._bias(layer))

    @cached_property
    def calibration(self) -> tuple[tuple[int, ...], ...]:
        """See Skeleton.calibration; tokenised when first asked for.

        A model that marks where a text begins sees every other window begin so: what it makes of the
        first token often has another range than all the rest. Raises SourceError without a tokenizer.
        """
        tokenizer = self._model.tokenizer()
        own = resources.files("exporter") / "data" / _CALIBRATION_TEXT
        windows: list[tuple[int, ...]] = []
        for text in self._calibration or [own.read_text(encoding="utf-8")]:
            tokens = tokenizer.encode(text, add_special_tokens=False)
            for start in range(0, len(tokens), _CALIBRATION_WINDOW):
                window = tuple(tokens[start : start + _CALIBRATION_WINDOW])
                marked = tokenizer.bos_token_id is not None and len(windows) % 2 == 0
                windows.append((tokenizer.bos_token_id, *window) if marked else window)
        return tuple(windows)

    def build(self, make_layer: LayerFactory, attention: str | None = None) -> torch.nn.Module:
        """See Skeleton.build."""
        return self._model._built(
            lambda name, module: self._replacement(name, module, make_layer), attention or "sdpa"
        )

    def _bias(self, layer: LayerInfo) -> torch.Tensor | None:
        name = f"{layer.name}.bias"
        return self._model.checkpoint.read(name) if name in self._model.checkpoint.files else None

    def _replacement(
        self, name: str, module: torch.nn.Module, make_layer: LayerFactory
    ) -> torch.nn.Module | None:
        if name not in self.layers:
            return None
        from exporter.models.derived import combined

        planned = self.layers[name]
        if planned.info.fixed:
            raise PlanError(f"layer {name}: {planned.info.fixed}")
        return combined(module, make_layer(planned), name)


@contextlib.contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Inside, a new module's parameters take no memory; buffers (rotary frequencies …) are real."""
    import torch

    register = torch.nn.Module.register_parameter

    def register_on_meta(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None) -> None:
        if parameter is not None and parameter.device.type != "meta":
            parameter = torch.nn.Parameter(parameter.to("meta"), requires_grad=False)
        register(module, name, parameter)

    torch.nn.Module.register_parameter = register_on_meta  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        torch.nn.Module.register_parameter = register  # type: ignore[method-assign]
