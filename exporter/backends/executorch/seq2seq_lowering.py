"""Trace an encoder-decoder model and write model.pte with the methods `encoder` and `text_decoder`."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from executorch.exir import EdgeCompileConfig, EdgeProgramManager, ExecutorchBackendConfig
from executorch.exir.passes import MemoryPlanningPass

from exporter.backends.base import Progress, Target
from exporter.backends.executorch import lowering
from exporter.backends.executorch.assembling import assemble
from exporter.backends.executorch.capabilities import tokens_per_call
from exporter.backends.executorch.cutting import cut
from exporter.backends.executorch.finishing import finish
from exporter.backends.executorch.modules import layer_factory
from exporter.backends.executorch.operators import planned_layers
from exporter.backends.executorch.rewriting import rewrite
from exporter.backends.executorch.running import missing_kernels
from exporter.backends.executorch.seq2seq import DECODER, ENCODER, Decoder, Encoder, register
from exporter.backends.executorch.simplifying import simplify
from exporter.errors import LoweringError
from exporter.models.encoder_decoder import EncoderDecoderSkeleton
from exporter.models.seq2seq import MASK
from exporter.signatures import BATCH

if TYPE_CHECKING:
    from exporter.models.skeleton import Skeleton

_TRACED_TOKENS, _TRACED_LENGTH = 3, 9  # any lengths but 0 and 1, which torch.export would take for constants
_LENGTH = "length"


def lower_seq2seq(
    skeleton: Skeleton, target: Target, folder: Path, file_name: str, progress: Progress
) -> dict[str, object]:
    """Write the program and the tokenizer's files into the folder; facts for the manifest."""
    assert isinstance(skeleton, EncoderDecoderSkeleton)
    with torch.no_grad(), planned_layers(skeleton.layers):
        progress("building the model", 0.0)
        net = skeleton.build(layer_factory(skeleton.layers), register())
        methods = metadata_methods(skeleton, target) | lowering._table_names(net)
        lowered = {}
        for number, (name, (module, inputs, shapes)) in enumerate(_methods(net, skeleton, target).items()):
            progress(f"tracing {name}", 0.1 + 0.35 * number)
            program = lowering._export(module, inputs, shapes)
            rewrite(program)
            simplify(program)
            progress(f"lowering {name} to XNNPACK", 0.3 + 0.35 * number)
            with lowering._lowering_errors():
                lowered[name] = assemble(program, cut(program), {}).exported_program()
        progress("planning memory", 0.8)
        with lowering._lowering_errors():
            config = EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True)
            finished = EdgeProgramManager(lowered, methods, config).to_executorch(
                ExecutorchBackendConfig(memory_planning_pass=MemoryPlanningPass(alloc_graph_input=False))
            )
    plans = [p for p in finished.executorch_program.execution_plan if p.name in lowered]
    operators = sorted({f"{op.name}.{op.overload}".removesuffix(".") for p in plans for op in p.operators})
    missing = missing_kernels(operators)
    if missing:
        raise LoweringError(
            f"ExecuTorch's runtime has no kernel for {', '.join(missing)}; change the model, or take the "
            "onnxruntime target"
        )
    progress("writing the program", 0.9)
    with (folder / file_name).open("wb") as file:
        finished.write_to_file(file)
    finish(folder / file_name)
    for source in sorted(skeleton.model.folder.iterdir()):
        if source.name in lowering._TOKENIZER_FILES or source.name == "preprocessor_config.json":
            shutil.copyfile(source, folder / source.name)
    return {
        "operators": operators,
        "delegates": {"XnnpackBackend": sum(len(plan.delegates) for plan in plans)},
        "methods": sorted(lowered),
        "kernel_libraries": list(lowering.KERNEL_LIBRARIES),
        "min_runtime": version("executorch"),
        "programs": {ENCODER: skeleton.programs[0].signature.single().describe()},
    }


def _methods(
    net: torch.nn.Module, skeleton: EncoderDecoderSkeleton, target: Target
) -> dict[str, tuple[torch.nn.Module, tuple[torch.Tensor, ...], Any]]:
    """Module, example inputs and dynamic shapes of each method; batch 1, so no input needs a mask."""
    examples, named, axes = skeleton.model.inputs
    sizes = skeleton.model.sizes
    names = [name for name in examples if name != MASK]
    dims = {name: torch.export.Dim(name, max=axis.maximum) for name, axis in axes.items() if name != BATCH}
    shapes = [{place: dims[size] for place, size in enumerate(named[name]) if size in dims} for name in names]
    length: dict[int, Any] = {}
    if dims:
        length = {1: torch.export.Dim(_LENGTH, max=max(axes[name].maximum for name in dims))}
    features = sizes.cross_heads * sizes.cross_head_size
    tokens = torch.export.Dim("tokens", max=tokens_per_call(target))
    inputs = (
        torch.zeros(1, _TRACED_TOKENS, dtype=torch.long),
        torch.zeros(2 * sizes.layers, sizes.encoder_length, features),
        torch.zeros(1, dtype=torch.long),
    )
    return {
        ENCODER: (
            Encoder(net, names).eval(),
            tuple(examples[name][:1].contiguous() for name in names),
            (tuple(shapes),),
        ),
        DECODER: (
            Decoder(net, sizes, target.max_context).eval(),
            inputs,
            ({1: tokens}, length or None, None),
        ),
    }


def metadata_methods(skeleton: EncoderDecoderSkeleton, target: Target) -> dict[str, Any]:
    """What ExecuTorch's runners read (extension/llm/runner/constants.h), and the token that decoding starts with."""
    generation = skeleton.model.generation
    end = generation.eos_token_id
    methods: dict[str, Any] = {
        "get_max_seq_len": tokens_per_call(target),
        "get_max_context_len": target.max_context,
        "get_vocab_size": skeleton.model.sizes.vocabulary,
        "use_kv_cache": True,
        "use_sdpa_with_kv_cache": True,
        "enable_dynamic_shape": True,
    }
    if end is not None:
        methods["get_eos_ids"] = end if isinstance(end, list) else [end]
    if generation.bos_token_id is not None:
        methods["get_bos_id"] = generation.bos_token_id
    if generation.decoder_start_token_id is not None:
        methods["decoder_start_token_id"] = generation.decoder_start_token_id
    return methods
