"""golden.json: inputs and what the runtime gave for them on this host, for the app to replay.

How far a phone may lie from that. Rounding activations to int8 moved this host's outputs away from those with float
activations by at most d. Other kernels round by other steps and move theirs in a direction of their own, and not
always as far: int4 products of ONNX Runtime have a relative error of 7.2e-3 on ARM and 5.0e-3 here (one layer's
product against float64, K 512, N 1024, blocks of 32). The two then lie within (1 + 1.44) d. An older runtime on the
same host is such a case, too: ONNX Runtime 1.29 lies up to 2.14 d from 1.32 for SmolLM2-135M.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from exporter.bundling.artifact import Artifact
from exporter.errors import ArtifactError

COLUMN = "x86_64"
_EXACT = "dequantised"  # PyTorch, the same integers, float activations
_FLOAT = "the float model"
_LEAST = (
    0.01  # of a logit: kernels with float activations sum in other orders, and golden logits have 4 digits
)
_APART = 1 + 7.2e-3 / 5.0e-3  # in units of d, see above
_WHY = (
    "{what} moved by up to {moved} on this host, from {origin}; other kernels round activations by other steps and "
    "move theirs in a direction of their own, ARM's up to 1.44 times as far, so the two may lie 2.44 times that apart"
)


def golden(artifact: Artifact) -> dict[str, Any]:
    """golden.json's content. Raises ArtifactError where the artifact has no golden vectors of the runtime."""
    path = artifact.folder / "golden" / "vectors.json"
    try:
        data = json.loads(path.read_text("utf-8"))
        found = _prompts(artifact, data) if "prompts" in data else _examples(artifact, data)
    except (OSError, ValueError, KeyError) as problem:
        raise ArtifactError(
            f"{path}: no golden vectors of {artifact.runtime} can be read ({type(problem).__name__}: {problem}); "
            "export again with --force"
        ) from problem
    return golden_file(found)


def golden_file(found: dict[str, Any]) -> dict[str, Any]:
    """With what every golden.json begins with."""
    return {"schema": 1, "columns": [COLUMN], **found}


def _prompts(artifact: Artifact, data: Mapping[str, Any]) -> dict[str, Any]:
    prompts, moved = [], 0.0
    for entry in data["prompts"]:
        ours, exact = entry["models"][artifact.runtime], entry["models"].get(_EXACT)
        values = {key: ours[key] for key in ("greedy", "top_ids", "top_logits")}
        prompts.append({"text": entry["prompt"], "input_ids": entry["input_ids"], "values": {COLUMN: values}})
        if exact:
            there = dict(zip(exact["top_ids"], exact["top_logits"], strict=True))
            both = zip(ours["top_ids"], ours["top_logits"], strict=True)
            moved = max([moved, *(abs(logit - there[number]) for number, logit in both if number in there)])
    return {"tolerance": of_logits(moved, "float activations"), "prompts": prompts}


def of_logits(moved: float, origin: str) -> dict[str, Any]:
    """How far a logit may lie from its golden value, and why."""
    limit = max(_LEAST, math.ceil(100 * _APART * moved) / 100)
    return {
        "logits": limit,
        "why": _WHY.format(what="the largest logits", moved=f"{moved:.4f}", origin=origin),
    }


def _examples(artifact: Artifact, data: Mapping[str, Any]) -> dict[str, Any]:
    """An encoder's: a vector, or the largest logits, of each text."""
    examples = [
        {
            "text": entry["text"],
            "input_ids": entry["inputs"]["input_ids"][0],
            "values": {COLUMN: _values(entry["outputs"][artifact.runtime])},
        }
        for entry in data["examples"]
    ]
    return {"tolerance": _of_examples(artifact), "examples": examples}


def _values(found: Mapping[str, Any]) -> dict[str, Any]:
    if "vector" in found:
        return {"vector": [round(value, 7) for value in found["vector"]]}
    return {"top_ids": found["classes"][0], "top_logits": [round(value, 6) for value in found["logits"][0]]}


def _of_examples(artifact: Artifact) -> dict[str, Any]:
    """From the ladder: how far the shipped file lies from the float model, quantised weights included."""
    rungs = artifact.summary["parity"]["rungs"]
    result = next(
        rung["result"]
        for rung in rungs
        if rung["kind"] == "shipped" and rung["candidate"] == artifact.runtime
    )
    if result.get("cosine_min") is None:
        return of_logits(float(result["max_abs"]), _FLOAT)
    angle = math.acos(min(1.0, result["cosine_min"]))
    limit = math.floor(1e4 * math.cos(min(math.pi / 2, _APART * angle))) / 1e4
    return {
        "cosine": limit,
        "why": _WHY.format(what="vectors", moved=f"{math.degrees(angle):.2f}°", origin=_FLOAT),
    }
