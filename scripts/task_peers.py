#!/usr/bin/env python3
"""Encoders, convolutions and speech against the quantisers that people use today, in one run.

    .venv/bin/python scripts/task_peers.py                                     all of them, some 20 minutes
    .venv/bin/python scripts/task_peers.py --recipes efficientnet_lite0_int8

A peer starts from the float model that qexport exports and is calibrated on the recipe's own samples. Quality is
qexport's own ladder over the peer's files, on the recipe's examples; speed is measured in turn, and each ratio is the
median of the ratios within one repeat. Above 1, the peer takes longer than ours.
"""

from __future__ import annotations

import argparse
import copy
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import yaml
from model_table import RUNTIMES, exported, float_recipe, shown, written
from peers import quantizers

from exporter.artifacts import read_manifest
from exporter.benching import Subject, measure_speeds, subjects_of
from exporter.benchmarks.machine import processor
from exporter.benchmarks.results import BenchSettings
from exporter.errors import QexportError, first_line
from exporter.models.loading import Model
from exporter.numerics import QuantizedTensor
from exporter.parity.shown import loss_of
from exporter.parity.tasks import Metric
from exporter.pipeline import plan_recipe
from exporter.plan import QuantPlan
from exporter.quiet import hush
from exporter.ranges import calibration_samples
from exporter.recipe import Recipe, load_recipe
from exporter.samples.shipping import LOG_MEL, PICTURE
from exporter.schemes import FLOAT as FLOAT_SCHEME
from exporter.verify import verify_model

ROOT = Path(__file__).resolve().parent.parent
FLOAT, OURS = "float", "qexport"
TOLD = ("top-1", "agreement", "word error rate", "words unlike float", "recall@1", "same text as float")
INPUTS = {Path(name).stem for name in (LOG_MEL, PICTURE)}  # graphs that make a model's inputs


@dataclass(frozen=True)
class Peer:
    """One way to quantise the same model for one runtime."""

    name: str
    runtime: str
    make: Callable[[Model, Recipe, Path, Path], None]  # of the float folder, into the peer's


def _dynamic(model: Model, recipe: Recipe, source: Path, target: Path) -> None:
    quantizers.ort_dynamic(source, target)


def _static(model: Model, recipe: Recipe, source: Path, target: Path) -> None:
    quantizers.ort_static(source, target, quantizers.arrays_of(calibration_samples(model, recipe)))


def _pt2e(model: Any, recipe: Recipe, source: Path, target: Path) -> None:
    quantizers.pt2e_static(model, target, quantizers.arrays_of(calibration_samples(model, recipe)))


def _torchao(model: Any, recipe: Recipe, source: Path, target: Path) -> None:
    longest = next(t.max_context for t in recipe.targets if t.backend == "executorch")
    quantizers.torchao_dynamic(float_skeleton(model), target, longest)


ORT_DYNAMIC = Peer("onnxruntime dynamic int8", "onnxruntime", _dynamic)
ORT_STATIC = Peer("onnxruntime static int8", "onnxruntime", _static)
PT2E = Peer("PT2E + XNNPACK static int8", "executorch", _pt2e)
TORCHAO = Peer("torchao + XNNPACK dynamic int8", "executorch", _torchao)
JOBS: Mapping[str, tuple[Peer, ...]] = {
    "bert_tiny_int8": (ORT_DYNAMIC, TORCHAO),
    "minilm_int8": (ORT_DYNAMIC, TORCHAO),
    "efficientnet_lite0_int8": (ORT_STATIC, PT2E),
    "whisper_tiny_en_mixed_int4": (ORT_DYNAMIC,),
    "whisper_base_int8": (ORT_DYNAMIC,),
    "flan_t5_small_int8": (ORT_DYNAMIC,),
}


@dataclass(frozen=True)
class Line:
    """One way in one runtime."""

    who: str
    megabytes: float
    quality: str
    seconds: Mapping[str, Sequence[float]]  # of a call, and of a next token; one figure per repeat


def main() -> int:
    arguments = parse()
    os.chdir(ROOT)
    hush()
    settings = BenchSettings(repeats=arguments.repeats, past=(128,), prefill=(256,), calls=(128,))
    print(f"{processor()}, {settings.used_threads} threads\n", flush=True)
    problems: list[str] = []
    for name in arguments.recipes:
        try:
            report(name, arguments.out.resolve(), settings, problems)
        except QexportError as problem:
            problems.append(f"{name}: not measured: {problem}")
    print("\n".join(f"- {sentence}" for sentence in problems))
    return 1 if problems else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipes", nargs="+", choices=list(JOBS), default=list(JOBS), metavar="NAME")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=ROOT / "out/table", help="where artifacts go")
    return parser.parse_args()


