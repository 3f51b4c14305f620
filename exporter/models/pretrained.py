"""Models of the Hugging Face layout, opened by the Auto class of their task: encoders of text and pictures, and what
every other kind shares with them."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.errors import PlanError, SourceError, first_line
from exporter.layers import LayerInfo, ModelLayers
from exporter.models import layer_list
from exporter.models.checkpoint import Checkpoint
from exporter.models.gguf import convert_weights, metadata_folder
from exporter.models.sentence import Sentence, add_heads, configuration_text, read_sentence
from exporter.models.skeleton import LayerFactory, PlannedLayer, Program, planned_layers_of
from exporter.models.sources import ModelFiles, file_sha256
from exporter.numerics import FloatArray, QuantizedTensor
from exporter.samples.processing import Processor, picture_processor, text_processor
from exporter.schemes import QuantScheme
from exporter.tasks import SPECS, Task

if TYPE_CHECKING:
    import torch

    from exporter.recipe import Preprocessing

_LONGEST = 512  # tokens, where neither the configuration nor the tokenizer names a limit
Replace = Callable[[str, "torch.nn.Module"], "torch.nn.Module | None"]


class Pretrained:
    """A checkpoint on disk, with its layers, its weights one by one, and skeletons to lower."""

    def __init__(
        self, files: ModelFiles, task: Task, cache: Path, preprocessing: Preprocessing | None = None
    ) -> None:
        self.files, self.task = files, task
        self._gguf_sha256 = file_sha256(files.path) if files.is_gguf else None
        self.folder = (
            metadata_folder(files.path, self._gguf_sha256, cache) if self._gguf_sha256 else files.path
        )
        self._cache, self._preprocessing = cache, preprocessing

    def layers(self) -> ModelLayers:
        """Every layer that the task's outputs depend on, from the configuration alone; no weight is read."""
        entry = layer_list.cache_entry(self._cache, self._key_text(), self.task)
        found = layer_list.read_cached(entry)
        if found is None:
            used, modules = self._used
            unused = [p.numel() for n, p in self.meta.named_parameters() if n not in used]
            found = layer_list.layers_of(
                self.meta, self._describe(), (), self.longest if self._takes_text else None, modules
            )
            found = layer_list.without(found, sum(unused))
            layer_list.write_cached(entry, found)
        return found

    def identity(self) -> dict[str, object]:
        """Source, revision and hashes for the manifest."""
        if self._gguf_sha256:
            weights: dict[str, str] = {self.files.path.name: self._gguf_sha256}
        else:
            weights = self._own_checkpoint.sha256()
            for path, head in self._heads.items():
                weights |= {f"{path}/{name}": digest for name, digest in head.sha256().items()}
        return {"source": self.files.source, "revision": self.files.revision, "weights_sha256": weights}

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The weights by names that the model knows; a GGUF file, and a checkpoint whose names are others, are
        converted on first use."""
        if self.files.is_gguf:
            convert_weights(self.files.path, self.folder)
        own = self._own_checkpoint
        inside = [name for name in self._used[0] if self._head_of(name) is None]
        if all(self._find(name, own) for name in inside):
            return own
        return self._converted(own, inside)

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

    @cached_property
    def processor(self) -> Processor:
        """What makes the model's inputs of a sample. Raises SourceError where the folder does not say."""
        if SPECS[self.task].medium == "image":
            return picture_processor(self.folder, self._preprocessing, self.labels)
        limit = self.sentence.max_length if self.sentence else None
        return text_processor(self.folder, min(limit or self.longest, self.longest))

    @property
    def labels(self) -> dict[int, str]:
        """Names of the classes by number; empty for a task without classes."""
        if not SPECS[self.task].task.endswith("-classification"):
            return {}
        return {int(number): str(name) for number, name in (self.config.id2label or {}).items()}

    @cached_property
    def sentence(self) -> Sentence | None:
        """How the vectors of tokens become one of a text, for feature-extraction."""
        return read_sentence(self.folder) if self.task == "feature-extraction" else None

    @cached_property
    def longest(self) -> int:
        """Tokens that the model takes: positions of its configuration, or less where its tokenizer says so."""
        limits = [layer_list.max_context(self.config), self.tokenizer().model_max_length]
        return min([limit for limit in limits if limit and limit < 1 << 30], default=_LONGEST)

    def weight(self, layer: LayerInfo) -> FloatArray:
        """float32 weight of one layer, a row for each output: (out, in)."""
        tensor = self.read(f"{layer.tied_to or layer.name}.weight")
        if tuple(tensor.shape) != layer.shape:
            raise SourceError(
                f"{self.folder}: {layer.name}.weight has shape {tuple(tensor.shape)}, "
                f"config.json asks for {layer.shape}"
            )
        array: FloatArray = tensor.numpy()
        return array.reshape(len(array), -1)

    def float_model(self) -> torch.nn.Module:
        """The reference: every weight as the checkpoint has it, in float32."""
        return self.built(lambda name, module: None, None)

    def skeleton(
        self, schemes: Mapping[str, QuantScheme], load: Callable[[str], QuantizedTensor]
    ) -> PretrainedSkeleton:
        """What a backend lowers: `schemes` by layer name, `load` gives a layer's integers."""
        return PretrainedSkeleton(self, schemes, load)

    @cached_property
    def program(self) -> Program:
        """Inputs, outputs and module of the task."""
        from exporter.models import programs

        if self._takes_text:
            ports = programs.text_ports(self.meta.forward, self.tokenizer().model_input_names)
        else:
            ports = programs.picture_ports(self._picture())
        wanted = programs.Wanted(SPECS[self.task].output, self.sentence)
        return programs.encoder_program(self.meta, ports, wanted, self.longest if self._takes_text else 1)

    def built(self, replace: Replace, attention: str | None) -> torch.nn.Module:
        """A module with real buffers; layers replaced where `replace` gives one, the rest loaded. What no output
        depends on is a number repeated."""
        import torch

        model = self.empty(attention)
        for name, module in list(model.named_modules()):
            replacement = replace(name, module)
            if replacement is not None:
                model.set_submodule(name, replacement)
        loaded: dict[int, torch.nn.Parameter] = {}
        for name, parameter in list(model.named_parameters(remove_duplicate=False)):
            if parameter.device.type != "meta":
                continue
            if id(parameter) not in loaded:
                tensor = self.read(name) if self._uses(name) else torch.zeros(()).expand(parameter.shape)
                loaded[id(parameter)] = torch.nn.Parameter(tensor, requires_grad=False)
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, loaded[id(parameter)])
        return model.eval().requires_grad_(False)

    def empty(self, attention: str | None) -> torch.nn.Module:
        """The model with parameters on the meta device; attention None: transformers' own fused one, or, where the
        model has none, the one of its code."""
        import copy

        import torch
        import transformers

        config = copy.deepcopy(self.config)  # the attention's name is kept in it
        auto = getattr(transformers, SPECS[self.task].auto_class or "")
        chosen = attention or ("sdpa" if getattr(self.meta, "_supports_sdpa", False) else "eager")
        with parameters_on_meta():
            model: torch.nn.Module = auto.from_config(config, attn_implementation=chosen, dtype=torch.float32)
            if self.sentence:
                add_heads(model, self.sentence)
        return model

    def read(self, name: str) -> torch.Tensor:
        """One tensor by the model's own name for it. Raises SourceError when it is not there."""
        head = self._head_of(name)
        if head is not None:
            return self._heads[head].read(name.removeprefix(f"{head}."))
        return self.checkpoint.read(self._find(name, self.checkpoint) or name)

    def bias(self, layer: str) -> torch.Tensor | None:
        """The layer's bias, where it has one."""
        held = getattr(self.meta.get_submodule(layer), "bias", None)
        return None if held is None else self.read(f"{layer}.bias")

    @cached_property
    def meta(self) -> torch.nn.Module:
        """The model without weights, on the meta device."""
        import torch
        import transformers

        from exporter.models.programs import shapes_attention

        auto = getattr(transformers, SPECS[self.task].auto_class or "")
        try:
            with torch.device("meta"):
                model: torch.nn.Module = auto.from_config(
                    self.config, attn_implementation=shapes_attention(), dtype=torch.float32
                )
                if self.sentence:
                    add_heads(model, self.sentence)
        except ValueError as problem:
            kind = getattr(self.config, "model_type", "?")
            raise SourceError(
                f"{self.folder}: a model of type {kind!r} is not known for task {self.task}"
            ) from problem
        return model.to("meta").eval()

    @property
    def _takes_text(self) -> bool:
        return SPECS[self.task].medium == "text"

    @cached_property
    def _used(self) -> tuple[frozenset[str], frozenset[str]]:
        """Parameters and modules that the task's outputs depend on."""
        from exporter.models.programs import used_parameters

        return used_parameters(self.meta, self.program)

    def _uses(self, name: str) -> bool:
        """Whether an output depends on this parameter."""
        return name in self._used[0]

    def _picture(self) -> dict[str, torch.Tensor]:
        """What the processor makes of a black picture."""
        import torch

        made = self.processor.prepare(np.zeros((64, 64, 3), np.uint8))
        return {name: torch.from_numpy(array) for name, array in made.items()}

    @cached_property
    def _own_checkpoint(self) -> Checkpoint:
        return Checkpoint(self.folder)

    @cached_property
    def _heads(self) -> dict[str, Checkpoint]:
        """Weights of the stages behind the transformer, by their folder."""
        stages = self.sentence.stages if self.sentence else ()
        return {stage.path: Checkpoint(self.folder / stage.path) for stage in stages if stage.kind == "dense"}

    def _head_of(self, name: str) -> str | None:
        return next((path for path in self._heads if name.startswith(f"{path}.")), None)

    @cached_property
    def _tied(self) -> dict[str, list[str]]:
        """Names of one and the same parameter, by each of them."""
        groups: dict[int, list[str]] = {}
        for name, parameter in self.meta.named_parameters(remove_duplicate=False):
            groups.setdefault(id(parameter), []).append(name)
        return {name: names for names in groups.values() if len(names) > 1 for name in names}

    def _find(self, name: str, checkpoint: Checkpoint) -> str | None:
        """A checkpoint may hold a tied weight under any of its names, and have or lack the base model's prefix."""
        prefix = f"{getattr(self.meta, 'base_model_prefix', '')}."
        for one in [name, *self._tied.get(name, [])]:
            for stored in (one, one.removeprefix(prefix), prefix + one):
                if stored in checkpoint.files:
                    return stored
        return None

    def _converted(self, own: Checkpoint, names: list[str]) -> Checkpoint:
        """The weights as transformers' own loader names them, written once into the cache.

        Raises SourceError where it misses one too.
        """
        import torch
        import transformers
        from safetensors.torch import save_file

        digest = hashlib.sha256(
            f"{self.task}\n{sorted(own.sha256().items())}\n{self._config_text()}".encode()
        )
        folder = self._cache / "converted" / digest.hexdigest()[:32]
        if not (folder / "model.safetensors").is_file():
            auto = getattr(transformers, SPECS[self.task].auto_class or "")
            model, facts = auto.from_pretrained(
                str(self.folder), dtype=torch.float32, output_loading_info=True
            )
            missing = sorted(set(facts["missing_keys"]) & set(names))
            if missing:
                raise SourceError(
                    f"{self.folder}: the weights hold no tensor {missing[0]!r}, which task {self.task} needs; the "
                    "checkpoint was made for another task"
                )
            folder.mkdir(parents=True, exist_ok=True)
            tensors = {id(p): (name, p.detach().contiguous()) for name, p in model.named_parameters()}
            draft = folder / "model.draft"
            save_file(dict(tensors.values()), draft, {"format": "pt"})
            draft.replace(folder / "model.safetensors")
        return Checkpoint(folder)

    def _config_text(self) -> str:
        try:
            return (self.folder / "config.json").read_text()
        except (OSError, UnicodeDecodeError) as problem:
            raise SourceError(f"{self.folder / 'config.json'}: cannot be read ({problem})") from problem

    def _key_text(self) -> str:
        """Everything in the folder, weights aside, that decides which layers there are."""
        settings = self.folder / "tokenizer_config.json"
        limits = settings.read_text("utf-8") if settings.is_file() else ""
        return "\n".join([self._config_text(), limits, configuration_text(self.folder)])

    def _describe(self) -> str:
        layers = getattr(self.config, "num_hidden_layers", None)
        return type(self.meta).__name__ + (f", {layers} layers" if layers else "")


