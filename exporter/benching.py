"""How fast and how large an artifact is on this machine, and how near to what its memory allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.artifacts import read_manifest, target_bytes
from exporter.backends import CPUS, get_backend
from exporter.benchmarks.figures import Memory, Spread
from exporter.benchmarks.machine import processor, read_bandwidth
from exporter.benchmarks.processes import WorkerProcess, WorkerSpec, started
from exporter.benchmarks.results import BenchResult, BenchSettings, Decoding, Prefilling, RuntimeBench
from exporter.errors import ArtifactError, PlanError
from exporter.plan import Forecast, QuantPlan
from exporter.tasks import SPECS

if TYPE_CHECKING:
    from rich.console import RenderableType

Progress = Callable[[str, float], None]
Ranges = tuple[Sequence[int], Sequence[int]]  # tokens past, and tokens of a prompt or a call
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Subject:
    """A model file that is measured, ours or a peer's."""

    name: str
    spec: WorkerSpec
    vocabulary: int
    generates: bool = True  # False: a call gives everything at once


@dataclass(frozen=True)
class Speeds:
    """Tokens a second of one subject, one figure per repeat."""

    decode: Mapping[int, Sequence[float]]  # by past tokens
    prefill: Mapping[int, Sequence[float]]  # by length of the prompt


@dataclass(frozen=True)
class Start:
    """Fresh processes of one subject."""

    version: str
    load_seconds: Spread
    first_token_seconds: Spread
    memory_after_load: Memory
    memory_after_generation: Memory


def bench_artifact(folder: Path, settings: BenchSettings, progress: Progress) -> BenchResult:
    """Measure every runtime of a folder that qexport wrote, alternating between them.

    Raises ArtifactError: no such artifact, a runtime that the folder does not hold or that fails, nothing to
    measure within the context.
    """
    manifest = read_manifest(folder)
    plan = _plan_of(folder, manifest)
    forecasts = _forecasts(folder, plan, settings.runtimes)
    notes: list[str] = []
    subjects, ranges = subjects_of(folder, manifest, forecasts, settings, notes)
    starts = {s.name: measure_start(s, settings, progress, max(ranges[s.name][1])) for s in subjects}
    bandwidth = read_bandwidth(settings.used_threads, max(3, settings.repeats), settings.bandwidth_bytes)
    speeds = measure_speeds(subjects, ranges, settings, progress)
    runtimes = tuple(
        _runtime(f, plan, manifest, starts[f.target.key], speeds[f.target.key], bandwidth) for f in forecasts
    )
    return BenchResult(
        str(folder),
        processor(),
        settings.used_threads,
        bandwidth,
        settings,
        runtimes,
        tuple(notes),
        plan.task,
    )


def subjects_of(
    folder: Path,
    manifest: Mapping[str, Any],
    forecasts: Sequence[Forecast],
    settings: BenchSettings,
    notes: list[str],
) -> tuple[list[Subject], dict[str, Ranges]]:
    """The artifact in each runtime, and what is measured of it; `notes` is told what is not.

    Raises ArtifactError where nothing can be measured.
    """
    plan = _plan_of(folder, manifest)
    spec = SPECS[plan.task]
    subjects: list[Subject] = []
    ranges: dict[str, Ranges] = {}
    for forecast in forecasts:
        name, context = forecast.target.key, forecast.target.max_context
        if spec.family == "causal":
            worker = _spec(folder, name, settings.used_threads, context)
            sizes: Ranges = _within(name, context, settings, notes)
        else:
            worker = _calls_spec(folder, name, manifest, plan, settings.used_threads, context)
            sizes = _calls(name, context, plan, settings, notes)
        subjects.append(Subject(name, worker, _vocabulary(plan), generates=bool(sizes[0])))
        ranges[name] = sizes
    return subjects, ranges


def weight_bytes_per_token(plan: QuantPlan, forecast: Forecast) -> int:
    """Bytes of weights that a decode step reads, as the files store them: every linear layer whole, the
    table of a tied output layer too; of an embedding table one row, which is left out; norms and biases. ONNX
    Runtime's kernels read a scale of two bytes in four, and one of a row once for each block."""
    backend = get_backend(forecast.target.key)
    layers = sum(
        backend.layer_bytes(replace(layer.info, tied_to=None), layer.scheme, forecast.target)
        for layer in plan.layers
        if layer.kind != "embedding"
    )
    return layers + plan.other_parameters * _FLOAT_BYTES


def measure_start(subject: Subject, settings: BenchSettings, progress: Progress, longest: int) -> Start:
    """Load, first token and memory, each time in a process of its own; `longest`: tokens of a call."""
    loads, firsts, after_load, after_run = [], [], [], []
    version = ""
    tokens = prompt_of(settings.prompt, subject.vocabulary)
    if not subject.generates:
        tokens = tokens[:longest]
    for index in range(settings.starts):
        progress(f"{subject.name}: start", index / settings.starts)
        with started(subject.spec) as worker:
            loaded = worker.load()
            version = loaded.version
            loads.append(loaded.seconds)
            after_load.append(loaded.memory)
            firsts.append(loaded.seconds + worker.prefill(tokens))
            if subject.generates:
                worker.decode(tokens, settings.steps)
            else:
                worker.prefill(prompt_of(longest, subject.vocabulary))
            after_run.append(worker.memory())
    return Start(
        version, Spread.of(loads), Spread.of(firsts), Memory.middle(after_load), Memory.middle(after_run)
    )


