"""What onnxruntime-genai reads beside the model: genai_config.json, tokenizer, chat template."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.backends.ort.storage import MODEL
from exporter.backends.ort.tracing import head_size
from exporter.errors import LoweringError

if TYPE_CHECKING:
    from exporter.models.skeleton import Skeleton

CONFIG = "genai_config.json"
# onnxruntime-genai runs every plain decoder alike; "decoder" is its name for one of no particular
# architecture (src/models/model_type.h in microsoft/onnxruntime-genai).
_MODEL_TYPE = "decoder"
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja",
)  # fmt: skip
# onnxruntime-genai's tokenizer chooses its code by this class; any byte-level BPE of a
# tokenizer.json that names none of its own is read by the generic one.
_GENERIC_TOKENIZER = "PreTrainedTokenizerFast"
_UNKNOWN_TOKENIZERS = ("TokenizersBackend",)


def write(skeleton: Skeleton, folder: Path, context: int) -> None:
    """Write genai_config.json and copy the tokenizer. Raises LoweringError where a value is missing.

    `context`: the longest context, in tokens, that the artifact is made for.
    """
    config = config_for(skeleton.config, _generation_config(skeleton.tokenizer_folder), context)
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if skeleton.tokenizer_folder is not None:
        copy_tokenizer(skeleton.tokenizer_folder, folder)


def config_for(config: Any, generation: dict[str, Any], context: int) -> dict[str, Any]:
    """genai_config.json's content from transformers' configuration and generation_config.json."""
    text = config.get_text_config()
    layers, heads = int(text.num_hidden_layers), int(text.num_attention_heads)

    def setting(key: str) -> Any:
        value = generation.get(key)
        return value if value is not None else getattr(text, key, None)

    eos = setting("eos_token_id")
    if eos is None:
        raise LoweringError("the model's configuration names no eos_token_id: generation would never end")
    first_eos = eos[0] if isinstance(eos, list) else eos
    bos, pad = setting("bos_token_id"), setting("pad_token_id")
    return {
        "model": {
            "type": _MODEL_TYPE,
            "bos_token_id": first_eos if bos is None else bos,
            "eos_token_id": eos,
            "pad_token_id": first_eos if pad is None else pad,
            "context_length": context,
            "vocab_size": int(text.vocab_size),
            "decoder": {
                "filename": MODEL,
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "head_size": head_size(text),
                "hidden_size": int(text.hidden_size),
                "num_attention_heads": heads,
                "num_hidden_layers": layers,
                "num_key_value_heads": int(getattr(text, "num_key_value_heads", None) or heads),
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {
            "max_length": context,
            "min_length": 0,
            "do_sample": bool(generation.get("do_sample") or False),
            "temperature": float(generation.get("temperature") or 1.0),
            "top_k": int(generation.get("top_k") or 50),
            "top_p": float(generation.get("top_p") or 1.0),
            "repetition_penalty": float(generation.get("repetition_penalty") or 1.0),
            "num_beams": 1,
            "num_return_sequences": 1,
            # the graph takes positions from the mask, so KV buffers may have the full length
            "past_present_share_buffer": True,
        },
    }


def _generation_config(folder: Path | None) -> dict[str, Any]:
    """generation_config.json beside the tokenizer, or nothing."""
    path = None if folder is None else folder / "generation_config.json"
    if path is None or not path.is_file():
        return {}
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy what is there of a tokenizer; its class renamed where onnxruntime-genai knows it not."""
    for name in _TOKENIZER_FILES:
        path = source / name
        if not path.is_file():
            continue
        if name != "tokenizer_config.json":
            shutil.copyfile(path, folder / name)
            continue
        settings = json.loads(path.read_text(encoding="utf-8"))
        if settings.get("tokenizer_class") in _UNKNOWN_TOKENIZERS:
            settings["tokenizer_class"] = _GENERIC_TOKENIZER
        (folder / name).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
