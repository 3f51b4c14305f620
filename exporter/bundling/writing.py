"""Artifacts -> folders of the app's assets: decide everything first, then write each folder whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from exporter.artifacts import describe_files, whole_folder, write_json
from exporter.bundling.app import App, open_app
from exporter.bundling.artifact import Artifact, open_artifact
from exporter.bundling.encoder import encoder_model
from exporter.bundling.golden import golden
from exporter.bundling.licence import licence_text
from exporter.bundling.speech import MODELS, heard_bytes, speech_golden, speech_model
from exporter.bundling.text import TOKENIZER, text_model
from exporter.errors import ArtifactError
from exporter.progress import Stages

BUNDLE, GOLDEN, LICENCE = "bundle.json", "golden.json", "LICENSE.txt"
_SCHEMA = 1
_MODEL = {"onnxruntime": "model.ort", "executorch": "model.pte"}
# Resident bytes once loaded, for each byte of the file. ONNX Runtime 1.29 and 1.32 with a mapped model.ort of
# SmolLM2-135M: 1.73 (the mapped file, and the weights packed again beside it). ExecuTorch: up to 1.13 over file and
# cache for models whose table is small, 1.75 for Gemma-3-270M (docs/benchmarks.md).
_LOADED_PER_BYTE = {"onnxruntime": 1.75, "executorch": 1.75}
_ORT_GROWS = 1.5  # bytes of model.ort for each of model.onnx: a tied table is written once for each reader


@dataclass(frozen=True)
class Bundled:
    """One folder that was written, or will be."""

    artifact: Artifact
    folder: Path
    data: dict[str, Any]  # bundle.json
    notes: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Of all files but bundle.json."""
        return sum(int(file["bytes"]) for file in self.data["files"])


def bundle(
    folders: Sequence[Path],
    app_folder: Path,
    stages: Stages,
    *,
    runtime: str | None = None,
    variants: bool = False,
    licence: Path | None = None,
    force: bool = False,
) -> list[Bundled]:
    """Put artifacts into the app's assets: all of them or, where an error is raised, none.

    Raises ArtifactError where an artifact is not whole, does not fit the app, or stands in another's place.
    """
    app = open_app(app_folder)
    with stages.stage("check"):
        artifacts = [open_artifact(folder, runtime) for folder in folders]
        _check_ids(artifacts)
        for artifact in artifacts:
            _check_fit(artifact, app)
        groups = _groups(artifacts) if variants else {}
        planned = [_planned(artifact, app, licence) for artifact in artifacts]
        for artifact in artifacts:
            _check_place(app.models / artifact.id, force)
        _check_others(app, artifacts, groups)
        _check_room(app, artifacts)
    with stages.stage("write") as progress, ExitStack() as drafts:
        written = []
        for number, (item, extra) in enumerate(planned):
            progress(item.artifact.id, number / len(planned))
            written.append((drafts.enter_context(whole_folder(item.folder)), _Draft(item, extra, app)))
        done = [draft.write(folder) for folder, draft in written]
        done = _ranked(done, groups)
        for (folder, _), item in zip(written, done, strict=True):
            write_json(folder / BUNDLE, item.data)
    return done


