"""`qexport bench` and `qexport evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from exporter.commands.common import (
    PATH,
    console,
    json_option,
    load,
    model_option,
    recipe_option,
)
from exporter.options import Counts, Names

if TYPE_CHECKING:
    pass


@click.command()
@click.argument("artifact", type=PATH)
@click.option(
    "--threads",
    type=click.IntRange(0),
    default=0,
    help="Threads for every runtime. [default: all that there are]",
)
@click.option("--runtime", multiple=True, metavar="NAME", help="Only this one; may be repeated.")
@click.option(
    "--repeats", type=click.IntRange(1), default=5, show_default=True, help="Runs of each measurement."
)
@click.option(
    "--past",
    type=Counts(),
    default="16,128,512,2048",
    show_default=True,
    help="Decode behind so many tokens.",
)
@click.option(
    "--prefill", type=Counts(), default="64,256,1024", show_default=True, help="Prompts of so many tokens."
)
@click.option("--quick", is_flag=True, help="One short run of everything: shows that it works, not how fast.")
@json_option
def bench(
    artifact: Path,
    threads: int,
    runtime: tuple[str, ...],
    repeats: int,
    past: tuple[int, ...],
    prefill: tuple[int, ...],
    quick: bool,
    as_json: bool,
) -> None:
    """Speed, memory and load time of ARTIFACT, a folder that qexport wrote, on this machine."""
    from exporter.benching import bench_artifact, render_bench
    from exporter.benchmarks.results import BenchSettings
    from exporter.progress import Stages

    settings = BenchSettings(
        threads=threads, repeats=repeats, past=past, prefill=prefill, runtimes=tuple(dict.fromkeys(runtime))
    )
    settings = settings.quick() if quick else settings
    with Stages(console()).stage("bench") as progress:
        result = bench_artifact(artifact, settings, progress)
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=1))
    else:
        console(stderr=False).print(render_bench(result))


@click.command()
@click.argument("artifact", type=PATH)
@recipe_option
@model_option
@click.option("--suites", type=Names(), help="Only these, with commas between.  [default: all]")
@click.option("--no-speed", is_flag=True, help="All but the speed suite, which wants a quiet machine.")
@click.option(
    "--items",
    type=click.IntRange(1),
    help="Of each suite, long texts a quarter of it.  [default: 9 to 50]",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Which examples are drawn."
)
@click.option(
    "--context",
    type=click.IntRange(256),
    default=2048,
    show_default=True,
    help="Tokens of a long text, at most.",
)
@click.option("--runtime", multiple=True, metavar="NAME", help="Only this one; may be repeated.")
@click.option("--out", "-o", type=PATH, metavar="FILE", help="The scorecard.  [default: DIR.evaluation.json]")
@json_option
def evaluate(
    artifact: Path,
    recipe: Path | None,
    model: str | None,
    suites: tuple[str, ...] | None,
    no_speed: bool,
    items: int | None,
    seed: int,
    context: int,
    runtime: tuple[str, ...],
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure the files of ARTIFACT, a language model, against the float model: text in nine languages, multiple-choice
    questions, code, refusals, long texts, speed. Writes a scorecard as JSON and a page beside it."""
    from exporter.evaluation.measuring import measure
    from exporter.evaluation.rendering import render_scorecard, write_pages
    from exporter.evaluation.settings import SUITES, EvaluationSettings
    from exporter.progress import Stages, in_words

    asked = tuple(name for name in suites or SUITES if not (no_speed and name == "speed"))
    settings = EvaluationSettings(asked, items, seed, context, runtimes=tuple(dict.fromkeys(runtime)))
    own = load(recipe, None) if recipe else None
    out = out or Path(f"{artifact.resolve()}.evaluation.json")
    shown = console()
    with Stages(shown).stage("evaluate") as progress:
        scorecard = measure(artifact, settings, own, model, in_words(progress, shown))
    page = write_pages(scorecard, out)
    shown.print(f"written: {out}, {page.name}", soft_wrap=True)
    if as_json:
        click.echo(json.dumps(scorecard.to_json(), indent=1))
    else:
        console(stderr=False).print(render_scorecard(scorecard))
