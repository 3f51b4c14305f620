"""The job, as verbs: plan, quantise, lower, verify, report. Every stage reads what the one before wrote."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter import __version__
from exporter.artifacts import (
    MANIFEST,
    changed_files,
    check_target,
    describe_files,
    read_manifest,
    whole_folder,
    write_json,
    write_manifest,
)
from exporter.backends import get_backend
from exporter.backends.npu import BACKENDS
from exporter.calibration import coverage_of
from exporter.errors import ArtifactError, EnvelopeMissed, GateFailed, LoweringError, RecipeError, TraceError
from exporter.folders import cache_folder
from exporter.jobs import job_hash, versions
from exporter.making import Made, make_integers, takes_long
from exporter.memory import Room, held_memory, release_to_system, room_for, spoken
from exporter.models.causal_lm import CausalLM, CausalLMSkeleton
from exporter.models.encoder_decoder import EncoderDecoderSkeleton
from exporter.models.loading import Model, for_targets, open_model
from exporter.models.pretrained import Pretrained, PretrainedSkeleton
from exporter.models.python_module import ModuleSkeleton, PythonModule
from exporter.numerics import QuantizedTensor
from exporter.parity import ParityReport
from exporter.plan import QuantPlan
from exporter.planning import make_plan
from exporter.progress import Stages
from exporter.ranges import RANGES_FILE, border_notes, read_ranges, static_layers
from exporter.recipe import Recipe, parse_recipe
from exporter.report import write_report
from exporter.samples.drawing import draw
from exporter.samples.processing import picture_processor
from exporter.samples.shipping import raw_input, ship
from exporter.samples.text import read_text
from exporter.schemes import QuantScheme
from exporter.static.params import StaticPlan
from exporter.tasks import SPECS
from exporter.workplace import Workplace, sweep, workplace

if TYPE_CHECKING:
    from exporter.verify import Verified


@dataclass(frozen=True)
class Result:
    """What the job made."""

    folder: Path
    data: dict[str, Any]  # what the report and the summary show
    reused: bool


def plan_recipe(recipe: Recipe) -> tuple[Model, QuantPlan]:
    """The model, not loaded, and what will become of each layer."""
    chosen = recipe.model
    model = for_targets(
        open_model(chosen.source, chosen.task, recipe.path.parent, chosen.preprocessing), recipe.targets
    )
    backends = {target.key: get_backend(target.key) for target in recipe.targets}
    plan = make_plan(recipe, model.layers(), backends)
    schemes = {layer.name: layer.scheme for layer in plan.layers}
    borders = border_notes(model, schemes, recipe.targets[0].dialect)
    return model, replace(plan, notes=plan.notes + borders)


Judge = Callable[[Path, dict[str, Any], Model, QuantPlan], Mapping[str, Any]]


def run(
    recipe: Recipe,
    out: Path,
    force: bool,
    stages: Stages,
    max_memory: int | None = None,
    resume: bool = False,
    place: Workplace | None = None,
    judge: Judge | None = None,
) -> Result:
    """Export a recipe to `out`, whole or not at all.

    `max_memory`: bytes that this process may take, None for what the machine has free. `resume`: go on from what a
    killed run of the same job left; `place`: the work folder where a caller has it open. `judge` looks at the draft
    folder before it becomes `out`, and its verdict, plain data with `passed`, stands in the report.

    Raises MemoryProblem where memory is too little, before any work where the forecast says so; GateFailed when parity
    is missed, EnvelopeMissed when the judge refuses: the files are then kept beside, in `OUT.failed`.
    """
    with stages.stage("plan"):
        model, plan = plan_recipe(recipe)
        recipe = replace(recipe, targets=plan.targets)
        job = job_hash(recipe, plan, model)
        if _holds(out, job):
            changed = changed_files(out, read_manifest(out))
            if not changed:
                sweep(out)
                return Result(out, read_manifest(out)["summary"], reused=True)
            for path in changed:
                stages.say(f"{path}: missing, or not as it was written")
        check_target(out, _disk_needed(plan), force)
        _check_failed_place(failed_place(out))
        room = room_for(plan, max_memory)
    stages.say(f"memory needed, forecast: {spoken(room.forecast)}")
    with ExitStack() as held:
        work = None
        if takes_long(recipe, plan):
            place = place or held.enter_context(workplace(out, resume, stages.say))
            work = place.job(job)
        elif resume and place is None:
            stages.say("--resume: nothing of this job takes long enough to be kept; it begins anew")
        draft = held.enter_context(whole_folder(out))
        held.enter_context(held_memory(max_memory))
        facts = {"job": job, "qexport": __version__}
        data = _export(recipe, model, plan, room, work, draft, stages)
        if judge is not None:
            write_manifest(draft, {**facts, "summary": data})  # a judge may open the folder as anyone would
            data["envelope"] = judge(draft, data, model, plan)
            (draft / MANIFEST).unlink()
        with stages.stage("report"):
            write_report(draft / "report.html", data)
        write_manifest(draft, {**facts, "summary": data})
        _refuse(data, draft, failed_place(out))
    return Result(out, data, reused=False)


def _refuse(data: Mapping[str, Any], draft: Path, failed: Path) -> None:
    """Raise where a gate or the envelope is missed, with the files put aside."""
    missed = data.get("envelope", {"passed": True})
    if not data["parity"]["passed"]:
        _keep_failed(draft, failed)
        raise GateFailed(_verdict(data["parity"], failed))
    if not missed["passed"]:
        _keep_failed(draft, failed)
        raise EnvelopeMissed(missed)


def verify_artifact(folder: Path, recipe: Recipe | None, source: str | None, stages: Stages) -> ParityReport:
    """The ladder again over a folder that run() wrote, with the integers that its files hold.

    Without a recipe, the manifest's own is taken; its relative paths then count from the working folder.
    Raises GateFailed when the runtimes' files hold different integers.
    """
    from exporter.verify import verify_model
    from exporter.verify.integers import integers_of

    manifest = read_manifest(folder)
    recipe = recipe or _own_recipe(folder, manifest)
    if source:
        recipe = replace(recipe, model=replace(recipe.model, source=source))
    with stages.stage("read back"):
        for path in changed_files(folder, manifest):
            stages.say(f"{path}: changed since the export; verified as it is now")
        model, plan = plan_recipe(recipe)
        recipe = replace(recipe, targets=plan.targets)
        schemes = {layer.name: layer.scheme for layer in plan.layers}
        ranges = read_ranges(folder) if static_layers(schemes) else None
        skeleton = _skeleton(model, schemes, integers_of(folder, recipe.targets, schemes), recipe, ranges)
    with stages.stage("verify") as progress:
        return verify_model(model, skeleton, folder, recipe, progress).parity


def _own_recipe(folder: Path, manifest: Mapping[str, Any]) -> Recipe:
    try:
        return parse_recipe(manifest["summary"]["recipe"]["text"].encode(), Path("recipe.yaml"))
    except RecipeError as problem:  # most likely a text file that lies elsewhere
        raise ArtifactError(
            f"{folder}: its own recipe cannot be followed from this folder; pass it with --recipe R\n{problem}"
        ) from None


@contextmanager
def _made(
    recipe: Recipe, model: Model, plan: QuantPlan, room: Room, work: Path | None, draft: Path, stages: Stages
) -> Iterator[Made]:
    """Integers that are there inside; in `work`, or in the draft where nothing is worth going on from."""
    _check_inputs(model)
    if work is not None:
        yield make_integers(recipe, model, plan, room, work, stages)
        return
    with tempfile.TemporaryDirectory(prefix=".integers-", dir=draft) as folder:
        yield make_integers(recipe, model, plan, room, Path(folder), stages)


def _export(
    recipe: Recipe,
    model: Model,
    plan: QuantPlan,
    room: Room,
    work: Path | None,
    draft: Path,
    stages: Stages,
) -> dict[str, Any]:
    """Quantise, lower and verify into the draft folder; what there is to say of it."""
    from exporter.verify import verify_model  # imports torch, which a plan must not wait for
    from exporter.verify.integers import write_integers

    schemes = {layer.name: layer.scheme for layer in plan.layers}
    write_json(draft / "plan.json", plan.to_json())
    with _made(recipe, model, plan, room, work, draft, stages) as made:
        integers, ranges = made.integers, made.ranges
        if ranges is not None:
            write_json(draft / RANGES_FILE, ranges.plan.to_json())
        warnings = ranges.notes if ranges else ()
        coverage = coverage_of(recipe, model, warnings)
        for note in (*coverage.notes, *coverage.warnings) if coverage else warnings:
            stages.say(note)
        if recipe.targets[0].on_npu:
            write_integers(draft, schemes, integers)
        skeleton = _skeleton(model, schemes, integers, recipe, ranges.plan if ranges else None)
        facts, pipeline = _lower(recipe, model, plan, skeleton, integers, draft, stages)
        with stages.stage("verify") as progress:
            verified = verify_model(model, skeleton, draft, recipe, progress, room.verify)
    _write_golden(draft / "golden", verified)
    data = _report_data(recipe, model, plan, verified, facts, draft)
    if pipeline is not None:
        data["pipeline"] = pipeline
    if made.methods:
        data["methods"] = made.methods
    if made.training:
        data["training"] = made.training
    if coverage is not None:
        data["coverage"] = coverage.to_json()
    return data


def _lower(
    recipe: Recipe,
    model: Model,
    plan: QuantPlan,
    skeleton: Any,
    integers: Callable[[str], QuantizedTensor],
    draft: Path,
    stages: Stages,
) -> tuple[dict[str, Mapping[str, object]], dict[str, Any] | None]:
    """Every target's files; facts by backend, and what leads from a person's text or picture to the model and back.

    Raises LoweringError where a file does not hold the plan's integers, or is not as large as they are packed.
    """
    from exporter.verify.integers import Comparison

    facts: dict[str, Mapping[str, object]] = {}
    pipeline: dict[str, Any] | None = None
    comparison = Comparison({layer.name: layer.scheme for layer in plan.layers}, integers, skeleton)
    for forecast in plan.forecasts:
        backend = get_backend(forecast.target.key)
        with stages.stage(f"lower to {backend.name}") as progress:
            folder = draft / backend.folder
            folder.mkdir()
            with _source_named(recipe.model.source, backend.name):
                facts[backend.name] = backend.lower(skeleton, forecast.target, folder, progress)
            pipeline = _ship_inputs(model, recipe, folder)
            release_to_system()  # reading back takes as much again
            progress("reading back", 1.0)
            hidden = getattr(backend, "unreadable", None)
            if hidden:
                stages.say(f"{backend.name}: integers are not read back: {hidden}")
            problem = None if hidden else comparison.difference(backend.read_back(folder))
            if problem is None and forecast.target.on_npu:
                problem = BACKENDS[backend.name].size_problem(forecast.total_bytes, facts[backend.name])
            release_to_system()
            if problem:
                raise LoweringError(f"{backend.name}: the file is not what the plan says. {problem}")
    return facts, pipeline


def _write_golden(folder: Path, verified: Verified) -> None:
    """vectors.json, and for each example what a person gave and the tensors that were made of it."""
    import numpy as np

    folder.mkdir()
    examples = verified.golden.get("examples", [])
    for number, (example, given) in enumerate(zip(examples, verified.inputs, strict=False)):
        if given.sample is not None:
            example["raw"] = raw_input(given.sample, folder, str(number)).name
        example["tensors"] = {name: f"{number}.{name}.npy" for name in given.tensors}
        for name, array in given.tensors.items():
            np.save(folder / f"{number}.{name}.npy", array)
    write_json(folder / "vectors.json", verified.golden)


def _check_inputs(model: Model) -> None:
    """Raise now what would stop the ladder after minutes: a folder without a tokenizer or an image processor."""
    if isinstance(model, CausalLM):
        model.tokenizer()
    elif not isinstance(model, PythonModule):
        _ = model.processor


def _ship_inputs(model: Model, recipe: Recipe, folder: Path) -> dict[str, Any] | None:
    """What makes a model's inputs and reads its outputs, beside its files; the description for the manifest."""
    if isinstance(model, CausalLM):
        return None
    if isinstance(model, PythonModule) and model.inner is not None:
        return _ship_inputs(model.inner, recipe, folder)
    if isinstance(model, PythonModule):
        stated = recipe.model.preprocessing
        return {"task": model.task, **ship(picture_processor(None, stated), folder)} if stated else None
    from exporter.verify.decoding import rules_for

    shipped = {"task": model.task, **ship(model.processor, folder)}
    if not isinstance(model, Pretrained):
        return {**shipped, "decoding": rules_for(model.generation, None).describe()}
    labels = {str(number): name for number, name in sorted(model.labels.items())}
    return {
        **shipped,
        "padding": "right; attention_mask 0 there" if SPECS[model.task].medium == "text" else None,
        "id2label": labels or None,
        "sentence": model.sentence.describe() if model.sentence else None,
    }


