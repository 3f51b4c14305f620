"""The evaluation, as verbs: open the artifact and its float model, run the suites, give the scorecard."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from exporter import __version__
from exporter.artifacts import changed_files, read_manifest
from exporter.backends import CPUS, get_backend
from exporter.errors import ArtifactError, PlanError
from exporter.evaluation.choices import measure_choices
from exporter.evaluation.code import measure_code
from exporter.evaluation.floats import FloatSide
from exporter.evaluation.long_context import measure_long_context
from exporter.evaluation.safety import measure_safety
from exporter.evaluation.scorecard import Figure, RuntimeScores, Scorecard
from exporter.evaluation.session import Progress, Session
from exporter.evaluation.settings import EvaluationSettings
from exporter.evaluation.speed import footprint, measure_speed
from exporter.evaluation.text import measure_text
from exporter.memory import VerifyRoom, release_to_system
from exporter.models.causal_lm import CausalLM
from exporter.models.loading import open_model
from exporter.numerics import QuantizedTensor
from exporter.plan import QuantPlan
from exporter.recipe import Recipe

Suite = Callable[[Session], dict[str, list[Figure]]]
SUITES: Mapping[str, Suite] = {
    "text": measure_text,
    "multiple-choice": measure_choices,
    "code": measure_code,
    "safety": measure_safety,
    "long-context": measure_long_context,
    "speed": measure_speed,
}
_VERSIONS = ("torch", "transformers", "onnxruntime", "executorch")


def measure(
    folder: Path,
    settings: EvaluationSettings | None = None,
    recipe: Recipe | None = None,
    source: str | None = None,
    progress: Progress = lambda what, share: None,
) -> Scorecard:
    """What the files of a language model's artifact keep of its float model, suite by suite.

    Without a recipe the model is the one that the manifest names; `source` names another place of the same weights.
    Float model and runtimes read the same token ids; equal settings draw equal examples. What the float model gave is
    kept in the cache folder for the next artifact of that model.

    Raises ArtifactError: no artifact, no language model, an NPU's, a runtime that it does not hold, or logits that
    cannot be compared; QexportError: data that is not fetched; SourceError: the model is not to be found.
    """
    settings = settings or EvaluationSettings()
    manifest = read_manifest(folder)
    plan = _language_plan(folder, manifest)
    _check_runtimes(folder, plan, settings)
    notes = [
        f"{path.name}: changed since the export; measured as it is now"
        for path in changed_files(folder, manifest)
    ]
    return measure_files(
        folder, plan, _model(folder, manifest, recipe, source), settings, progress, tuple(notes)
    )


def measure_files(
    folder: Path,
    plan: QuantPlan,
    model: CausalLM,
    settings: EvaluationSettings,
    progress: Progress,
    notes: tuple[str, ...] = (),
) -> Scorecard:
    """The same for a job that has plan and model at hand and has written the files, but no manifest yet: every
    suite but speed, which wants a finished folder."""
    _check_runtimes(folder, plan, settings)
    session = _opened(folder, plan, model, settings, progress)
    session.notes += notes
    found: dict[str, list[Figure]] = {name: [] for name in session.runners}
    for name in [name for name in SUITES if name in settings.suites]:
        started = time.perf_counter()
        for runtime, figures in SUITES[name](session).items():
            found[runtime] += figures
        session.seconds.setdefault(name, {})["whole suite"] = time.perf_counter() - started
        release_to_system()
    for runtime, figures in footprint(session).items():
        found[runtime] += figures
    if session.floats.reused:
        suites = ", ".join(dict.fromkeys(session.floats.reused))
        session.notes.append(f"the float model's results were there from a run before: {suites}")
    return Scorecard(
        artifact=folder.resolve().name,
        recipe=plan.recipe,
        model=session.floats.identity,
        runtimes=tuple(RuntimeScores.of(name, figures) for name, figures in found.items()),
        settings={
            **asdict(settings),
            "items": {s: settings.count(s) for s in settings.suites if s != "speed"},
        },
        seconds=session.seconds,
        notes=tuple(dict.fromkeys(session.notes)),
        versions=_versions(),
    )


def _opened(
    folder: Path, plan: QuantPlan, model: CausalLM, settings: EvaluationSettings, progress: Progress
) -> Session:
    """The artifact's runtimes and its float model, ready to be asked."""
    tokenizer = model.tokenizer()
    skeleton = model.skeleton({layer.name: layer.scheme for layer in plan.layers}, _no_integers)
    room = VerifyRoom.for_layers(plan.layers)
    progress("opening", 0.0)
    runners = {
        name: get_backend(name).open_text(folder / get_backend(name).folder)
        for name in (forecast.target.key for forecast in plan.forecasts)
        if not settings.runtimes or name in settings.runtimes
    }
    ends = skeleton.config.eos_token_id
    return Session(
        folder=folder,
        settings=settings,
        plan=plan,
        tokenizer=tokenizer,
        ends=frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends]),
        floats=FloatSide(model, skeleton, room),
        runners=runners,
        room=room,
        progress=progress,
    )


def _language_plan(folder: Path, manifest: Mapping[str, Any]) -> QuantPlan:
    try:
        plan = QuantPlan.from_json(manifest["summary"]["plan"])
    except (KeyError, PlanError) as problem:
        raise ArtifactError(
            f"{folder}: its manifest holds no plan of this qexport; export again"
        ) from problem
    if plan.task != "text-generation":
        raise ArtifactError(
            f"{folder}: holds a model for {plan.task}, and only language models are evaluated (task text-generation); "
            "`qexport verify` and parity.data of a recipe measure other tasks"
        )
    return plan


def _check_runtimes(folder: Path, plan: QuantPlan, settings: EvaluationSettings) -> None:
    """Refuse what the folder does not hold, and what takes minutes for a token."""
    held = [forecast.target.key for forecast in plan.forecasts]
    for name in settings.runtimes:
        if name not in held:
            raise ArtifactError(f"{folder}: holds no {name}, only {', '.join(held)}")
    npus = [
        name for name in held if name not in CPUS and (not settings.runtimes or name in settings.runtimes)
    ]
    if npus:
        raise ArtifactError(
            f"{folder}: is compiled for NPUs ({', '.join(npus)}), whose simulators take minutes for a token; evaluate "
            "an artifact of the same recipe for the CPU"
        )


def _model(folder: Path, manifest: Mapping[str, Any], recipe: Recipe | None, source: str | None) -> CausalLM:
    """The float model: where `source`, the recipe or the manifest says. Raises ArtifactError where its weights are not
    those that the artifact was made of."""
    place = recipe.path.parent if recipe else Path()
    chosen = source or (recipe.model.source if recipe else str(manifest["summary"]["model"]["source"]))
    model = open_model(chosen, "text-generation", place)
    assert isinstance(model, CausalLM)
    identities: tuple[Mapping[str, Any], ...] = (manifest["summary"]["model"], model.identity())
    # a file may have another name by now
    made_of, own = (sorted(identity["weights_sha256"].values()) for identity in identities)
    if own != made_of:
        raise ArtifactError(
            f"{folder}: was made of other weights than those of {chosen!r}; name its model with --model M"
        )
    return model


def _no_integers(name: str) -> QuantizedTensor:
    raise AssertionError(f"{name}: the float model has no integers")


def _versions() -> dict[str, str]:
    found = {"qexport": __version__}
    for name in _VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