@dataclass(frozen=True)
class _Draft:
    """What goes into a folder beside the model."""

    item: Bundled
    # names of the other files; their contents, or where they lie in the artifact
    extra: dict[str, str | Path]
    app: App

    def write(self, folder: Path) -> Bundled:
        """Copy, convert and describe; the item with its files."""
        artifact, data = self.item.artifact, dict(self.item.data)
        models = MODELS if "speech" in data else {data["model"]: "model.onnx"}
        for name, source in models.items():
            self._write_model(folder, name, source)
        if artifact.runtime == "onnxruntime":
            from exporter.backends.ort.ort_format import operators

            data["operators"] = sorted({kind for name in models for kind in operators(folder / name)})
            # its writer fuses, so they are not those that the manifest names
            self.app.check_operators(artifact.folder, artifact.runtime, data["operators"])
        _copy(artifact, artifact.files / TOKENIZER, folder)
        for name, content in self.extra.items():
            if isinstance(content, Path):
                shutil.copyfile(content, folder / name)
            else:
                (folder / name).write_text(content, "utf-8", newline="\n")
        data["files"] = describe_files(folder)
        size = sum((folder / name).stat().st_size for name in models)
        data["memory"] = {
            "load_bytes": int(_LOADED_PER_BYTE[artifact.runtime] * size)
            + (heard_bytes(artifact, data["speech"]) if "speech" in data else 0),
            "kv_bytes_per_token": -(-artifact.plan["cache_bytes"] // artifact.target["max_context"]),
        }
        return replace(self.item, data=data)

    def _write_model(self, folder: Path, name: str, source: str) -> None:
        """The artifact's own file of that name; else, for ONNX Runtime, made of `source`."""
        artifact = self.item.artifact
        if (artifact.files / name).is_file() or artifact.runtime != "onnxruntime":
            _copy(artifact, artifact.files / name, folder)
        else:
            from exporter.backends.ort.ort_format import write_ort

            write_ort(artifact.files, folder / name, source)


def _copy(artifact: Artifact, source: Path, folder: Path) -> None:
    """Copy, and hold what arrived against the manifest: a disk may err, and a file change meanwhile."""
    from exporter.models.sources import file_sha256

    target = folder / source.name
    shutil.copyfile(source, target)
    if file_sha256(target) != artifact.sha256(source):
        raise ArtifactError(
            f"{source}: changed while it was copied, or the copy is damaged; check the disk and run this again"
        )


def _check_fit(artifact: Artifact, app: App) -> None:
    app.check_task(artifact.folder, artifact.task)
    app.check_runtime(
        artifact.folder, artifact.runtime, str(artifact.facts["min_runtime"]), str(artifact.target["abi"])
    )
    app.check_operators(artifact.folder, artifact.runtime, artifact.facts["operators"])


def _check_ids(artifacts: Sequence[Artifact]) -> None:
    seen: dict[str, Path] = {}
    for artifact in artifacts:
        if artifact.id in seen:
            raise ArtifactError(
                f"{artifact.folder}: would be called {artifact.id!r} in the app, as {seen[artifact.id]}; rename one "
                "of the two folders"
            )
        seen[artifact.id] = artifact.folder


def _check_place(place: Path, force: bool) -> None:
    if not place.exists():
        return
    if not (place / BUNDLE).is_file():
        raise ArtifactError(f"{place}: is in the way and no bundle of qexport; move it away")
    if not force:
        raise ArtifactError(f"{place}: is there already; pass --force to replace it")


def _check_others(app: App, artifacts: Sequence[Artifact], groups: dict[str, list[Artifact]]) -> None:
    """Ranks are given within one call: a variant that stays from an earlier one would have another's rank."""
    own = {artifact.id for artifact in artifacts}
    for path in sorted(app.models.glob(f"[!.]*/{BUNDLE}")):
        if path.parent.name in own:
            continue
        variant = json.loads(path.read_text("utf-8")).get("variant") or {}
        if variant.get("group") in groups:
            raise ArtifactError(
                f"{path.parent}: is a variant of {variant['group']} from an earlier call; name its artifact too, so "
                "that all are ranked together, or delete the folder"
            )


def _check_room(app: App, artifacts: Sequence[Artifact]) -> None:
    try:
        app.models.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise ArtifactError(
            f"{app.models}: cannot be made ({problem.strerror}); change its permissions or move what is in the way"
        ) from problem
    needed = sum(int(_ORT_GROWS * artifact.facts["model_bytes"]) for artifact in artifacts)
    free = shutil.disk_usage(app.models).free
    if free < needed:
        raise ArtifactError(
            f"{app.models}: {free / 1e6:,.0f} MB free, the bundles need about {needed / 1e6:,.0f} MB; free some room"
        )


def _groups(artifacts: Sequence[Artifact]) -> dict[str, list[Artifact]]:
    """Artifacts of one model, where there are at least two."""
    found: dict[str, list[Artifact]] = {}
    for artifact in artifacts:
        found.setdefault(artifact.group, []).append(artifact)
    groups = {name: members for name, members in found.items() if len(members) > 1}
    if not groups:
        given = ", ".join(f"{artifact.folder} ({artifact.group})" for artifact in artifacts)
        raise ArtifactError(
            f"--variants needs two or more artifacts of one model's weights; given: {given}. Name them together, or "
            "leave --variants out"
        )
    return groups


def _planned(artifact: Artifact, app: App, licence: Path | None) -> tuple[Bundled, dict[str, str | Path]]:
    """bundle.json but for files and sizes; golden.json, LICENSE.txt and what else comes with them."""
    text = licence_text(artifact.folder, artifact.source, licence)
    data: dict[str, Any] = {
        "schema": _SCHEMA,
        "id": artifact.id,
        "title": f"{artifact.model}, {artifact.summary['recipe']['name']}",
        "task": artifact.task,
        "runtime": artifact.runtime,
        "min_runtime": str(artifact.facts["min_runtime"]),
        "operators": list(artifact.facts["operators"]),
        "abis": [artifact.target["abi"]],
        "model": _MODEL[artifact.runtime],
        "license": LICENCE,
        "golden": GOLDEN,
    }
    notes: list[str] = []
    extra: dict[str, str | Path] = {LICENCE: text}
    if artifact.task == "automatic-speech-recognition":
        data["speech"] = speech_model(artifact)
        data["model"] = data["speech"]["decoder"]
        values, clips = speech_golden(artifact, data["speech"])
        extra |= clips
    else:
        if artifact.task == "text-generation":
            data["text"], notes = text_model(artifact)
        else:
            data["encoder"] = encoder_model(artifact)
        values = golden(artifact)
    extra[GOLDEN] = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return Bundled(artifact, app.models / artifact.id, data, tuple(notes)), extra


def _ranked(items: Sequence[Bundled], groups: dict[str, list[Artifact]]) -> list[Bundled]:
    """With each variant's place by size in its group, 0 the smallest."""
    ranked = []
    for item in items:
        group = item.artifact.group
        if group in groups:
            others = sorted(
                (other.bytes, other.artifact.id) for other in items if other.artifact.group == group
            )
            rank = others.index((item.bytes, item.artifact.id))
            item = replace(item, data={**item.data, "variant": {"group": group, "rank": rank}})
        ranked.append(item)
    return ranked
