"""Options that several commands have, and what they do with them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

    from exporter.recipe import Recipe

PATH = click.Path(path_type=Path, readable=False)  # whoever opens it says what is wrong
recipe_option = click.option("--recipe", "-r", type=PATH, metavar="R", help="The recipe, a YAML file.")
model_option = click.option("--model", "-m", metavar="M", help="A model source in place of the recipe's.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")


def given_options(context: click.Context) -> list[str]:
    """Options of the whole job that were typed, --debug aside."""
    source = click.core.ParameterSource.COMMANDLINE
    return [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name
        and parameter.name != "debug"
        and context.get_parameter_source(parameter.name) is source
    ]


def required(recipe: Path | None, command: str) -> Path:
    """The recipe. Raises click.UsageError where none was named."""
    if recipe is None:
        raise click.UsageError(f"name a recipe: qexport {command} --recipe recipes/mixed_int4.yaml")
    return recipe


def load(recipe: Path, model: str | None) -> Recipe:
    """The recipe, with another model where one was named."""
    from exporter.recipe import load_recipe

    loaded = load_recipe(recipe)
    return replace(loaded, model=replace(loaded.model, source=model)) if model else loaded


def console(stderr: bool = True) -> Console:
    """Where a person reads, as wide as what is written there needs."""
    from rich.console import Console

    found = Console(stderr=stderr, highlight=False)
    if not found.is_terminal and "COLUMNS" not in os.environ:
        found.width = 120  # a log or a pipe has no width of its own; tables need about a hundred
    return found
