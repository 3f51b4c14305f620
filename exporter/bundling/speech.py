"""What an app must know of a speech model to run it, and clips with what the model wrote for them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.backends.ort.genai import CONFIG
from exporter.bundling.artifact import Artifact
from exporter.bundling.encoder import check_runtime
from exporter.bundling.golden import COLUMN, golden_file, of_logits
from exporter.bundling.text import TOKENIZER, read_tokenizer
from exporter.errors import ArtifactError
from exporter.samples.audio import read_wav

MODELS = {"encoder.ort": "encoder.onnx", "decoder.ort": "decoder.onnx"}  # of the bundle, of the artifact
_EXTRACTOR = (
    "WhisperFeatureExtractor"  # whose mel filters the app computes: 0 to 8000 Hz, Slaney's scale and norm
)
_HIGHEST_HZ = 8000.0
_CLIPS = 3  # that travel with a bundle, the shortest ones
_TOP = 8  # logits of a transcript's first token


def speech_model(artifact: Artifact) -> dict[str, Any]:
    """The section `speech` of bundle.json. Raises ArtifactError for a model that the app cannot run."""
    check_runtime(artifact)
    read_tokenizer(artifact)
    pipeline = artifact.summary["pipeline"]
    decoding = pipeline.get("decoding")
    if decoding is None:
        raise ArtifactError(
            f"{artifact.folder}: its manifest does not say how a transcript begins, an older qexport wrote it; export "
            "again with --force"
        )
    steps, kind = pipeline["steps"], pipeline.get("config", {}).get("feature_extractor_type")
    if kind != _EXTRACTOR or steps["undescribed"]:
        raise ArtifactError(
            f"{artifact.folder}: its sound is prepared by {kind} ({steps['undescribed'] or 'other mel filters'}), the "
            f"app does what {_EXTRACTOR} does; this model cannot be bundled"
        )
    model = json.loads((artifact.files / CONFIG).read_text("utf-8"))["model"]
    decoder = model["decoder"]
    return {
        "tokenizer": TOKENIZER,
        "encoder": "encoder.ort",
        "decoder": "decoder.ort",
        "mel": {
            "input": steps["name"],
            "sampling_rate": steps["sampling_rate"],
            "samples": round(steps["sampling_rate"] * steps["seconds"]),
            "n_fft": steps["n_fft"],
            "hop": steps["hop"],
            "bins": steps["n_mels"],
            "highest_hz": _HIGHEST_HZ,
            "floor": steps["floor"],
            "range": steps["range"],
        },
        "prompt": decoding["prompt"],
        "never": decoding["never"],
        "never_first": decoding["never_first"],
        "stop_ids": decoding["ends"],
        "context": int(artifact.target["max_context"]),
        "vocab": model["vocab_size"],
        "layers": decoder["num_hidden_layers"],
        "heads": decoder["num_attention_heads"],
        "head_size": decoder["head_size"],
    }


def heard_bytes(artifact: Artifact, speech: dict[str, Any]) -> int:
    """Keys and values of the sound, float32, and what one layer of the encoder takes, which sees all of it: its scores
    twice. ONNX Runtime 1.32 with Whisper tiny, whose file is mapped already: 135 MB, by this 126."""
    ports = artifact.facts["programs"]["decoder"]["inputs"]
    positions = int(next(shape[2] for name, _, shape in ports if name == "past_key_cross_0"))
    layers, heads, head_size = (int(speech[key]) for key in ("layers", "heads", "head_size"))
    return 4 * (2 * layers * heads * head_size * positions + 2 * heads * positions**2)


def speech_golden(artifact: Artifact, speech: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Path]]:
    """golden.json's content, and the clips: name in the bundle -> file. Raises ArtifactError where there are none.

    The runtime's tokens are the artifact's; their logits are measured here, as shipped and with float activations.
    """
    clips = _clips(artifact, speech)
    shipped = _rows(artifact, clips, speech, "as-shipped")
    exact = _rows(artifact, clips, speech, "float")
    examples, moved = [], 0.0
    for number, ((clip, _), ours, theirs) in enumerate(zip(clips, shipped, exact, strict=True)):
        first = np.argsort(-ours[0], kind="stable")[:_TOP]
        best = np.argsort(-ours, axis=1, kind="stable")[:, :_TOP]
        difference = np.take_along_axis(ours, best, axis=1) - np.take_along_axis(theirs, best, axis=1)
        moved = max(moved, float(np.abs(difference).max()))
        tokens = list(clip["tokens"][artifact.runtime])
        if int(ours[-1].argmax()) in speech["stop_ids"]:
            tokens.append(int(ours[-1].argmax()))
        values = {
            "greedy": tokens,
            "top_ids": first.tolist(),
            "top_logits": [round(float(ours[0][i]), 4) for i in first],
        }
        examples.append({"text": clip["name"], "file": f"clip{number}.wav", "values": {COLUMN: values}})
    golden = golden_file({"tolerance": of_logits(moved, "float activations"), "clips": examples})
    return golden, {f"clip{number}.wav": path for number, (_, path) in enumerate(clips)}


def _clips(artifact: Artifact, speech: dict[str, Any]) -> list[tuple[dict[str, Any], Path]]:
    folder = artifact.folder / "golden"
    data = json.loads((folder / "vectors.json").read_text("utf-8"))
    rate = speech["mel"]["sampling_rate"]
    known = [(example, folder / example["raw"]) for example in data["examples"] if "raw" in example]
    clips = [
        (example, path)
        for example, path in sorted(known, key=lambda each: (each[1].stat().st_size, each[1].name))
        if round(read_wav(path).seconds * rate) <= speech["mel"]["samples"]
    ]
    if not clips:
        raise ArtifactError(
            f"{artifact.folder}: has no golden clip that the app could hear again; name a folder of WAV files as "
            "parity.data.audio in the recipe and export again"
        )
    return clips[:_CLIPS]


def _rows(
    artifact: Artifact, clips: Sequence[tuple[dict[str, Any], Path]], speech: dict[str, Any], mode: Any
) -> list[NDArray[np.float32]]:
    """For each clip (tokens + 1, vocabulary): what each token and the end are chosen from, forbidden ones -inf."""
    from exporter.backends.ort.seq2seq_running import open_seq2seq

    runner, prompt, found = open_seq2seq(artifact.files, mode), speech["prompt"], []
    for clip, path in clips:
        tensors = {name: np.load(path.with_name(file)) for name, file in clip["tensors"].items()}
        runner.encode(tensors)
        rows = runner.forward([*prompt, *clip["tokens"][artifact.runtime]])[len(prompt) - 1 :].copy()
        rows[:, speech["never"]] = -np.inf
        rows[0, speech["never_first"]] = -np.inf
        found.append(rows)
    return found
