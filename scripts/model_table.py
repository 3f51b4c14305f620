#!/usr/bin/env python3
"""One row per shipped recipe of another model: megabytes, what the task loses, time against float in each runtime.

    .venv/bin/python scripts/model_table.py                                    every recipe whose model is there
    .venv/bin/python scripts/model_table.py --recipes minilm_int8 bert_tiny_int8
    .venv/bin/python scripts/model_table.py --no-speed                         sizes and quality only

Speech has the time that a runtime takes to write down all clips of the recipe, beside how long they are.
Each recipe is run as it is, and once more with every layer in float32, so that both can be measured in turn in the
same runtime. Sizes of a variant that is not exported (all 8 bits, of a recipe that mixes) are the plan's forecast.
scripts/fetch_models.py and scripts/fetch_data.py bring models and data.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import yaml
from bench import SHORT_TEXT
from peers.catalog import timed

from exporter.artifacts import read_manifest, target_bytes
from exporter.backends import get_backend
from exporter.benching import Speeds, Subject, measure_speeds, subjects_of
from exporter.benchmarks.machine import processor
from exporter.benchmarks.results import BenchSettings
from exporter.errors import QexportError
from exporter.models.encoder_decoder import EncoderDecoder
from exporter.parity import ParityReport
from exporter.parity.shown import loss_of
from exporter.parity.tasks import Metric, TaskReport
from exporter.pipeline import plan_recipe
from exporter.plan import QuantPlan
from exporter.quiet import hush
from exporter.recipe import load_recipe
from exporter.samples.audio import read_wav
from exporter.samples.labelled import speech_examples
from exporter.verify.decoding import greedy, rules_for

ROOT = Path(__file__).resolve().parent.parent
QEXPORT = (sys.executable, "-c", "from exporter.cli import main; main()")
RECIPES = (
    "bert_tiny_int8",
    "minilm_int8",
    "embeddinggemma_300m_mixed_int4",
    "efficientnet_lite0_int8",
    "whisper_tiny_en_mixed_int4",
    "whisper_base_int8",
    "flan_t5_small_int8",
    "mixed_int4",
    "gemma3_270m_mixed_int4",
    "qwen25_05b_mixed_int4",
)
RUNTIMES = ("onnxruntime", "executorch")
INT8 = {"weights": "int8", "group": "channel"}


@dataclass(frozen=True)
class Row:
    """A line of the table; megabytes and figures by runtime."""

    recipe: str
    task: str
    parameters: int
    float_mb: Mapping[str, float]
    int8_mb: Mapping[str, float]
    mixed_mb: Mapping[str, float]  # empty where the recipe has no 4 bits
    quality: str
    speed: Mapping[str, str]


def main() -> int:
    arguments = parse()
    os.chdir(ROOT)
    hush()
    out = arguments.out.resolve()
    (out / "recipes").mkdir(parents=True, exist_ok=True)
    settings = BenchSettings(
        threads=arguments.threads, repeats=arguments.repeats, past=(128,), prefill=(256,), calls=(128,)
    )
    print(f"{processor()}, {settings.used_threads} threads\n", flush=True)
    rows, problems = [], []
    for name in arguments.recipes:
        try:
            rows.append(measured(name, out, None if arguments.no_speed else settings))
            # for whoever does not wait for the rest
            print(table(rows[-1:]), file=sys.stderr, flush=True)
        except QexportError as problem:
            problems.append(f"{name}: not measured: {problem}")
            print(problems[-1], file=sys.stderr)
    print(table(rows))
    for sentence in problems:
        print(f"- {sentence}")
    return 1 if problems else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--recipes", nargs="+", default=RECIPES, metavar="NAME", help=f"of {', '.join(RECIPES)}"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="for all alike [default: all there are]")
    parser.add_argument("--no-speed", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "out/table", help="where artifacts and logs go")
    return parser.parse_args()


def measured(name: str, out: Path, settings: BenchSettings | None) -> Row:
    """Export, and measure where settings are given. Raises QexportError."""
    path = ROOT / "recipes" / f"{name}.yaml"
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    folder = exported(path, out / name)
    manifest = read_manifest(folder)
    plan = QuantPlan.from_json(manifest["summary"]["plan"])
    as_float = written(out, f"{name}-float", float_recipe(recipe))
    own = {runtime: target_bytes(entry) / 1e6 for runtime, entry in manifest["summary"]["targets"].items()}
    mixes = any(scheme["weights"] == "int4" for scheme in recipe["schemes"].values())
    speed = {}
    if settings is not None:
        speed = speeds(folder, exported(as_float, out / f"{name}-float"), settings)
        if plan.task == "automatic-speech-recognition":
            heard = real_time(folder, path)
            speed = {runtime: f"{cell}, {heard[runtime]}" for runtime, cell in speed.items()}
    return Row(
        name,
        plan.task,
        plan.parameters,
        forecast(as_float),
        forecast(written(out, f"{name}-int8", int8_recipe(recipe))) if mixes else own,
        own if mixes else {},
        quality(manifest["summary"], plan),
        speed,
    )


def float_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Every layer in float32, and no limit to miss."""
    found = copy.deepcopy(dict(recipe))
    found["schemes"] = {}
    found["rules"] = [{"match": "**", "scheme": "float", "because": "what the recipe is compared with"}]
    found.pop("calibration", None)
    found["parity"] = {"lowering": {"max_rel": 0.1}}
    if recipe["model"]["task"] == "text-generation":  # its own text would take minutes, and is not asked for
        found["parity"] |= {"text": ["short.txt"], "prompts": ["The boat"]}
    return found


