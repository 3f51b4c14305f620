"""CTranslate2's model.bin of a Whisper model -> a folder in Hugging Face's layout.

The file (little endian): version (uint32, 6 here), name of the model's kind, revision (uint32); the number of
variables, and for each its name, rank (uint8), sizes (uint32 each), type (uint8), bytes (uint32) and elements; the
number of aliases, and for each its name and that of the variable it stands for. A name is its length with the
closing zero (uint16) and its bytes. Source: serialize() in CTranslate2's python/ctranslate2/specs/model_spec.py.

Names of the variables: python/ctranslate2/specs/whisper_spec.py there. Query, key and value of an attention are
one matrix, rows below rows; Whisper's keys have no bias.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from exporter.errors import SourceError

_TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
_HEAD_SIZE = 64  # of every Whisper model
_ENGLISH_VOCABULARY = 51864  # of the models that know English alone; the others have one token more, or two

Tensors = dict[str, NDArray[Any]]


def convert(source: Path, target: Path) -> None:
    """`source` holds model.bin, tokenizer.json and CTranslate2's config.json; `target` is a new folder.

    Raises SourceError where model.bin is no such file.
    """
    import torch
    from safetensors.torch import save_file

    variables = read_variables(source / "model.bin")
    state = {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in state_dict(variables).items()}
    target.mkdir(parents=True, exist_ok=True)
    save_file(state, target / "model.safetensors", {"format": "pt"})
    decoding = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config, generation = configuration(variables), generation_config(variables, decoding)
    _write(target / "config.json", {**config, **_special(generation)})
    _write(target / "generation_config.json", generation)
    _write(target / "preprocessor_config.json", _preprocessor(config["num_mel_bins"]))
    shutil.copyfile(source / "tokenizer.json", target / "tokenizer.json")
    _write(
        target / "tokenizer_config.json",
        {
            "tokenizer_class": "WhisperTokenizer",
            "model_max_length": 1024,
            "clean_up_tokenization_spaces": True,
        }
        | dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), "<|endoftext|>"),
    )


def read_variables(path: Path) -> Tensors:
    """Every variable of the file by name. Raises SourceError for another kind of file."""
    with path.open("rb") as file:
        try:
            version = _number(file, "I")
            kind = _text(file) if version >= 2 else ""
            if version != 6 or kind != "WhisperSpec":
                raise SourceError(f"{path}: is no model.bin of CTranslate2 in version 6 for Whisper")
            _number(file, "I")  # revision
            found: Tensors = {}
            for _ in range(_number(file, "I")):
                name = _text(file)
                shape = [_number(file, "I") for _ in range(_number(file, "B"))]
                kind_of_number = _TYPES[_number(file, "B")]
                content = file.read(_number(file, "I"))
                found[name] = np.frombuffer(content, kind_of_number).reshape(shape)
            for _ in range(_number(file, "I")):
                alias = _text(file)
                found[alias] = found[_text(file)]
        except (struct.error, KeyError, ValueError) as problem:
            raise SourceError(f"{path}: damaged or truncated ({problem}); fetch it again") from problem
    return found


def state_dict(variables: Tensors) -> Tensors:
    """Under the names of transformers' WhisperForConditionalGeneration, in the type that the file has."""
    state: Tensors = {}

    def layer(name: str, place: str) -> None:
        state[f"{name}.weight"] = variables[f"{place}/weight"]
        if f"{place}/bias" in variables:
            state[f"{name}.bias"] = variables[f"{place}/bias"]

    def norm(name: str, place: str) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = (
            variables[f"{place}/gamma"],
            variables[f"{place}/beta"],
        )

    def packed(name: str, place: str, parts: tuple[str, ...]) -> None:
        weights = np.split(variables[f"{place}/weight"], len(parts))
        biases = np.split(variables[f"{place}/bias"], len(parts))
        for part, weight, bias in zip(parts, weights, biases, strict=True):
            state[f"{name}.{part}.weight"] = weight
            if part != "k_proj":
                state[f"{name}.{part}.bias"] = bias

    for convolution in ("conv1", "conv2"):
        layer(f"model.encoder.{convolution}", f"encoder/{convolution}")
    state["model.decoder.embed_tokens.weight"] = variables["decoder/embeddings/weight"]
    for side in ("encoder", "decoder"):
        state[f"model.{side}.embed_positions.weight"] = variables[f"{side}/position_encodings/encodings"]
        norm(f"model.{side}.layer_norm", f"{side}/layer_norm")
        for number in range(_layers(variables, side)):
            place, name = f"{side}/layer_{number}", f"model.{side}.layers.{number}"
            norm(f"{name}.self_attn_layer_norm", f"{place}/self_attention/layer_norm")
            packed(f"{name}.self_attn", f"{place}/self_attention/linear_0", ("q_proj", "k_proj", "v_proj"))
            layer(f"{name}.self_attn.out_proj", f"{place}/self_attention/linear_1")
            if side == "decoder":
                norm(f"{name}.encoder_attn_layer_norm", f"{place}/attention/layer_norm")
                layer(f"{name}.encoder_attn.q_proj", f"{place}/attention/linear_0")
                packed(f"{name}.encoder_attn", f"{place}/attention/linear_1", ("k_proj", "v_proj"))
                layer(f"{name}.encoder_attn.out_proj", f"{place}/attention/linear_2")
            norm(f"{name}.final_layer_norm", f"{place}/ffn/layer_norm")
            layer(f"{name}.fc1", f"{place}/ffn/linear_0")
            layer(f"{name}.fc2", f"{place}/ffn/linear_1")
    return state


