"""What an app must know of an encoder of texts to run it: lengths, labels, what is put before a text."""

from __future__ import annotations

import json
from typing import Any

from exporter.bundling.artifact import Artifact
from exporter.bundling.text import TOKENIZER, read_tokenizer
from exporter.errors import ArtifactError


def encoder_model(artifact: Artifact) -> dict[str, Any]:
    """The section `encoder` of bundle.json. Raises ArtifactError for a model that the app cannot run."""
    check_runtime(artifact)
    tokenizer = read_tokenizer(artifact)
    pipeline = artifact.summary["pipeline"]
    sentence = pipeline["sentence"] or {}
    output = _output(artifact, sentence)
    width = _width(artifact, output)
    vocab = _vocabulary(artifact)
    if tokenizer.get_vocab_size() > vocab:
        raise ArtifactError(
            f"{artifact.folder}: {TOKENIZER} has {tokenizer.get_vocab_size():,} tokens, the model {vocab:,}; put the "
            "model's own tokenizer beside its weights and export again"
        )
    limits = [pipeline["steps"]["max_length"], artifact.target["max_context"]]
    _check_truncation(artifact)
    prompts = sentence.get("prompts", {})
    prefix = prompts.get(sentence.get("default_prompt") or "", "")
    return {
        "tokenizer": TOKENIZER,
        "max_tokens": min(int(limit) for limit in limits if limit is not None),
        "vocab": vocab,
        "width": width,
        "output": output,
        "normalised": any(stage["kind"] == "normalize" for stage in sentence.get("stages", [])[-1:]),
        "labels": _labels(artifact, width),
        "prefix": prefix,
        "query_prefix": prompts.get("query", prefix),
        "document_prefix": prompts.get("document", prompts.get("passage", prefix)),
    }


def check_runtime(artifact: Artifact) -> None:
    """The app's engine for ExecuTorch has no encoders."""
    if artifact.runtime != "onnxruntime":
        raise ArtifactError(
            f"{artifact.folder}: does {artifact.task}, the app's engine for {artifact.runtime} runs language models "
            "only; pass --runtime onnxruntime"
        )


def _output(artifact: Artifact, sentence: dict[str, Any]) -> str:
    if artifact.task == "text-classification":
        return "logits"
    if not sentence:
        raise ArtifactError(
            f"{artifact.folder}: gives a vector for each token, and nothing says which one stands for a text; export a "
            "model of sentence-transformers (with modules.json), whose pooling becomes part of the graph"
        )
    return str(sentence["output"])


def _width(artifact: Artifact, output: str) -> int:
    ports = artifact.facts["programs"]["model"]["outputs"]
    return int(next(shape[-1] for name, _, shape in ports if name == output))


def _vocabulary(artifact: Artifact) -> int:
    """Rows of the largest table; those of positions and kinds are smaller."""
    layers = artifact.summary["plan"]["layers"]
    return max(int(layer["shape"][0]) for layer in layers if layer["kind"] == "embedding")


def _check_truncation(artifact: Artifact) -> None:
    path = artifact.files / "tokenizer_config.json"
    side = json.loads(path.read_text("utf-8")).get("truncation_side", "right") if path.is_file() else "right"
    if side != "right":
        raise ArtifactError(
            f"{path}: cuts long texts at their beginning (truncation_side: {side}), the app at their end; this model "
            "cannot be bundled"
        )


def _labels(artifact: Artifact, width: int) -> list[str]:
    """Names in the order of the logits; none for vectors."""
    if artifact.task != "text-classification":
        return []
    if width < 2:
        raise ArtifactError(
            f"{artifact.folder}: gives one number, a score and no label; the app shows how likely each of several "
            "labels is, so this model cannot be bundled"
        )
    names = artifact.summary["pipeline"]["id2label"] or {}
    found = [names.get(str(number)) for number in range(width)]
    if None in found or len(set(found)) != width:
        raise ArtifactError(
            f"{artifact.folder}: has {width} logits and the labels {', '.join(names.values()) or 'none'}; name each "
            "once in id2label of the model's config.json and export again"
        )
    return [str(name) for name in found]
