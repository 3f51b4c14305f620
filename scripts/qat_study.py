"""What training (`qat:` in a recipe) gains over rounding alone, and what it costs: the same recipe four ways.

    python scripts/qat_study.py recipes/efficientnet_lite0_int8.yaml --group tensor \\
        --layers "**._depthwise_conv" _conv_stem --steps 300 --learning-rate 0.01
    python scripts/quality_mixes.py out/smollm2_permuted --uniform w4
    python scripts/qat_study.py out/smollm2_permuted.mixes/w4.yaml

The recipe's static and 4-bit schemes by `mse` and by `gptq`, each as it comes and then trained; every layer is
quantised. Mean KL divergence to the float model of each runtime's files, on the recipe's parity data, which nothing is
trained on; "recovered" is the share of the untrained one's that is gone. CPU minutes are those of the whole job (user
and system, all its processes), files and parity included. Results are kept in --out and not measured again.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exporter.artifacts import read_manifest
from exporter.recipe import changed_recipe, load_recipe, recipe_data

_ASKED = ("by", "layers", "steps", "learning_rate", "samples")  # of what `qat:` takes


def variants(given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Name -> what a recipe says: each method alone, then trained."""
    recipe = load_recipe(given.recipe)
    found = {}
    for method in given.methods:
        data = recipe_data(recipe)
        for name, entry in recipe.schemes.items():
            if entry.scheme.is_static or entry.scheme.bits <= 4:
                data["schemes"][name]["method"] = method
                if given.group:
                    data["schemes"][name]["group"] = given.group
        data["rules"] = [rule for rule in data["rules"] if rule["scheme"] != "float"]
        data["parity"].pop("quantisation", None)  # measured here, not judged
        data["parity"].pop("tasks", None)
        asked = {key: value for key in _ASKED if (value := getattr(given, key)) is not None}
        found[method] = data
        found[f"{method}, trained"] = {**data, "qat": asked}
    return found


def exported(name: str, data: Mapping[str, Any], given: argparse.Namespace) -> dict[str, Any]:
    """What the job gave: KL of each runtime's files, CPU minutes, held-out KL on the way. Raises SystemExit."""
    stem = re.sub(r"\W+", "_", name)
    kept = given.out / f"{stem}.json"
    changed = changed_recipe(load_recipe(given.recipe), data, f"{given.recipe.name}: {name}.")
    path = given.recipe.with_name(
        f".{given.recipe.stem}_{stem}.yaml"
    )  # beside it: what it names is found from there
    if kept.is_file() and (found := json.loads(kept.read_text("utf-8")))["recipe"] == changed.text:
        return dict(found)
    path.write_text(changed.text, "utf-8")
    print(f"{name} …", file=sys.stderr, flush=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [
        Path(sys.executable).with_name("qexport"),
        "--recipe",
        path,
        "--out",
        given.out / stem,
        "--force",
    ]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    finally:
        path.unlink()
    if done.returncode:
        sys.exit(f"{name}: exit code {done.returncode}:\n{done.stdout[-1500:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    summary = read_manifest(given.out / stem)["summary"]
    rungs = summary["parity"]["rungs"]
    found = {
        "recipe": changed.text,
        "kl": {r["candidate"]: r["result"]["kl_mean"] for r in rungs if r["kind"] == "shipped"},
        "cpu_minutes": (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 60,
        "held_out": (summary.get("training") or {}).get("held_out", {}),
    }
    kept.write_text(json.dumps(found, indent=1), "utf-8")
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--methods", nargs="+", default=["mse", "gptq"])
    parser.add_argument("--group", help="instead of the schemes' own")
    parser.add_argument(
        "--by", choices=("block", "model"), help="[this and what follows: as a recipe has it]"
    )
    parser.add_argument("--layers", nargs="+", help="that are trained")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--samples", type=int)
    parser.add_argument("--out", type=Path, help="[default: out/qat_study/RECIPE]")
    given = parser.parse_args()
    given.out = given.out or Path("out/qat_study") / given.recipe.stem
    given.out.mkdir(parents=True, exist_ok=True)
    results = {name: exported(name, data, given) for name, data in variants(given).items()}
    runtimes = sorted({runtime for result in results.values() for runtime in result["kl"]})
    print("| method |", *(f"{runtime}, mean KL | recovered |" for runtime in runtimes), "CPU minutes |")
    print("| --- |", "--- |" * (2 * len(runtimes) + 1))
    for name, result in results.items():
        start = results[name.removesuffix(", trained")]
        cells = []
        for runtime in runtimes:
            gone = 1 - result["kl"][runtime] / start["kl"][runtime]
            cells += [f"{result['kl'][runtime]:.4f}", "" if result is start else f"{gone:.0%}"]
        print("|", " | ".join([name, *cells, f"{result['cpu_minutes']:.1f}"]), "|")


if __name__ == "__main__":
    main()