def _skeleton(
    model: Model,
    schemes: Mapping[str, QuantScheme],
    integers: Callable[[str], QuantizedTensor],
    recipe: Recipe,
    ranges: StaticPlan | None = None,
) -> CausalLMSkeleton | PretrainedSkeleton | EncoderDecoderSkeleton | ModuleSkeleton:
    """What is lowered; a language model comes with text to measure the ranges of a KV cache on."""
    if isinstance(model, PythonModule):
        return model.skeleton(schemes, integers, ranges, recipe.targets[0].dialect)
    if not isinstance(model, CausalLM):
        return model.skeleton(schemes, integers)
    given = recipe.calibration
    drawn = draw(given, cache_folder()).samples if given and given.text else ()
    return model.skeleton(schemes, integers, [read_text(sample) for sample in drawn])


@contextmanager
def _source_named(source: str, backend: str) -> Iterator[None]:
    """A backend does not know where its model came from; a person reads an error by that name."""
    try:
        yield
    except (TraceError, LoweringError) as problem:
        raise type(problem)(f"model {source!r}, {backend}: {problem}") from problem


def _disk_needed(plan: QuantPlan) -> int:
    """Bytes: the files, the integers on their way (one byte a weight), and as much again for rewriting."""
    return 2 * sum(forecast.total_bytes for forecast in plan.forecasts) + plan.parameters


