"""Encoder-decoder models of the Hugging Face layout: speech, text or pictures to text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.errors import PlanError, SourceError, first_line
from exporter.layers import CacheShape, LayerInfo, ModelLayers
from exporter.models import layer_list
from exporter.models.checkpoint import Checkpoint
from exporter.models.pretrained import parameters_on_meta
from exporter.models.skeleton import LayerFactory, Program, planned_layers_of
from exporter.models.sources import ModelFiles
from exporter.numerics import FloatArray, QuantizedTensor
from exporter.samples.processing import Processor, picture_processor, speech_processor, text_processor
from exporter.schemes import QuantScheme
from exporter.signatures import BATCH, Axis
from exporter.tasks import SPECS, Task

if TYPE_CHECKING:
    import torch

    from exporter.models.seq2seq import Sizes

_MOST_SOURCE_TOKENS = 512  # of a text encoder whose configuration names no limit
_MOST_BATCH = 64
_LENGTH = "encoder_input_length"
_WARNING = "warn_if_padding_and_no_attention_mask"
# What configurations call the number of positions that a decoder was made for.
_POSITIONS = ("max_target_positions", "max_position_embeddings", "n_positions")


class EncoderDecoder:
    """A checkpoint on disk, with its layers, its weights one by one, and skeletons to lower."""

    def __init__(self, files: ModelFiles, task: Task, cache: Path) -> None:
        if files.is_gguf:
            raise PlanError(f"task {task!r}: {files.path} is a GGUF file, which holds language models only")
        self.files = files
        self.folder = files.path
        self.task = task
        self._cache = cache
        self.checkpoint = Checkpoint(self.folder)

    def layers(self) -> ModelLayers:
        """Every layer that a run uses; no weight is read but those that may be tied."""
        entry = layer_list.cache_entry(self._cache, self._config_text(), self.task)
        found = layer_list.read_cached(entry)
        if found is None:
            sizes, used = self._structure
            shape = CacheShape(sizes.heads, sizes.head_size)
            found = layer_list.layers_of(
                self._meta,
                f"{type(self._meta).__name__}, {sizes.layers} decoder layers",
                (shape,) * sizes.layers,
                self._positions(),
                used,
            )
            layer_list.write_cached(entry, found)
        return found

    def identity(self) -> dict[str, object]:
        """Source, revision and hashes for the manifest."""
        return {
            "source": self.files.source,
            "revision": self.files.revision,
            "weights_sha256": self.checkpoint.sha256(),
        }

    @cached_property
    def config(self) -> Any:
        """transformers' configuration. Raises SourceError when it cannot be read."""
        from transformers import AutoConfig

        try:
            return AutoConfig.from_pretrained(str(self.folder))
        except (ValueError, OSError, KeyError) as problem:
            raise SourceError(f"{self.folder / 'config.json'}: {first_line(problem)}") from problem

    @cached_property
    def generation(self) -> Any:
        """transformers' GenerationConfig: first tokens, forbidden and ending ones."""
        from transformers import GenerationConfig

        if (self.folder / "generation_config.json").is_file():
            return GenerationConfig.from_pretrained(str(self.folder))
        return GenerationConfig.from_model_config(self.config)

    def tokenizer(self) -> Any:
        """transformers' tokenizer. Raises SourceError when the folder has none."""
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(str(self.folder))
        except (ValueError, OSError, KeyError) as problem:
            raise SourceError(
                f"{self.folder}: no tokenizer can be read ({first_line(problem).rstrip(':')}); tokenizer.json must lie "
                "beside config.json"
            ) from problem

    @cached_property
    def processor(self) -> Processor:
        """What makes the encoder's inputs of a sample. Raises SourceError where the folder does not say."""
        medium = SPECS[self.task].medium
        if medium == "audio":
            return speech_processor(self.folder)
        if medium == "image":
            return picture_processor(self.folder, None)
        return text_processor(self.folder)

    def weight(self, layer: LayerInfo) -> FloatArray:
        """float32 weight of one layer, as PyTorch holds it."""
        tensor = self.checkpoint.read(self._stored_name(f"{layer.tied_to or layer.name}.weight"))
        if tuple(tensor.shape) != layer.shape:
            raise SourceError(
                f"{self.folder}: {layer.name}.weight has shape {tuple(tensor.shape)}, "
                f"config.json asks for {layer.shape}"
            )
        array: FloatArray = tensor.numpy()
        return array

    def bias(self, layer: str) -> torch.Tensor | None:
        """The layer's bias, where it has one."""
        name = f"{layer}.bias"
        return self.checkpoint.read(name) if name in self.checkpoint.files else None

    def float_model(self) -> torch.nn.Module:
        """The reference: every weight as the checkpoint has it, in float32."""
        return self.built(lambda name, module: None, "sdpa")

    def skeleton(
        self, schemes: Mapping[str, QuantScheme], load: Callable[[str], QuantizedTensor]
    ) -> EncoderDecoderSkeleton:
        """What a backend lowers: `schemes` by layer name, `load` gives a layer's integers."""
        return EncoderDecoderSkeleton(self, schemes, load)

    def built(
        self, replace: Callable[[str, torch.nn.Module], torch.nn.Module | None], attention: str
    ) -> torch.nn.Module:
        """A module with real buffers; layers replaced where `replace` gives one, the rest loaded."""
        import torch

        model = self._empty(attention)
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

    @cached_property
    def inputs(self) -> tuple[dict[str, torch.Tensor], dict[str, tuple[int | str, ...]], dict[str, Axis]]:
        """Examples for the encoder, batch 2; their shapes by axes' names; bounds of the axes."""
        import torch

        axes = {BATCH: Axis(BATCH, 1, _MOST_BATCH)}
        if SPECS[self.task].medium == "text":
            steps: Any = self.processor.steps
            most = steps.max_length or _MOST_SOURCE_TOKENS
            names = [name for name in steps.inputs if name in ("input_ids", "attention_mask")]
            examples = {name: torch.ones(2, 9, dtype=torch.long) for name in names}
            return examples, dict.fromkeys(names, (BATCH, _LENGTH)), axes | {_LENGTH: Axis(_LENGTH, 1, most)}
        one = self._picture() or self.processor.prepare(self._nothing())
        examples = {name: torch.from_numpy(np.repeat(array, 2, axis=0)) for name, array in one.items()}
        shapes: dict[str, tuple[int | str, ...]] = {
            name: (BATCH, *array.shape[1:]) for name, array in one.items()
        }
        return examples, shapes, axes

    @property
    def sizes(self) -> Sizes:
        """What the decoder keeps."""
        return self._structure[0]

    def _picture(self) -> dict[str, Any] | None:
        """A picture of the size that the encoder's configuration names; None for other media, or without one."""
        encoder = getattr(self.config, "encoder", self.config)
        size = getattr(encoder, "image_size", None)
        if SPECS[self.task].medium != "image" or size is None:
            return None
        edges = (size, size) if isinstance(size, int) else tuple(size)
        channels = getattr(encoder, "num_channels", 3)
        return {self._meta.main_input_name: np.zeros((1, channels, *edges), np.float32)}  # type: ignore[dict-item]

    def _nothing(self) -> Any:
        """A second of silence, or a black picture."""
        from exporter.samples.audio import Clip

        if SPECS[self.task].medium == "image":
            return np.zeros((64, 64, 3), np.uint8)
        rate = int(getattr(self.processor.steps, "sampling_rate"))  # noqa: B009
        return Clip(self.folder, np.zeros(rate, np.float32), rate, rate, 1)

    @cached_property
    def _meta(self) -> torch.nn.Module:
        """The model without weights, with an attention that asks for no tensor's content."""
        import torch

        try:
            with torch.device("meta"):
                model = self._empty("eager")
        except ValueError as problem:
            kind = getattr(self.config, "model_type", "?")
            raise SourceError(
                f"{self.folder}: a model of type {kind!r} is not known for task {self.task}"
            ) from problem
        for module in model.modules():  # PreTrainedModel's, which looks for padding among the tokens
            if hasattr(module, _WARNING):
                setattr(module, _WARNING, lambda *args: None)
        return model

    @cached_property
    def _structure(self) -> tuple[Sizes, frozenset[str]]:
        """Sizes, and the modules that a run uses."""
        import torch

        from exporter.models.seq2seq import sizes_of, unused_weights

        examples = {name: tensor.to("meta") for name, tensor in self.inputs[0].items()}
        used: set[str] = set()
        hooks = [
            module.register_forward_pre_hook(lambda module, args, name=name: used.add(name))
            for name, module in self._meta.named_modules()
        ]
        sizes = sizes_of(self._meta.to("meta").eval(), examples)
        for hook in hooks:
            hook.remove()
        unused = unused_weights(self._meta, examples)
        used -= {
            name
            for name, module in self._meta.named_modules()
            if isinstance(weight := getattr(module, "weight", None), torch.nn.Parameter)
            and id(weight) in unused
        }
        return sizes, frozenset(used)

    def _empty(self, attention: str) -> torch.nn.Module:
        """Parameters on the meta device, tied only where the checkpoint does not hold different weights."""
        import copy

        import torch
        import transformers

        config = copy.deepcopy(self.config)  # the attention's name is kept in it
        auto = getattr(transformers, SPECS[self.task].auto_class or "")
        with parameters_on_meta():
            model: torch.nn.Module = auto.from_config(
                config, attn_implementation=attention, dtype=torch.float32
            )
        model.set_attn_implementation(attention)  # type: ignore[operator]  # of the parts of a composed model too
        for group in _tied(model):
            stored = [name for name in group if name in self.checkpoint.files]
            if len(stored) > 1 and not self._equal(stored):
                _untie(model, stored)
        return model

    def _equal(self, names: Sequence[str]) -> bool:
        import torch

        first = self.checkpoint.read(names[0])
        return all(torch.equal(first, self.checkpoint.read(name)) for name in names[1:])

    def _stored_name(self, name: str) -> str:
        """A checkpoint holds a tied weight under one of its names."""
        if name in self.checkpoint.files:
            return name
        for group in self._groups:
            if name in group:
                return next((other for other in group if other in self.checkpoint.files), name)
        return name

    @cached_property
    def _groups(self) -> list[list[str]]:
        return _tied(self._meta)

    def _positions(self) -> int | None:
        text = self.config.get_text_config(decoder=True)
        found = [getattr(text, name, None) for name in _POSITIONS]
        return next((most for most in found if isinstance(most, int) and most > 0), None)

    def _config_text(self) -> str:
        try:
            return (self.folder / "config.json").read_text()
        except (OSError, UnicodeDecodeError) as problem:
            raise SourceError(f"{self.folder / 'config.json'}: cannot be read ({problem})") from problem