def report(name: str, out: Path, settings: BenchSettings, problems: list[str]) -> None:
    """Make everything, measure it, print a table."""
    (out / "recipes").mkdir(parents=True, exist_ok=True)
    path = ROOT / "recipes" / f"{name}.yaml"
    ours = exported(path, out / name)
    stated = yaml.safe_load(path.read_text(encoding="utf-8"))
    as_float = exported(written(out, f"{name}-float", float_recipe(stated)), out / f"{name}-float")
    recipe = load_recipe(written(out, f"{name}-judged", judged(stated)))
    model, _ = plan_recipe(recipe)
    places: dict[str, dict[str, Path]] = {r: {FLOAT: as_float, OURS: ours} for r in RUNTIMES}
    for peer in JOBS[name]:
        folder = out / "peers" / f"{name}-{peer.name.replace(' ', '-').replace('+', 'and')}"
        try:
            made(peer, model, load_recipe(path), as_float, folder)
            places[peer.runtime][peer.name] = folder
        except Exception as problem:  # a peer may fail in any way, and that is a finding
            problems.append(f"{name}: {peer.name} failed: {type(problem).__name__}: {first_line(problem)}")
    print(f"### {name}\n\n| runtime | quantiser | MB | against float | a call | next tokens | peer / ours |")
    print("| --- " * 7 + "|")
    for runtime, found in places.items():
        lines = measured(runtime, found, model, recipe, settings)
        own = next(line for line in lines if line.who == OURS)
        for line in lines:
            cells = (
                runtime,
                line.who,
                f"{line.megabytes:.1f}",
                line.quality,
                *times(line),
                ratios(line, own),
            )
            print("| " + " | ".join(cells) + " |")
    print(flush=True)


def judged(stated: Mapping[str, Any]) -> dict[str, Any]:
    """Every layer float, judged on the recipe's own examples, without a limit."""
    found = float_recipe(stated)
    kept = {key: stated["parity"][key] for key in ("data", "text", "prompts") if key in stated["parity"]}
    return {**found, "parity": copy.deepcopy(kept) or {"lowering": {"max_rel": 1}}}


def made(peer: Peer, model: Model, recipe: Recipe, as_float: Path, folder: Path) -> None:
    """The peer's files in a copy of the float folder, whose manifest says what a call takes."""
    if folder.exists():
        return
    print(f"making {folder.name} …", file=sys.stderr, flush=True)
    draft = folder.with_name(folder.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(as_float, draft)
    place = draft / peer.runtime
    for path in model_files(place):
        path.unlink()
    peer.make(model, recipe, as_float / peer.runtime, place)
    draft.rename(folder)


def model_files(folder: Path) -> list[Path]:
    """Graphs, weights and programs; not what an app needs to make inputs."""
    return [
        p for p in folder.iterdir() if p.suffix in (".onnx", ".ort", ".pte", ".data") and p.stem not in INPUTS
    ]


def measured(
    runtime: str, places: Mapping[str, Path], model: Model, recipe: Recipe, settings: BenchSettings
) -> list[Line]:
    """All ways in one runtime, speeds in turn."""
    subjects: list[Subject] = []
    sizes: dict[str, Any] = {}
    for who, place in places.items():
        manifest = read_manifest(place)
        plan = QuantPlan.from_json(manifest["summary"]["plan"])
        (forecast,) = (entry for entry in plan.forecasts if entry.target.backend == runtime)
        (subject,), found = subjects_of(place, manifest, [forecast], settings, [])
        subjects.append(replace(subject, name=who))
        sizes[who] = found[runtime]
    speeds = measure_speeds(subjects, sizes, settings, lambda what, share: None)
    lines = []
    for who, place in places.items():
        seconds = {"call": [size / v for size, vs in speeds[who].prefill.items() for v in vs]}
        if any(speeds[who].decode.values()):
            seconds["next"] = [1 / v for vs in speeds[who].decode.values() for v in vs]
        bytes_ = sum(path.stat().st_size for path in model_files(place / runtime))
        lines.append(Line(who, bytes_ / 1e6, figures(runtime, place, model, recipe), seconds))
    return lines


def figures(runtime: str, place: Path, model: Model, recipe: Recipe) -> str:
    """What the files lose against the float model: the task's figures, and the ladder's."""
    targets = tuple(target for target in recipe.targets if target.backend == runtime)
    found = verify_model(
        model, float_skeleton(model), place, replace(recipe, targets=targets), lambda what, share: None
    )
    shipped = found.parity.shipped(runtime)
    parts = [f"{x.title} {x.value}" for x in loss_of(model.task, shipped.result if shipped else None)[:2]]
    for comparison in found.tasks.comparisons if found.tasks else ():
        parts += [
            told(metric) for metric in comparison.metrics if metric.group is None and metric.name in TOLD
        ]
    return ", ".join(parts)


def float_skeleton(model: Model) -> Any:
    """The model with no layer planned."""
    return model.skeleton({layer.name: FLOAT_SCHEME for layer in model.layers().layers}, no_integers)


def told(metric: Metric) -> str:
    """A figure with its float model's, and of how many."""
    reference = "" if metric.reference is None else f" (float {shown(metric, metric.reference)})"
    return f"{metric.name} {shown(metric, metric.candidate)}{reference} of {metric.items}"


def no_integers(name: str) -> QuantizedTensor:
    """Of a float model there are none."""
    raise KeyError(name)


def times(line: Line) -> tuple[str, str]:
    """Medians."""
    call = f"{1000 * median(line.seconds['call']):.1f} ms"
    return call, f"{1 / median(line.seconds['next']):.0f}/s" if "next" in line.seconds else "–"


def ratios(line: Line, own: Line) -> str:
    """Of times; medians of the ratios within a repeat."""
    found = [
        median(a / b for a, b in zip(line.seconds[key], own.seconds[key], strict=True))
        for key in line.seconds
    ]
    return " / ".join(f"{ratio:.2f}" for ratio in found)


if __name__ == "__main__":
    sys.exit(main())
