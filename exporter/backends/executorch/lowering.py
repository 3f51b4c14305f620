"""Trace a skeleton and turn it into model.pte."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from executorch.exir import (
    EdgeCompileConfig,
    ExecutorchBackendConfig,
    ExecutorchProgramManager,
    to_edge_transform_and_lower,
)
from executorch.exir.passes import MemoryPlanningPass

from exporter.backends.base import Progress, Target
from exporter.backends.executorch.assembling import assemble
from exporter.backends.executorch.attention import ATTENTION_NAME
from exporter.backends.executorch.caches import LayerCache, Step, active_step
from exporter.backends.executorch.capabilities import tokens_per_call
from exporter.backends.executorch.cutting import cut
from exporter.backends.executorch.finishing import finish
from exporter.backends.executorch.modules import PlannedEmbedding, layer_factory
from exporter.backends.executorch.operators import planned_layers
from exporter.backends.executorch.packing import pack
from exporter.backends.executorch.reading import TABLES_METHOD
from exporter.backends.executorch.running import missing_kernels
from exporter.backends.executorch.simplifying import simplify
from exporter.backends.executorch.static import with_float_biases
from exporter.backends.executorch.xnnpack import make_partitioner
from exporter.errors import LoweringError, QexportError
from exporter.models.exporting import export
from exporter.models.layer_list import cache_shapes
from exporter.models.skeleton import Skeleton, described_examples, static_plan
from exporter.static.dialects import with_integers

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)
KERNEL_LIBRARIES = ("executorch.kernels.quantized", "executorch.extension.llm.custom_ops.custom_ops")
_TRACED_TOKENS = 3  # any length but 0 and 1, which torch.export would take for constants


class CausalLanguageModel(torch.nn.Module):
    """forward(tokens (1, S) int64, input_pos (1,) int64) -> logits of the last token, (1, vocabulary)."""

    def __init__(self, model: torch.nn.Module, config: Any, target: Target) -> None:
        super().__init__()
        self.model = model
        self.max_context = target.max_context
        self.layers = int(config.get_text_config(decoder=True).num_hidden_layers)
        self.caches = torch.nn.ModuleList(LayerCache(shape, target) for shape in cache_shapes(config))
        self._keeps_last = "logits_to_keep" in inspect.signature(model.forward).parameters

    def forward(self, tokens: torch.Tensor, input_pos: torch.Tensor) -> torch.Tensor:
        """Append the tokens at position input_pos and return the last one's logits."""
        # One unbacked symbol, for the kernels that want a number; the positions of the rotary
        # embedding are computed from the tensor, since every pass over the graph pays for a symbol.
        start = input_pos.item()
        torch._check(start >= 0)  # type: ignore[no-untyped-call]
        torch._check(start + tokens.shape[1] <= self.max_context)  # type: ignore[no-untyped-call]
        positions = input_pos + torch.arange(tokens.shape[1])  # (S,)
        step = Step(list(self.caches), input_pos, start, positions)  # type: ignore[arg-type]
        options = {"logits_to_keep": 1} if self._keeps_last else {}
        with active_step(step):
            logits = self.model(
                input_ids=tokens, position_ids=positions[None], use_cache=False, **options
            ).logits
        if len(step.used) != self.layers:
            raise LoweringError(
                f"{len(step.used)} of {self.layers} layers attend through transformers' attention "
                "interface; the others keep a state that ExecuTorch's KV cache does not hold; take the "
                "onnxruntime target for this model"
            )
        last: torch.Tensor = logits[:, -1]
        return last


def lower(
    skeleton: Skeleton, target: Target, folder: Path, file_name: str, progress: Progress
) -> dict[str, object]:
    """Write the program and the tokenizer's files into the folder; facts for the manifest."""
    program, passes = lower_program(skeleton, target, progress)
    plan = program.executorch_program.execution_plan[0]
    operators = sorted({f"{op.name}.{op.overload}".removesuffix(".") for op in plan.operators})
    missing = missing_kernels(operators)
    if missing:
        raise LoweringError(
            f"ExecuTorch's runtime has no kernel for {', '.join(missing)}; change the model, or take the "
            "onnxruntime target"
        )
    progress("writing the program", 0.9)
    with (folder / file_name).open("wb") as file:
        program.write_to_file(file)
    finish(folder / file_name)
    if skeleton.tokenizer_folder is not None:
        for source in sorted(skeleton.tokenizer_folder.iterdir()):
            if source.name in TOKENIZER_FILES:
                shutil.copyfile(source, folder / source.name)
    progress("writing the program", 1.0)
    if skeleton.task == "text-generation":
        programs = {"text": text_facts(skeleton)}
    else:
        programs = {"programs": {"forward": described_examples(skeleton)}}
    return {
        "operators": operators,
        **programs,
        "delegates": {"XnnpackBackend": len(plan.delegates)},
        # Libraries of kernels that a Python process imports before it runs the program.
        "kernel_libraries": list(KERNEL_LIBRARIES),
        # ExecuTorch promises that newer runtimes run older programs, not the reverse.
        "min_runtime": version("executorch"),
        "passes": passes,
    }