def int8_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """8 bits wherever the recipe has 4."""
    found = copy.deepcopy(dict(recipe))
    found["schemes"] = {
        name: {**scheme, **INT8} if scheme["weights"] == "int4" else scheme
        for name, scheme in recipe["schemes"].items()
    }
    return found


def written(out: Path, name: str, recipe: dict[str, Any]) -> Path:
    """The recipe as a file."""
    path = out / "recipes" / f"{name}.yaml"
    (path.parent / "short.txt").write_text(SHORT_TEXT, encoding="utf-8")
    path.write_text(yaml.safe_dump({**recipe, "name": name}, sort_keys=False), encoding="utf-8")
    return path


def forecast(path: Path) -> dict[str, float]:
    """Megabytes of the files by runtime, from the plan alone."""
    _, plan = plan_recipe(load_recipe(path))
    return {entry.target.backend: entry.total_bytes / 1e6 for entry in plan.forecasts}


def exported(recipe: Path, folder: Path) -> Path:
    """Run the job; a folder of the same job is kept. Raises QexportError with the job's last words."""
    print(f"exporting {folder.name} …", file=sys.stderr, flush=True)
    log = folder.with_name(folder.name + ".log")
    cost = timed((*QEXPORT, "--recipe", recipe, "--out", folder, "--force"), log)
    if cost.error is not None:
        raise QexportError(f"{cost.error} (whole log: {log})")
    return folder


def quality(summary: Mapping[str, Any], plan: QuantPlan) -> str:
    """The first figure of each set of examples, float and both runtimes; without any, what the logits lose."""
    tasks = summary.get("tasks")
    if tasks and TaskReport.from_json(tasks).comparisons:
        comparisons = TaskReport.from_json(tasks).comparisons
        found = []
        for data in dict.fromkeys(comparison.data for comparison in comparisons):
            firsts = [comparison.metrics[0] for comparison in comparisons if comparison.data == data]
            of_float = [shown(firsts[0], firsts[0].reference)] if firsts[0].reference is not None else []
            values = [*of_float, " / ".join(shown(metric, metric.candidate) for metric in firsts)]
            found.append(f"{firsts[0].name} {' → '.join(values)} (n = {firsts[0].items})")
        return ", ".join(found)
    parity = ParityReport.from_json(summary["parity"])
    rungs = [parity.shipped(runtime) for runtime in summary["targets"]]
    losses = [loss_of(plan.task, rung.result if rung else None)[:2] for rung in rungs]
    return ", ".join(
        f"{each[0].title} {' / '.join(x.value for x in each)}" for each in zip(*losses, strict=True)
    )