class PretrainedSkeleton:
    """See exporter.models.skeleton.Skeleton."""

    example_inputs: tuple[Any, ...] = ()
    dynamic_shapes: Any = None
    calibration: tuple[tuple[int, ...], ...] = ()

    def __init__(
        self,
        model: Pretrained,
        schemes: Mapping[str, QuantScheme],
        load: Callable[[str], QuantizedTensor],
    ) -> None:
        self.model = model
        self.task = model.task
        self.config = model.config
        self.tokenizer_folder: Path | None = model.folder
        self.layers = planned_layers_of(model.layers().layers, schemes, load, model.bias)

    @property
    def programs(self) -> tuple[Program, ...]:
        """See Skeleton.programs."""
        return (self.model.program,)

    def build(self, make_layer: LayerFactory, attention: str | None = None) -> torch.nn.Module:
        """See Skeleton.build."""
        return self.model.built(
            lambda name, module: replacement(self.layers, name, module, make_layer), attention
        )


def replacement(
    layers: Mapping[str, PlannedLayer], name: str, module: torch.nn.Module, make_layer: LayerFactory
) -> torch.nn.Module | None:
    """What takes the place of a planned layer; None for any other module. Raises PlanError where none can."""
    planned = layers.get(name)
    if planned is None:
        return None
    from exporter.models.derived import AbsentWeight, combined
    from exporter.models.pointwise import Pointwise, as_linear

    if planned.info.fixed:
        raise PlanError(f"layer {name}: {planned.info.fixed}")
    if planned.info.kind == "conv":  # over single places, or capabilities.unsupported had refused it
        made: torch.nn.Module = Pointwise(make_layer(as_linear(planned)))
    else:
        made = combined(module, make_layer(planned), name)
    # modelling code asks for its type; a property would make all of it
    if inspect.getattr_static(made, "weight", None) is None and "weight" not in made._parameters:
        made.weight = AbsentWeight(name, module.get_parameter("weight"))  # type: ignore[assignment]
    return made


@contextlib.contextmanager
def parameters_on_meta() -> Iterator[None]:
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