def text_facts(skeleton: Skeleton) -> dict[str, object]:
    """What an app must know of a language model; `kv_heads` and `head_size` for each layer that keeps any."""
    shapes = cache_shapes(skeleton.config)
    return {
        "vocab": int(skeleton.config.get_text_config().vocab_size),
        "stop_ids": _end_tokens(skeleton),
        "kv_heads": [shape.kv_heads for shape in shapes],
        "head_size": [shape.head_size for shape in shapes],
    }


def lower_program(
    skeleton: Skeleton, target: Target, progress: Progress
) -> tuple[ExecutorchProgramManager, dict[str, object]]:
    """The finished program, its weights in XNNPACK's delegates and in the constants; what passes did."""
    passes: dict[str, object] = {}
    with torch.no_grad(), planned_layers(skeleton.layers):
        progress("building the model", 0.0)
        program, methods = _trace(skeleton, target, progress)
        progress("lowering to XNNPACK", 0.3)
        with lowering_errors():
            if skeleton.task == "text-generation":
                passes["packed_siblings"] = pack(program)
                edge = assemble(program, cut(program), methods)
            else:
                edge = to_edge_transform_and_lower(
                    program,
                    partitioner=[make_partitioner()],
                    constant_methods=methods,
                    compile_config=EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True),
                )
            progress("planning memory", 0.8)
            memory = MemoryPlanningPass(alloc_graph_input=False)
            return edge.to_executorch(ExecutorchBackendConfig(memory_planning_pass=memory)), passes


@contextmanager
def lowering_errors() -> Iterator[None]:
    """ExecuTorch raises many types; a person needs to hear which operator it was."""
    try:
        yield
    except (QexportError, OSError):
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise LoweringError(
            f"ExecuTorch could not lower the model: {reason}; --debug shows where, and the onnxruntime target "
            "may take the operator"
        ) from error


def _trace(
    skeleton: Skeleton, target: Target, progress: Progress
) -> tuple[torch.export.ExportedProgram, dict[str, Any]]:
    """The exported program and, for a language model, the constants its runner asks for."""
    make_layer = layer_factory(skeleton.layers)
    if skeleton.task == "module":
        module = skeleton.build(make_layer)
        progress("tracing", 0.1)
        program = export(module, skeleton.example_inputs, shapes=skeleton.dynamic_shapes)
        schemes = {name: planned.scheme for name, planned in skeleton.layers.items()}
        return with_float_biases(with_integers(program, schemes, static_plan(skeleton))), table_names(module)
    model = skeleton.build(make_layer, attention=ATTENTION_NAME)
    wrapper = CausalLanguageModel(model, skeleton.config, target).eval()
    tokens = torch.zeros(1, _TRACED_TOKENS, dtype=torch.long)
    length = torch.export.Dim("tokens", max=tokens_per_call(target))
    progress("tracing", 0.1)
    program = export(wrapper, (tokens, torch.zeros(1, dtype=torch.long)), shapes=({1: length}, None))
    simplify(program)
    ends = _end_tokens(skeleton)
    methods = metadata_methods(skeleton.config, ends, target) | table_names(model)
    return program, methods


def table_names(model: torch.nn.Module) -> dict[str, Any]:
    """The constant method by which a reader names the quantised embedding tables."""
    entries = [
        f"{module.layer_name}:{sha256(module.table.numpy().tobytes()).hexdigest()}"
        for module in model.modules()
        if isinstance(module, PlannedEmbedding)
    ]
    return {TABLES_METHOD: " ".join(entries)} if entries else {}


def metadata_methods(config: Any, ends: list[int], target: Target) -> dict[str, Any]:
    """What ExecuTorch's LLM runners read (extension/llm/runner/constants.h).

    Their prefiller cuts a prompt into pieces of get_max_seq_len tokens (text_prefiller.cpp).
    """
    text = config.get_text_config()
    begin = text.bos_token_id if text.bos_token_id is not None else config.bos_token_id
    methods: dict[str, Any] = {
        "get_max_seq_len": tokens_per_call(target),
        "get_max_context_len": target.max_context,
        "get_vocab_size": text.vocab_size,
        "use_kv_cache": True,
        "use_sdpa_with_kv_cache": True,
        "enable_dynamic_shape": True,
    }
    if begin is not None:
        methods["get_bos_id"] = begin
    if ends:
        methods["get_eos_ids"] = ends
    return methods


def _end_tokens(skeleton: Skeleton) -> list[int]:
    """Token ids that end an answer: generation_config.json where there is one, else the configuration."""
    found = None
    if skeleton.tokenizer_folder is not None:
        path = skeleton.tokenizer_folder / "generation_config.json"
        if path.is_file():
            found = json.loads(path.read_text()).get("eos_token_id")
    if found is None:
        text = skeleton.config.get_text_config()
        found = text.eos_token_id if text.eos_token_id is not None else skeleton.config.eos_token_id
    if found is None:
        return []
    return [int(token) for token in found] if isinstance(found, list | tuple) else [int(found)]