def shown(metric: Metric, value: float) -> str:
    """Shares in percent; a cosine as it is."""
    return f"{value:.4f}" if "cosine" in metric.name else f"{100 * value:.1f} %"


def speeds(folder: Path, as_float: Path, settings: BenchSettings) -> dict[str, str]:
    """Float and quantised in turn, by runtime: milliseconds of a call, or tokens a second, and the ratio."""
    found = {}
    for runtime in RUNTIMES:
        subjects: list[Subject] = []
        ranges: dict[str, Any] = {}
        for label, place in (("float", as_float), ("quantised", folder)):
            manifest = read_manifest(place)
            plan = QuantPlan.from_json(manifest["summary"]["plan"])
            forecasts = [entry for entry in plan.forecasts if entry.target.backend == runtime]
            if not forecasts:
                break
            (subject,), sizes = subjects_of(place, manifest, forecasts, settings, [])
            subjects.append(replace(subject, name=label))
            ranges[label] = sizes[subject.name]
        else:
            measured = measure_speeds(subjects, ranges, settings, lambda what, share: None)
            found[runtime] = compared(measured, subjects[0].generates)
    return found


def real_time(folder: Path, path: Path) -> dict[str, str]:
    """How long each runtime takes over the recipe's clips, from sound to tokens, features included."""
    recipe = load_recipe(path)
    model, plan = plan_recipe(recipe)
    assert isinstance(model, EncoderDecoder) and recipe.parity.data and recipe.parity.data.audio
    examples = speech_examples(recipe.parity.data.audio)
    sound = sum(read_wav(example.sample.path).seconds for example in examples)
    found = {}
    for target in plan.targets:
        backend = get_backend(target.backend)
        rules = rules_for(model.generation, target.max_context)
        runner = backend.open_seq2seq(folder / backend.folder)
        runner.encode(model.processor(examples[0].sample))  # the first call sets things up
        started = time.perf_counter()
        for example in examples:
            runner.encode(model.processor(example.sample))
            greedy(runner, rules)
        taken = time.perf_counter() - started
        found[backend.name] = f"{sound:.1f} s of sound in {taken:.1f} s ({sound / taken:.1f}× real time)"
    return found


def compared(found: Mapping[str, Speeds], generates: bool) -> str:
    """Medians, and the median of the ratios within each repeat."""
    cells = []
    for title, of in (("", "prefill"), ("next tokens ", "decode"))[: 2 if generates else 1]:
        own, other = (getattr(found[label], of) for label in ("quantised", "float"))
        (size,) = own
        ratio = median(a / b for a, b in zip(own[size], other[size], strict=True))
        cells.append(f"{title}{amount(other[size], size, of)} → {amount(own[size], size, of)} ({ratio:.2f}×)")
    return ", ".join(cells)


def amount(speeds: Sequence[float], size: int, of: str) -> str:
    """Milliseconds of a whole call; tokens a second of a decode."""
    if of == "decode":
        return f"{median(speeds):.0f}/s"
    return f"{1000 * size / median(speeds):.1f} ms"


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    titles = ("recipe", "task", "parameters", "fp32 MB", "int8 MB", "mixed MB", "task metric")
    lines = ["| " + " | ".join([*titles, *(f"{name}: float → ours" for name in RUNTIMES)]) + " |"]
    lines.append("|" + " --- |" * (len(titles) + len(RUNTIMES)))
    for row in rows:
        cells = [row.recipe, row.task, f"{row.parameters / 1e6:.1f} M"]
        cells += [megabytes(found) for found in (row.float_mb, row.int8_mb, row.mixed_mb)]
        cells += [row.quality, *(row.speed.get(name, "–") for name in RUNTIMES)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def megabytes(found: Mapping[str, float]) -> str:
    """ONNX Runtime / ExecuTorch."""
    return " / ".join(f"{found[name]:.1f}" for name in RUNTIMES if name in found) or "–"


if __name__ == "__main__":
    sys.exit(main())