def measure_speeds(
    subjects: Sequence[Subject],
    ranges: Mapping[str, Ranges],
    settings: BenchSettings,
    progress: Progress,
    lost: Callable[[Subject, ArtifactError], None] | None = None,
) -> dict[str, Speeds]:
    """Every figure of every subject in turn, then all again: a slow spell of the machine hits all alike.

    Each repeat has fresh processes, since where a process happens to lie in memory moves its speed by several
    per cent for as long as it lives; and another order, since caches remember who came before.

    `ranges` holds the past lengths and the prompts of each subject. A subject that fails raises its
    ArtifactError; where `lost` is given it is told instead, and the others go on without that subject.
    """
    times: dict[tuple[str, str, int], list[float]] = {}
    left = {subject.name for subject in subjects}
    for repeat in range(settings.repeats):
        progress("speed", repeat / settings.repeats)
        ordered = [subject for subject in _order(subjects, repeat) if subject.name in left]
        for name, kind, size, speed in _one_repeat(ordered, ranges, settings.steps, left, lost):
            times.setdefault((name, kind, size), []).append(speed)
    return {
        subject.name: Speeds(_of(times, subject.name, "decode"), _of(times, subject.name, "prefill"))
        for subject in subjects
        if subject.name in left
    }


def _one_repeat(
    subjects: Sequence[Subject],
    ranges: Mapping[str, Ranges],
    steps: int,
    left: set[str],
    lost: Callable[[Subject, ArtifactError], None] | None,
) -> Iterator[tuple[str, str, int, float]]:
    """(subject, kind, size, tokens a second), once each; takes a subject that fails from `left`."""
    with ExitStack() as stack:
        workers = {subject.name: stack.enter_context(started(subject.spec)) for subject in subjects}

        def ask(subject: Subject, do: Callable[[WorkerProcess], float]) -> float | None:
            try:
                return do(workers[subject.name])
            except ArtifactError as problem:
                if lost is None:
                    raise
                left.discard(subject.name)
                lost(subject, problem)
                return None

        for subject in subjects:
            ask(subject, lambda worker: worker.load().seconds)
        for kind, size in _jobs(ranges):
            for subject in [subject for subject in subjects if subject.name in left]:
                if size in ranges[subject.name][kind == "prefill"]:
                    speed = ask(subject, partial(_speed, subject, kind, size, steps))
                    if speed is not None:
                        yield subject.name, kind, size, speed


def _order(subjects: Sequence[Subject], repeat: int) -> list[Subject]:
    """Each begins once, and every other time they go backwards."""
    first = repeat // 2 % len(subjects)
    turned = [*subjects[first:], *subjects[:first]]
    return turned[::-1] if repeat % 2 else turned


def prompt_of(count: int, vocabulary: int) -> list[int]:
    """The same tokens for everyone: spread over the vocabulary, none twice in a row."""
    return [(index * 7919 + 17) % vocabulary for index in range(count)]


def _jobs(ranges: Mapping[str, Ranges]) -> list[tuple[str, int]]:
    past = dict.fromkeys(size for sizes, _ in ranges.values() for size in sizes)
    prompts = dict.fromkeys(size for _, sizes in ranges.values() for size in sizes)
    return [("decode", size) for size in past] + [("prefill", size) for size in prompts]


def _speed(subject: Subject, kind: str, size: int, steps: int, worker: WorkerProcess) -> float:
    """Tokens a second."""
    if kind == "prefill":
        return size / worker.prefill(prompt_of(size, subject.vocabulary), steady=True)
    start = min(size, subject.spec.context - steps - 1)  # the last steps that the context holds
    return steps / worker.decode(prompt_of(start, subject.vocabulary), steps)


def _of(times: Mapping[tuple[str, str, int], list[float]], name: str, kind: str) -> dict[int, list[float]]:
    return {size: found for (whose, what, size), found in times.items() if (whose, what) == (name, kind)}


def _plan_of(folder: Path, manifest: Mapping[str, Any]) -> QuantPlan:
    try:
        plan = QuantPlan.from_json(manifest["summary"]["plan"])
    except (KeyError, PlanError) as problem:
        raise ArtifactError(
            f"{folder}: its manifest holds no plan of this qexport; export again"
        ) from problem
    return plan


