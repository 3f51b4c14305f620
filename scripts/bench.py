#!/usr/bin/env python3
"""Size, quality, time and memory of the whole job, as the Markdown tables that README.md shows.

    .venv/bin/python scripts/bench.py                       the shipped recipes, one after the other
    .venv/bin/python scripts/bench.py --recipes mixed_int4  one of them

Every recipe is exported by a fresh process into out/bench/NAME, with --force; its time and peak memory
are the operating system's own account of that process. Speeds are medians over alternating runs of
both runtimes and of PyTorch in float32, all in this process with the same threads, so that the ratios
hold on a noisy machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RECIPES = ("float", "int8", "mixed_int4", "int4")
QEXPORT = Path(sys.executable).with_name("qexport")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipes", nargs="+", default=RECIPES, choices=RECIPES)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    os.chdir(ROOT)
    rows = [export(name) for name in arguments.recipes]
    print(f"\n{machine()}\n")
    print_quality(rows)
    print_job(rows)
    print_speed(rows, arguments.repeats)


def export(name: str) -> dict[str, Any]:
    """Run the whole job in a process of its own."""
    from exporter.artifacts import read_manifest

    out = Path("out/bench") / name
    log = Path("out/bench") / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"exporting {name} … (log: {log})", file=sys.stderr)
    started = time.perf_counter()
    with log.open("w") as stream:
        process = subprocess.Popen(
            [QEXPORT, "--recipe", f"recipes/{name}.yaml", "--out", out, "--force"],
            stdout=stream,
            stderr=stream,
        )
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, 1):
        raise SystemExit(f"{name}: qexport ended with {code}; see {log}")
    folder = out if code == 0 else out.with_name(out.name + ".failed")
    return {
        "name": name,
        "folder": folder,
        "seconds": seconds,
        "peak_mb": usage.ru_maxrss / 1e3,
        "exit": code,
        **read_manifest(folder)["summary"],
    }


def print_quality(rows: list[dict[str, Any]]) -> None:
    print(
        "| recipe | bits/weight | runtime | MB | KL mean | KL p99 | same top token | perplexity × (95 %) | parity |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        for runtime, target in row["targets"].items():
            result = next(
                r["result"]
                for r in row["parity"]["rungs"]
                if r["kind"] == "shipped" and r["candidate"] == runtime
            )
            low, high = result["ppl_ratio_ci"]
            print(
                f"| {row['name']} | {row['plan']['totals']['bits_per_weight']:.2f} | {runtime} "
                f"| {target['model_bytes'] / 1e6:.1f} | {result['kl_mean']:.4f} | {result['kl_p99']:.3f} "
                f"| {100 * result['same_top1']:.1f} % | {result['ppl_ratio']:.3f} ({low:.3f}–{high:.3f}) "
                f"| {'passed' if row['exit'] == 0 else 'failed'} |"
            )


def print_job(rows: list[dict[str, Any]]) -> None:
    print("\n| recipe | whole job, both runtimes and verify | peak memory |")
    print("|---|---|---|")
    for row in rows:
        print(f"| {row['name']} | {row['seconds']:.0f} s | {row['peak_mb']:,.0f} MB |")


def print_speed(rows: list[dict[str, Any]], repeats: int) -> None:
    print(
        "\n| recipe | runtime | decode after 128, tokens/s | × PyTorch float | prefill of 256, tokens/s | × |"
    )
    print("|---|---|---|---|---|---|")
    for row in rows:
        runners = open_runners(row)
        measured: dict[str, list[tuple[float, float]]] = {name: [] for name in runners}
        for _ in range(repeats):  # alternating, so that a slow spell of the machine hits all of them
            for name, runner in runners.items():
                measured[name].append(speed(runner))
        median = {
            name: tuple(statistics.median(values) for values in zip(*runs, strict=True))
            for name, runs in measured.items()
        }
        decode, prefill = median.pop("torch")
        for name, (d, p) in median.items():
            print(f"| {row['name']} | {name} | {d:.0f} | {d / decode:.2f} | {p:.0f} | {p / prefill:.2f} |")


def open_runners(row: dict[str, Any]) -> dict[str, Any]:
    from exporter.backends import get_backend
    from exporter.models.loading import open_model
    from exporter.models.reference import TorchRunner

    model = open_model(row["model"]["source"], row["model"]["task"], Path("recipes"))
    runners: dict[str, Any] = {"torch": TorchRunner(model.float_model(), 2048)}
    for name in row["targets"]:
        backend = get_backend(name)
        runners[name] = backend.open_text(row["folder"] / backend.folder)
    return runners


def speed(runner: Any) -> tuple[float, float]:
    """(decode, prefill) in tokens a second."""
    runner.reset()
    started = time.perf_counter()
    runner.forward(list(range(1000, 1256)))
    prefill = 256 / (time.perf_counter() - started)
    runner.reset()
    runner.forward(list(range(1000, 1128)))
    started = time.perf_counter()
    for token in range(1000, 1032):
        runner.forward([token])
    return 32 / (time.perf_counter() - started), prefill


def machine() -> str:
    names = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return f"{len(os.sched_getaffinity(0))} × {names[0] if names else 'unknown CPU'}"


if __name__ == "__main__":
    main()