def configuration(variables: Tensors) -> dict[str, Any]:
    """config.json, from the shapes."""
    width = int(variables["encoder/layer_norm/gamma"].shape[0])
    config: dict[str, Any] = {"model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"]}
    for side in ("encoder", "decoder"):
        config[f"{side}_layers"] = _layers(variables, side)
        config[f"{side}_attention_heads"] = width // _HEAD_SIZE
        config[f"{side}_ffn_dim"] = int(variables[f"{side}/layer_0/ffn/linear_0/weight"].shape[0])
    return config | {
        "d_model": width,
        "vocab_size": int(variables["decoder/embeddings/weight"].shape[0]),
        "num_mel_bins": int(variables["encoder/conv1/weight"].shape[1]),
        "max_source_positions": int(variables["encoder/position_encodings/encodings"].shape[0]),
        "max_target_positions": int(variables["decoder/position_encodings/encodings"].shape[0]),
        "tie_word_embeddings": True,
    }


def generation_config(variables: Tensors, decoding: dict[str, Any]) -> dict[str, Any]:
    """generation_config.json. Whisper's special tokens follow <|endoftext|> in one order: start of transcript, a
    token for each language, translate, transcribe, start of LM, start of previous, no speech, no timestamps."""
    vocabulary = int(variables["decoder/embeddings/weight"].shape[0])
    multilingual = vocabulary > _ENGLISH_VOCABULARY
    start = 50258 if multilingual else 50257
    end = start - 1
    languages = [token for token in decoding["lang_ids"] if token > start]
    found: dict[str, Any] = {
        "decoder_start_token_id": start,
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "suppress_tokens": decoding["suppress_ids"],
        "begin_suppress_tokens": decoding["suppress_ids_begin"],
        "alignment_heads": decoding["alignment_heads"],
        "is_multilingual": multilingual,
        "max_length": int(variables["decoder/position_encodings/encodings"].shape[0]),
    }
    if not multilingual:
        return found | {"no_timestamps_token_id": 50362, "forced_decoder_ids": [[1, 50362]]}
    last = max(languages)
    without = last + 6
    # English, transcribed: what a program gets that asks for nothing else
    forced = [[1, min(languages)], [2, last + 2], [3, without]]
    return found | {
        "no_timestamps_token_id": without,
        "task_to_id": {"translate": last + 1, "transcribe": last + 2},
        "forced_decoder_ids": forced,
    }


def _special(generation: dict[str, Any]) -> dict[str, Any]:
    names = ("decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id")
    return {name: generation[name] for name in names}


def _preprocessor(mel_bins: int) -> dict[str, Any]:
    """30 s of 16 kHz; frames of 400 samples, one each 160."""
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "processor_class": "WhisperProcessor",
        "feature_size": mel_bins,
        "sampling_rate": 16000,
        "hop_length": 160,
        "n_fft": 400,
        "chunk_length": 30,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
    }


def _layers(variables: Tensors, side: str) -> int:
    found = (re.match(rf"{side}/layer_(\d+)/", name) for name in variables)
    return 1 + max(int(match[1]) for match in found if match)


def _number(file: BinaryIO, kind: str) -> int:
    return int(struct.unpack(f"<{kind}", file.read(struct.calcsize(kind)))[0])


def _text(file: BinaryIO) -> str:
    return file.read(_number(file, "H")).rstrip(b"\0").decode()


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
