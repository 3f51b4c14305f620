"""Encoder-decoder models: encoder.onnx and decoder.onnx over one file of weights, as onnxruntime-genai reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.backends.base import Progress, Target
from exporter.backends.ort import capabilities, cross_attention, passes, storage
from exporter.backends.ort.genai import CONFIG, copy_tokenizer
from exporter.backends.ort.modules import layer_factory
from exporter.backends.ort.passes import naming
from exporter.backends.ort.tracing import trace_program
from exporter.backends.ort.translation import OPSET, to_onnx
from exporter.models.encoder_decoder import EncoderDecoderSkeleton
from exporter.models.seq2seq import DECODER, ENCODER, HIDDEN, kv_names
from exporter.models.skeleton import Program

if TYPE_CHECKING:
    from exporter.models.skeleton import Skeleton

AUDIO_CONFIG = "audio_processor_config.json"


def lower_seq2seq(
    skeleton: Skeleton, target: Target, folder: Path, progress: Progress
) -> Mapping[str, object]:
    """Write a file for each program, and what onnxruntime-genai needs beside them.

    Raises TraceError, LoweringError.
    """
    assert isinstance(skeleton, EncoderDecoderSkeleton)
    # one model for both, so that a table which both read is one tensor in memory and in the file
    net = skeleton.build(layer_factory(), cross_attention.register())
    models: dict[str, tuple[Any, set[str]]] = {}
    operators, outcomes, nodes = set[str](), dict[str, object](), 0
    programs = skeleton.programs
    for number, program in enumerate(programs):
        progress(f"tracing {program.name}", number / len(programs) * 0.8)
        traced = trace_program(net, program)
        progress(f"translating {program.name} to ONNX", (number + 0.5) / len(programs) * 0.8)
        model = to_onnx(traced)
        if program.name == DECODER:
            cross_attention.check_decoder(model, skeleton.model.sizes.layers)
        found = passes.run(model, None, many_tokens=program.name == ENCODER)
        outcomes |= {f"{program.name}: {one}": outcome for one, outcome in found.items()}
        external = naming.name_all(model, traced.dimensions)
        operators |= set(naming.operators(model))
        nodes += len(list(model.graph))
        models[file_name(program)] = (model, external)
    storage.write_all(models, folder, lambda what, share: progress(what, 0.8 + 0.15 * share))
    write_genai(skeleton, folder, target)
    oldest = max(
        (capabilities.required_runtime(x.info, x.scheme)[0] for x in skeleton.layers.values()),
        default=capabilities.required_cache_runtime(target),
    )
    return {
        "operators": sorted(operators),
        "min_runtime": capabilities.show_version(oldest),
        "opset": OPSET,
        "nodes": nodes,
        "passes": outcomes,
        "programs": {program.name: program.signature.describe() for program in programs},
    }


def file_name(program: Program) -> str:
    """Of its ONNX graph."""
    return f"{program.name}.onnx"


def write_genai(skeleton: EncoderDecoderSkeleton, folder: Path, target: Target) -> None:
    """genai_config.json and the tokenizer, and for speech how sound becomes features."""
    sizes = skeleton.model.sizes
    generation = skeleton.model.generation
    end = generation.eos_token_id
    first_end = end[0] if isinstance(end, list) else end
    context = target.max_context
    states = {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "head_size": sizes.head_size,
        "hidden_size": sizes.heads * sizes.head_size,
        "num_attention_heads": sizes.heads,
        "num_hidden_layers": sizes.layers,
        "num_key_value_heads": sizes.heads,
    }
    inputs = [port.name for port in skeleton.programs[0].signature.inputs]
    speech = skeleton.task == "automatic-speech-recognition"
    config = {
        "model": {
            # onnxruntime-genai knows kinds of encoder-decoder models by transformers' name for them
            "type": skeleton.config.model_type,
            "bos_token_id": first_end if generation.bos_token_id is None else generation.bos_token_id,
            "eos_token_id": end,
            "pad_token_id": first_end if generation.pad_token_id is None else generation.pad_token_id,
            "decoder_start_token_id": generation.decoder_start_token_id,
            "context_length": context,
            "vocab_size": sizes.vocabulary,
            "encoder": {
                **states,
                "filename": "encoder.onnx",
                "inputs": {"audio_features": inputs[0]} if speech else {name: name for name in inputs},
                "outputs": {
                    "encoder_hidden_states": HIDDEN,
                    "cross_present_key_names": "present_key_cross_%d",
                    "cross_present_value_names": "present_value_cross_%d",
                },
            },
            "decoder": {
                **states,
                "filename": "decoder.onnx",
                "inputs": {
                    "input_ids": "input_ids",
                    "past_key_names": "past_key_self_%d",
                    "past_value_names": "past_value_self_%d",
                    "cross_past_key_names": "past_key_cross_%d",
                    "cross_past_value_names": "past_value_cross_%d",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present_key_self_%d",
                    "present_value_names": "present_value_self_%d",
                },
            },
        },
        "search": {
            "max_length": context,
            "min_length": 0,
            "do_sample": False,
            "temperature": 1.0,
            "top_k": 1,
            "top_p": 1.0,
            "repetition_penalty": 1.0,
            "num_beams": 1,
            "num_return_sequences": 1,
            "past_present_share_buffer": False,  # present has the length that it has
        },
    }
    _write(folder / CONFIG, config)
    if skeleton.tokenizer_folder is not None:
        copy_tokenizer(skeleton.tokenizer_folder, folder)
    if speech:
        _write(folder / AUDIO_CONFIG, audio_config(skeleton.model.processor.steps))


def audio_config(steps: Any) -> dict[str, Any]:
    """Log-mel features in the operators of onnxruntime-extensions, from SpeechSteps."""
    operations = [
        ("audio_decoder", "AudioDecoder", {}),
        (
            "STFT",
            "STFTNorm",
            {
                "n_fft": steps.n_fft,
                "frame_length": steps.n_fft,
                "hop_length": steps.hop,
            },
        ),
        (
            "log_mel_spectrogram",
            "LogMelSpectrum",
            {
                "chunk_size": int(steps.seconds),
                "hop_length": steps.hop,
                "n_fft": steps.n_fft,
                "n_mel": steps.n_mels,
            },
        ),
    ]
    sequence = [
        {"operation": {"name": name, "type": kind, **({"attrs": attributes} if attributes else {})}}
        for name, kind, attributes in operations
    ]
    return {"feature_extraction": {"sequence": sequence}}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def cross_names(layers: int) -> Sequence[tuple[str, str]]:
    """(output of the encoder, input of the decoder) for keys and values of cross attention."""
    return list(zip(kv_names("present", "cross", layers), kv_names("past", "cross", layers), strict=True))
