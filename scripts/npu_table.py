#!/usr/bin/env python3
"""The table of docs/npu.md: every shipped NPU recipe, exported and run in its vendor's simulator.

    .venv/bin/python scripts/npu_table.py                        every recipe for NPUs whose model is there
    .venv/bin/python scripts/npu_table.py minilm_htp

Each recipe is exported to out/NAME (again, where it is there already and unchanged, in a moment). dB is the SQNR of the
simulator's outputs to the same codes in PyTorch; "floor" what the recipe's scheme leaves room for.
scripts/fetch_models.py and scripts/fetch_data.py bring models and data.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from exporter.artifacts import read_manifest
from exporter.benchmarks.machine import processor

ROOT = Path(__file__).resolve().parent.parent
QEXPORT = (sys.executable, "-c", "from exporter.cli import main; main()")
RECIPES = (
    "efficientnet_lite0_htp",
    "minilm_htp",
    "smollm2_135m_htp",
    "efficientnet_lite0_ethos_u85",
    "minilm_tosa",
    "smollm2_135m_tosa",
)
COLUMNS = (
    "recipe",
    "target",
    "chip",
    "scheme",
    "MB forecast",
    "MB",
    "compile s",
    "on NPU",
    "dB",
    "floor",
    "host run",
)


def main() -> int:
    """Export what is asked for and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipes", nargs="*", default=RECIPES)
    arguments = parser.parse_args()
    print(processor())
    print(f"\n| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
    for name in arguments.recipes:
        folder = ROOT / "out" / name
        print(f"exporting {name} …", file=sys.stderr)
        recipe = f"recipes/{name}.yaml"
        command = [*QEXPORT, "--recipe", recipe, "--out", str(folder), "--force"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
            folder = folder.with_name(f"{name}.failed")
            if not folder.is_dir():
                continue
        for row in rows(name, read_manifest(folder)["summary"]):
            print(row, flush=True)
    return 0


def rows(name: str, summary: dict[str, Any]) -> list[str]:
    """One for each chip of each target."""
    rungs = {rung["name"]: rung for rung in summary["parity"]["rungs"]}
    used = {
        f"{layer['scheme']['weights']} {layer['scheme']['activations'].removeprefix('static-')}"
        for layer in summary["plan"]["layers"]
        if layer["scheme"]["weights"] != "float"
    }
    found = []
    for key, facts in summary["targets"].items():
        rung = rungs[f"{key} lowering"]
        for chip, compiled in facts["compiled"].items():
            vela = compiled.get("vela") or {}
            extra = (
                f"; Vela: {vela['milliseconds']:.1f} ms, {vela['npu_operators']:.0f} operators"
                if vela
                else ""
            )
            cells = (
                name,
                key,
                f"{chip} {facts['chips'].get(chip, '')}".strip(),
                ", ".join(sorted(used)),
                f"{facts['forecast_bytes'] / 1e6:.1f}",
                f"{compiled['bytes'] / 1e6:.1f}",
                f"{compiled['seconds']:.0f}",
                facts["on_npu"],
                f"{rung['result']['sqnr_db']:.1f}",
                f"{rung['limits']['min_noise_db']:.1f}",
                facts["host_run"] + extra,
            )
            found.append(f"| {' | '.join(cells)} |")
    return found


if __name__ == "__main__":
    sys.exit(main())
