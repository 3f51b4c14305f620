"""`qexport search`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from exporter.commands.common import (
    PATH,
    console,
    json_option,
    load,
    model_option,
    recipe_option,
    required,
)


@click.command()
@recipe_option
@model_option
@click.option("--target-mb", type=float, metavar="N", help="MB that each target's model file may have.")
@click.option("--target-bpw", type=float, metavar="B", help="Bits a weight, scales counted.")
@click.option(
    "--max-kl", type=float, metavar="K", help="Predicted KL divergence to the float model, nats per token."
)
@click.option(
    "--out", "-o", type=PATH, metavar="FILE", help="The new recipe. [default: beside R, named by the goal]"
)
@click.option(
    "--beside", type=PATH, metavar="FILE", help="Rows of scripts/quality.py: peers' files, into the picture."
)
@click.option(
    "--check",
    is_flag=True,
    help="Measure the true KL of the mix and of R's own rules; takes a minute or two.",
)
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@json_option
def search(
    recipe: Path | None,
    model: str | None,
    target_mb: float | None,
    target_bpw: float | None,
    max_kl: float | None,
    out: Path | None,
    beside: Path | None,
    check: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Find the best mix of R's schemes for a size, or the smallest for a loss, and write it as a recipe.

    What each layer loses in each scheme is measured once, which takes minutes; another budget then takes seconds.
    """
    from exporter.pipeline import plan_recipe
    from exporter.progress import Stages
    from exporter.searching import Goal, curve_picture, measured_beside, render_found, write_new
    from exporter.searching import search as search_for

    try:
        goal = Goal(target_mb, target_bpw, max_kl)
    except ValueError as problem:
        raise click.UsageError(str(problem)) from None
    given = load(required(recipe, "search"), model)
    path = out or given.path.with_name(f"{given.path.stem}_{goal.file_words}.yaml")
    if path.exists() and not force:
        raise click.UsageError(
            f"{path}: is there already; name another with --out, or replace it with --force"
        )
    opened, planned = plan_recipe(given)
    weights: Any = opened.identity()["weights_sha256"]
    peers = measured_beside(beside, weights.values()) if beside else {}
    found = search_for(given, opened, planned, goal, Stages(console()), check)
    write_new(path, found.recipe, force)
    picture = path.with_suffix(".svg")
    points = {f"all {name}": (megabytes, true) for name, (megabytes, _, true) in found.uniform.items()}
    points |= peers
    write_new(
        picture, curve_picture(found.curve, points, (max(found.megabytes.values()), found.loss)), force=True
    )
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=1))
    else:
        console(stderr=False).print(render_found(found, path, picture))