def _report_data(
    recipe: Recipe,
    model: Model,
    plan: QuantPlan,
    verified: Verified,
    facts: Mapping[str, Mapping[str, object]],
    draft: Path,
) -> dict[str, Any]:
    """Everything about the job as plain data: for the manifest, the report and the terminal."""
    targets = {}
    for forecast in plan.forecasts:
        backend = get_backend(forecast.target.key)
        files = describe_files(draft / backend.folder)
        targets[backend.name] = {
            "folder": backend.folder,
            "files": files,
            "model_bytes": sum(int(str(f["bytes"])) for f in files if str(f["path"]).startswith("model.")),
            "forecast_bytes": forecast.total_bytes,
            **facts[backend.name],
        }
    return {
        "recipe": {"name": recipe.name, "text": recipe.text, "sha256": recipe.sha256},
        "model": {**model.identity(), "task": recipe.model.task, "description": plan.model},
        "plan": plan.to_json(),
        "parity": verified.parity.to_json(),
        "notes": list(verified.notes),
        "tasks": verified.tasks.to_json() if verified.tasks else None,
        "targets": targets,
        "versions": versions(),
    }


def _holds(out: Path, job: str) -> bool:
    """True when `out` was written by exactly this job."""
    try:
        return bool(read_manifest(out).get("job") == job)
    except ArtifactError:
        return False


def failed_place(out: Path) -> Path:
    """Where the files of a job that a gate refused are kept."""
    return Path(f"{out}.failed")


def _check_failed_place(failed: Path) -> None:
    """Refuse before any work, should the job fail, to mix its files with someone else's."""
    if failed.exists() and not (failed / MANIFEST).is_file():
        raise ArtifactError(
            f"{failed}: is in the way, a job whose parity fails is kept there; move it or name another --out"
        )


def _keep_failed(draft: Path, failed: Path) -> None:
    """Put the files of a failed job aside, so that nobody takes them for good and all can be looked at."""
    shutil.rmtree(failed, ignore_errors=True)
    draft.chmod(0o755)
    os.replace(draft, failed)


def _verdict(parity: Mapping[str, Any], kept: Path) -> str:
    """What was missed, where it begins, and where to look."""
    lines = ["parity failed:", *(f"  - {sentence}" for sentence in parity["failures"])]
    if parity["first_layer"]:
        lines.append(f"  where it begins: {parity['first_layer']} ({parity['first_layer_reason']})")
    lines.append(f"  the files are kept in {kept} to look at (report.html), not to ship")
    return "\n".join(lines)