class EncoderDecoderSkeleton:
    """See exporter.models.skeleton.Skeleton."""

    example_inputs: tuple[Any, ...] = ()
    dynamic_shapes: Any = None
    calibration: tuple[tuple[int, ...], ...] = ()

    def __init__(
        self,
        model: EncoderDecoder,
        schemes: Mapping[str, QuantScheme],
        load: Callable[[str], QuantizedTensor],
    ) -> None:
        self.model = model
        self.task = model.task
        self.config = model.config
        self.tokenizer_folder: Path | None = model.folder
        self.layers = planned_layers_of(model.layers().layers, schemes, load, model.bias)

    @cached_property
    def programs(self) -> tuple[Program, ...]:
        """Encoder and decoder, the cache as inputs and outputs."""
        from exporter.models.seq2seq import programs

        examples, shapes, axes = self.model.inputs
        most = self.model.layers().max_context or _MOST_SOURCE_TOKENS
        return programs(examples, shapes, axes, self.model.sizes, most)

    def build(self, make_layer: LayerFactory, attention: str | None = None) -> torch.nn.Module:
        """See Skeleton.build."""
        from exporter.models.derived import AbsentWeight, combined

        def replacement(name: str, module: torch.nn.Module) -> torch.nn.Module | None:
            planned = self.layers.get(name)
            if planned is None:
                return None
            if planned.info.fixed:
                raise PlanError(f"layer {name}: {planned.info.fixed}")
            result = combined(module, make_layer(planned), name)
            for key, value in vars(module).items():  # sizes, which modelling code may ask for
                if not key.startswith("_") and not hasattr(result, key):
                    setattr(result, key, value)
            if not hasattr(result, "weight"):  # and a weight's type
                result.weight = AbsentWeight(name, module.get_parameter("weight"))  # type: ignore[assignment]
            return result

        return self.model.built(replacement, attention or "sdpa")


def _tied(model: torch.nn.Module) -> list[list[str]]:
    """Names of parameters that are one and the same tensor, each group in the order of the modules."""
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def _untie(model: torch.nn.Module, names: Sequence[str]) -> None:
    """Give every one of these parameters but the first a tensor of its own."""
    import torch

    for name in names[1:]:
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        setattr(
            module, leaf, torch.nn.Parameter(torch.empty_like(getattr(module, leaf)), requires_grad=False)
        )
