"""One golden example in a runtime, by the kind of model: asked as the app asks, and judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.bundling.artifact import Artifact
from exporter.errors import ArtifactError
from exporter.replay.judging import Judged, judge_answer, judge_logits, judge_prompt, judge_vector
from exporter.replay.protocol import Remote
from exporter.replay.runners import (
    Allowed,
    Answering,
    EtAnswering,
    EtProgram,
    EtText,
    OrtAnswering,
    OrtProgram,
    OrtText,
    Program,
    Row,
    Text,
)
from exporter.tasks import SPECS

Example = Mapping[str, Any]  # of golden/vectors.json


def replayer(
    artifact: Artifact, data: Mapping[str, Any], remote: Remote, tolerance: Mapping[str, Any], steps: int
) -> Callable[[Example], Judged]:
    """What replays one example of golden/vectors.json, whose whole content is `data`; `steps`: tokens of an answer.

    Values of what it judged have the processor's own answer, which costs another run where that is not golden's.
    """
    family = SPECS[artifact.task].family
    if family == "causal":
        return _text(artifact, remote, tolerance["logits"], steps)
    if family == "encoder-decoder":
        return _answer(artifact, data["prompt"], remote, tolerance["logits"], steps)
    return _program(artifact, remote, tolerance)


def _text(artifact: Artifact, remote: Remote, limit: float, steps: int) -> Callable[[Example], Judged]:
    model: Text
    model = EtText(remote) if _is_et(artifact) else OrtText(remote, "model", artifact.files)

    def judge(example: Example) -> Judged:
        golden, prompt = example["models"][artifact.runtime], example["input_ids"]
        rows = forced(model, prompt, golden["greedy"][:steps])
        found = judge_prompt(golden, limit, rows)
        return with_own(found, "greedy", model, prompt, len(rows))

    return judge


def _answer(
    artifact: Artifact, prompt: Sequence[int], remote: Remote, limit: float, steps: int
) -> Callable[[Example], Judged]:
    decoding = artifact.summary["pipeline"].get("decoding")
    if decoding is None:
        raise ArtifactError(
            f"{artifact.folder}: its manifest does not say which tokens are never chosen, an older qexport wrote it; "
            "export again with --force"
        )
    programs = artifact.facts["programs"]
    model: Answering
    model = EtAnswering(remote, programs) if _is_et(artifact) else OrtAnswering(remote, programs)
    allowed = Allowed(model, prompt, decoding["never"], decoding["never_first"])

    def judge(example: Example) -> Judged:
        golden = example["tokens"][artifact.runtime]
        model.listen(_inputs(artifact, example))
        rows = forced(allowed, prompt, golden[:steps])
        return with_own(judge_answer(golden, limit, rows), "tokens", allowed, prompt, len(rows))

    return judge


def _program(artifact: Artifact, remote: Remote, tolerance: Mapping[str, Any]) -> Callable[[Example], Judged]:
    ((name, signature),) = artifact.facts["programs"].items()
    model: Program
    if _is_et(artifact):
        model = EtProgram(remote, name if name in artifact.facts["methods"] else "forward", signature)
    else:
        model = OrtProgram(remote, name, signature)

    def judge(example: Example) -> Judged:
        golden = example["outputs"][artifact.runtime]
        found = np.asarray(model.run(_inputs(artifact, example))[0], np.float32)
        if "vector" in golden:
            return judge_vector(golden, tolerance["cosine"], found.reshape(-1))
        if golden["rows"] is not None and found.ndim > 1:
            found = found[golden["rows"]]
        return judge_logits(golden, tolerance["logits"], found.reshape(-1, found.shape[-1]))

    return judge


def forced(model: Text, prompt: Sequence[int], golden: Sequence[int]) -> list[Row]:
    """What each golden token is chosen from, those before it being given: so that one near tie does not change all
    that comes behind it."""
    model.reset()
    rows = [model.feed(prompt)]
    return rows + [model.feed([token]) for token in golden[:-1]]


def with_own(found: Judged, key: str, model: Text, prompt: Sequence[int], steps: int) -> Judged:
    """The answer from the first token on that is not golden's, behind which golden's own were given: asked again."""
    own = list(found.values[key])
    row = forced(model, prompt, [*own, 0])[-1] if len(own) < steps else None
    while row is not None:
        own.append(int(np.argmax(row)))
        row = model.feed(own[-1:]) if len(own) < steps else None
    return replace(found, values={**found.values, key: own})


def _inputs(artifact: Artifact, example: Example) -> dict[str, NDArray[Any]]:
    """As golden has them, in the file itself or in arrays beside it."""
    if example.get("inputs"):
        return {name: np.asarray(value) for name, value in example["inputs"].items()}
    place = artifact.folder / "golden"
    return {name: np.load(place / file) for name, file in example["tensors"].items()}


def _is_et(artifact: Artifact) -> bool:
    return artifact.runtime == "executorch"
