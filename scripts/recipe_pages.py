#!/usr/bin/env python3
"""Write docs/recipes/NAME.md for shipped recipes: what the recipe says of itself, and what qexport really printed.

    .venv/bin/python scripts/recipe_pages.py                         every recipe whose model is there
    .venv/bin/python scripts/recipe_pages.py minilm_int8

Files go to out/NAME, as they do for a person who types the commands of the page. scripts/fetch_models.py and
scripts/fetch_data.py bring models and data.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from exporter.artifacts import read_manifest
from exporter.benchmarks.machine import processor

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs/recipes"
QEXPORT = (sys.executable, "-c", "from exporter.cli import main; main()")
WIDTH = "100"
PAGE = """# {name}

{about}

Recipe: [recipes/{name}.yaml](../../recipes/{name}.yaml). This page was written by
`.venv/bin/python scripts/recipe_pages.py {name}` on: {machine}.

## The plan

    $ qexport plan --recipe recipes/{name}.yaml

{plan}

## The job

    $ qexport --recipe recipes/{name}.yaml

{job}

{tasks}## The ladder of parity

    $ qexport verify out/{name}

{ladder}

## The files

{files}
"""
TASKS = """## What its user would notice

Float against each runtime. In brackets the 95 % interval of the difference to float, or of the figure itself where it
compares the two.

{tables}

"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    names = parser.parse_args().names or sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
    os.chdir(ROOT)
    PAGES.mkdir(parents=True, exist_ok=True)
    failed = [name for name in names if not write_page(name)]
    return 1 if failed else 0


def write_page(name: str) -> bool:
    """False, with what qexport said, where the job did not end well."""
    print(f"{name} …", file=sys.stderr, flush=True)
    recipe = f"recipes/{name}.yaml"
    plan = run("plan", "--recipe", recipe)
    job = run("--recipe", recipe, "--force")
    for result in (plan, job):
        if result.returncode:
            print(f"{name}: no page: {result.stderr.strip().splitlines()[-1]}", file=sys.stderr)
            return False
    page = render(name, plan.stdout, job.stdout)
    (PAGES / f"{name}.md").write_text(page, encoding="utf-8", newline="\n")
    return True


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """qexport as a person starts it, in a terminal of fixed width."""
    return subprocess.run(
        [*QEXPORT, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": WIDTH},
    )


def render(name: str, plan: str, job: str) -> str:
    """The page."""
    from rich.console import Console

    from exporter.summary import render_parity

    summary = read_manifest(Path("out") / name)["summary"]
    console = Console(width=int(WIDTH), record=True, file=open(os.devnull, "w"))  # noqa: SIM115  closed with us
    console.print(render_parity(summary["parity"]))
    about = [
        line.removeprefix("#").strip()
        for line in summary["recipe"]["text"].splitlines()
        if line.startswith("#")
    ]
    tasks = (summary.get("tasks") or {}).get("comparisons") or []
    return PAGE.format(
        name=name,
        about=prose(about),
        machine=processor(),
        plan=indented(plan),
        job=indented(job),
        tasks=TASKS.format(tables="\n\n".join(task_tables(tasks))) if tasks else "",
        ladder=indented(console.export_text()),
        files=file_list(summary["targets"]),
    )


def prose(lines: list[str]) -> str:
    """The recipe's own comment, without the line for editors and the commands, which the page has."""
    kept = [
        line for line in lines if not line.startswith(("yaml-language-server", "qexport --recipe", "python "))
    ]
    return "\n".join(kept).strip()


def task_tables(tasks: list[dict[str, Any]]) -> list[str]:
    """One for each set of examples."""
    sets = dict.fromkeys(task["data"] for task in tasks)
    return [f"On {data}:\n\n{task_table([t for t in tasks if t['data'] == data])}" for data in sets]


def task_table(tasks: list[dict[str, Any]]) -> str:
    """A line for each figure, a column for each runtime."""
    titles = ["figure", "of", "examples", "float", *(task["candidate"] for task in tasks)]
    lines = [titles, ["---"] * len(titles)]
    for index, metric in enumerate(tasks[0]["metrics"]):
        cells = [cell(task["metrics"][index]) for task in tasks]
        group = metric["group"] or "all"
        lines.append([metric["name"], group, str(metric["items"]), number(metric["reference"]), *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(metric: dict[str, Any]) -> str:
    """The figure, its interval, and the counts behind it."""
    interval = ""
    if metric["interval"] is not None:
        low, high = (float(end) for end in metric["interval"])
        interval = (
            f" ({low:+.3f} to {high:+.3f})"
            if metric["reference"] is not None
            else f" ({low:.3f} to {high:.3f})"
        )
    detail = f"; {metric['detail']}" if metric["detail"] else ""
    return number(metric["candidate"]) + interval + detail


def number(value: Any) -> str:
    """A dash where there is none."""
    return "–" if value is None else f"{float(value):.4f}"


def indented(text: str) -> str:
    """A block of code."""
    return "\n".join(f"    {line}".rstrip() for line in text.strip("\n").splitlines())


def file_list(targets: dict[str, Any]) -> str:
    """Every file with its size."""
    lines = []
    for target in targets.values():
        lines += [f"- {target['folder']}/{file['path']}: {file['bytes']:,} bytes" for file in target["files"]]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