def _forecasts(folder: Path, plan: QuantPlan, wanted: Sequence[str]) -> list[Forecast]:
    held = {forecast.target.key: forecast for forecast in plan.forecasts}
    npus = [name for name in held if name not in CPUS]
    if npus:
        raise ArtifactError(
            f"{folder}: is compiled for NPUs ({', '.join(npus)}), and what simulates them here says nothing of their "
            "speed; measure it on the phone"
        )
    for name in wanted:
        if name not in CPUS:
            raise ArtifactError(f"runtime {name!r} is not known; there are: {', '.join(CPUS)}")
        if name not in held:
            raise ArtifactError(f"{folder}: holds no {name}, only {', '.join(held)}")
    return [forecast for name, forecast in held.items() if not wanted or name in wanted]


def _vocabulary(plan: QuantPlan) -> int:
    """Rows of the embedding table; a model that keeps it out of the plan gets tokens that any model has."""
    return min((layer.shape[0] for layer in plan.layers if layer.kind == "embedding"), default=256)


def _spec(folder: Path, name: str, threads: int, context: int) -> WorkerSpec:
    """onnxruntime-genai where it is installed: it shares the KV buffers as an app does."""
    place = folder / get_backend(name).folder
    if name == "executorch":
        return WorkerSpec.own(name, place / "model.pte", threads, context)
    engine = "onnxruntime-genai" if find_spec("onnxruntime_genai") else "onnxruntime"
    return WorkerSpec.own(engine, place, threads, context)


def _calls_spec(
    folder: Path, name: str, manifest: Mapping[str, Any], plan: QuantPlan, threads: int, context: int
) -> WorkerSpec:
    """A worker that is told what the model takes, which stands in the manifest."""
    program = "encoder" if SPECS[plan.task].family == "encoder-decoder" else None
    programs = manifest["summary"]["targets"][name].get("programs")
    if not isinstance(programs, dict) or not programs:
        raise ArtifactError(f"{folder}: its manifest does not say what {name} takes; export again")
    inputs = (programs[program] if program else next(iter(programs.values())))["inputs"]
    place = folder / get_backend(name).folder
    path = place / "model.pte" if name == "executorch" else place
    engine = f"{name}-seq2seq" if program else f"{name}-calls"
    return WorkerSpec.own(engine, path, threads, context, inputs)


def _calls(name: str, context: int, plan: QuantPlan, settings: BenchSettings, notes: list[str]) -> Ranges:
    """Tokens of a call, where it takes text; one call of anything else. A model that generates does so behind each."""
    spec = SPECS[plan.task]
    sizes = [1]
    if spec.medium == "text":
        sizes = [size for size in settings.calls if size <= context]
        notes += [
            f"{name}: no call of {size:,} tokens, its longest is {context:,}"
            for size in settings.calls
            if size not in sizes
        ]
    if not sizes:
        raise ArtifactError(f"{name}: nothing can be measured, its longest call is {context:,} tokens")
    if spec.family == "encoder-decoder":
        return sizes, sizes
    return (), sizes


def _within(
    name: str, context: int, settings: BenchSettings, notes: list[str]
) -> tuple[list[int], list[int]]:
    """Past lengths and prompts that the context holds; a sentence for each that it does not."""
    most = context - settings.steps - 1
    past = [size for size in settings.past if size <= context and most > 0]
    prompts = [size for size in settings.prefill if size < context]
    for size in settings.past:
        if size not in past:
            notes.append(f"{name}: no decode after {size:,} tokens, its context is {context:,}")
        elif size > most:
            notes.append(
                f"{name}: decode after {size:,} tokens is measured over the last {settings.steps} steps"
                f" that its context of {context:,} holds"
            )
    notes += [
        f"{name}: no prefill of {size:,} tokens, its context is {context:,}"
        for size in settings.prefill
        if size not in prompts
    ]
    if not past and not prompts:
        raise ArtifactError(
            f"{name}: nothing can be measured, its context is {context:,} tokens; ask for less:"
            f" --past {max(1, most // 2)} --prefill {max(1, context // 2)}"
        )
    return past, prompts


def _runtime(
    forecast: Forecast,
    plan: QuantPlan,
    manifest: Mapping[str, Any],
    start: Start,
    speeds: Speeds,
    bandwidth: Spread,
) -> RuntimeBench:
    name, context = forecast.target.key, forecast.target.max_context
    weights = weight_bytes_per_token(plan, forecast)
    decode = []
    for past, found in speeds.decode.items():
        speed = Spread.of(found)
        read = weights + forecast.cache_bytes * past // context
        decode.append(Decoding(past, speed, read, read * speed.median / bandwidth.maximum))
    return RuntimeBench(
        name=name,
        engine=start.version,
        file_bytes=target_bytes(manifest["summary"]["targets"][name]),
        cache_bytes=forecast.cache_bytes,
        context=context,
        weight_bytes_per_token=weights,
        load_seconds=start.load_seconds,
        first_token_seconds=start.first_token_seconds,
        memory_after_load=start.memory_after_load,
        memory_after_generation=start.memory_after_generation,
        decode=tuple(decode),
        prefill=tuple(Prefilling(tokens, Spread.of(found)) for tokens, found in speeds.prefill.items()),
    )


def render_bench(result: BenchResult) -> RenderableType:
    """A column per runtime; median (minimum to maximum)."""
    from exporter.benchmarks.rendering import render

    return render(result)
