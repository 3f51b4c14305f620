"""What an app must know of a language model to run it: sizes, first and last tokens, how a chat is written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.backends.ort.genai import CONFIG
from exporter.bundling.artifact import Artifact
from exporter.bundling.chat_format import ChatFormat, Undone, read_template, take_apart
from exporter.errors import ArtifactError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER = "tokenizer.json"


def text_model(artifact: Artifact) -> tuple[dict[str, Any], list[str]]:
    """The section `text` of bundle.json, and notes for a person.

    Raises ArtifactError for a model that the app's caches cannot hold or that has no tokenizer.json.
    """
    tokenizer = read_tokenizer(artifact)
    sizes = _sizes(artifact)
    _check_cache(artifact)
    bos = _first_token(artifact.files, tokenizer)
    chat, notes = _chat(artifact.files)
    stops = sizes.pop("stop_ids")
    if chat is not None:
        stops, found = _with_turn_end(stops, chat, tokenizer)
        notes += found
        notes += _prompts_differ(artifact, chat, tokenizer)
    plain = tokenizer.encode("a").ids
    return {
        "tokenizer": TOKENIZER,
        "context": int(artifact.target["max_context"]),
        "bos_id": bos,
        "add_bos": bos is not None and plain[:1] == [bos],
        "stop_ids": stops,
        **sizes,
        "chat": chat.to_json() if chat else None,
    }, notes


def read_tokenizer(artifact: Artifact) -> Tokenizer:
    """The tokenizer that the app will read. Raises ArtifactError where there is none."""
    path = artifact.files / TOKENIZER
    if not path.is_file():
        raise ArtifactError(
            f"{artifact.folder}: has no {TOKENIZER}, which the app's tokenizer reads; save the model's tokenizer with "
            "transformers (AutoTokenizer.from_pretrained(MODEL).save_pretrained(FOLDER)) and export again"
        )
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(path))


def _sizes(artifact: Artifact) -> dict[str, Any]:
    """vocab, layers, kv_heads, head_size, stop_ids: of genai_config.json, else of the manifest."""
    config = artifact.folder / "onnxruntime" / CONFIG
    if config.is_file():
        model = json.loads(config.read_text("utf-8"))["model"]
        eos, decoder = model["eos_token_id"], model["decoder"]
        return {
            "vocab": model["vocab_size"],
            "layers": decoder["num_hidden_layers"],
            "kv_heads": decoder["num_key_value_heads"],
            "head_size": decoder["head_size"],
            "stop_ids": list(eos) if isinstance(eos, list) else [eos],
        }
    facts = artifact.facts.get("text")
    if facts is None:
        raise ArtifactError(
            f"{artifact.folder}: its manifest does not say how many layers and heads the model has, an older qexport "
            "wrote it; export again with --force"
        )
    heads, widths = set(facts["kv_heads"]), set(facts["head_size"])
    if len(heads) != 1 or len(widths) != 1:
        raise ArtifactError(
            f"{artifact.folder}: its layers have caches of different shapes (heads {sorted(heads)}, sizes "
            f"{sorted(widths)}), the app knows one shape for all; this model cannot be bundled"
        )
    return {
        "vocab": facts["vocab"],
        "layers": len(facts["kv_heads"]),
        "kv_heads": heads.pop(),
        "head_size": widths.pop(),
        "stop_ids": list(facts["stop_ids"]),
    }


def _check_cache(artifact: Artifact) -> None:
    """ONNX Runtime's caches are the app's own buffers, and it makes float32 ones of one length."""
    if artifact.runtime != "onnxruntime":
        return
    kind = artifact.target["kv_cache"]
    if kind != "float32":
        raise ArtifactError(
            f"{artifact.folder}: has a KV cache of {kind}, the app's engine for onnxruntime keeps float32; export "
            "again with kv_cache: float32, or pass --runtime executorch"
        )
    if "sliding_window" in artifact.facts:
        kept = artifact.facts["sliding_window"]["tokens_kept"]
        raise ArtifactError(
            f"{artifact.folder}: some layers' KV cache holds {kept} tokens (a sliding window), the app's engine for "
            'onnxruntime makes all of one length; export again with min_runtime: "1.28", which keeps every token, or '
            "pass --runtime executorch"
        )


def _first_token(folder: Path, tokenizer: Tokenizer) -> int | None:
    """The id of tokenizer_config.json's bos_token."""
    path = folder / "tokenizer_config.json"
    token = json.loads(path.read_text("utf-8")).get("bos_token") if path.is_file() else None
    text = token["content"] if isinstance(token, dict) else token
    found: int | None = tokenizer.token_to_id(text) if text else None
    return found


def _chat(folder: Path) -> tuple[ChatFormat | None, list[str]]:
    try:
        template = read_template(folder)
        if template is None:
            return None, ["no chat template comes with the model: the app continues plain text"]
        return take_apart(template)
    except Undone as problem:
        return None, [f"the chat template is not used, the app continues plain text: {problem}"]


def _with_turn_end(stops: list[int], chat: ChatFormat, tokenizer: Tokenizer) -> tuple[list[int], list[str]]:
    """Add the special token that ends an assistant's turn: without it an answer would run on."""
    special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    ids = tokenizer.encode(chat.assistant[1], add_special_tokens=False).ids
    if not ids or ids[0] not in special or ids[0] in stops:
        return stops, []
    token = tokenizer.id_to_token(ids[0])
    return [*stops, ids[0]], [f"{token} ends an answer too: the chat template closes each with it"]


def _prompts_differ(artifact: Artifact, chat: ChatFormat, tokenizer: Tokenizer) -> list[str]:
    """Whether the pieces, tokenised, are the very tokens that were measured."""
    data = json.loads((artifact.folder / "golden" / "vectors.json").read_text("utf-8"))
    for entry in data["prompts"]:
        found: Sequence[int] = tokenizer.encode(
            chat.render((("user", entry["prompt"]),)), add_special_tokens=False
        ).ids
        if list(found) != entry["input_ids"]:
            return [
                f"the golden prompt {entry['prompt']!r} was measured with other tokens than the app's chat gives"
            ]
    return []
