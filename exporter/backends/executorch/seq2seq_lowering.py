"""Trace an encoder-decoder model and write model.pte with the methods `encoder` and `text_decoder`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from exporter.backends.base import Progress, Target
from exporter.backends.executorch.capabilities import tokens_per_call
from exporter.backends.executorch.lowering import TOKENIZER_FILES, table_names
from exporter.backends.executorch.methods import lower_method, write_methods
from exporter.backends.executorch.modules import layer_factory
from exporter.backends.executorch.operators import planned_layers
from exporter.backends.executorch.seq2seq import DECODER, ENCODER, Decoder, Encoder, register
from exporter.models.encoder_decoder import EncoderDecoderSkeleton
from exporter.models.exporting import export
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
        constants = metadata_methods(skeleton, target) | table_names(net)
        lowered = {}
        for number, (name, (module, inputs, shapes)) in enumerate(_methods(net, skeleton, target).items()):
            progress(f"tracing {name}", 0.1 + 0.35 * number)
            program = export(module, inputs, shapes=shapes)
            progress(f"lowering {name} to XNNPACK", 0.3 + 0.35 * number)
            lowered[name] = lower_method(program)
        facts = write_methods(lowered, constants, folder / file_name, progress)
    for source in sorted(skeleton.model.folder.iterdir()):
        if source.name in TOKENIZER_FILES or source.name == "preprocessor_config.json":
            shutil.copyfile(source, folder / source.name)
    return {**facts, "programs": {ENCODER: skeleton.programs[0].signature.single().describe()}}


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
