"""The only reader of recipes."""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from exporter.errors import RecipeError
from exporter.recipe.document import MapNode, Node, Problems, decode, parse, plain, read_bytes
from exporter.recipe.fields import Invalid, JsonSchema
from exporter.recipe.format import recipe_record
from exporter.recipe.types import Recipe


def load_recipe(path: Path) -> Recipe:
    """Read a recipe file. Raises RecipeError with every problem found, each at its line and column."""
    content = read_bytes(path)
    return parse_recipe(content, path)


def parse_recipe(content: bytes, path: Path) -> Recipe:
    """Read a recipe from its bytes; `path` stands in messages, and text files count from its folder."""
    text = decode(content, path)
    problems: Problems = []
    root = parse(text, path, problems)
    try:
        draft = recipe_record(_scheme_names(root)).read(root, "the recipe", problems)
    except Invalid:
        raise RecipeError(problems) from None
    if problems:  # duplicate keys
        raise RecipeError(problems)
    schemes = {name: entry.named(name) for name, entry in draft.schemes.items()}
    return Recipe(
        name=draft.name,
        model=draft.model,
        schemes=schemes,
        rules=tuple(rule.resolved(index, schemes) for index, rule in enumerate(draft.rules)),
        targets=tuple(target for target, _ in draft.targets),
        path=path,
        text=text,
        sha256=hashlib.sha256(content).hexdigest(),
        rules_place=draft.rules_place,
        target_places=tuple(place for _, place in draft.targets),
        on_unsupported=draft.on_unsupported,
        calibration=draft.calibration,
        qat=draft.qat,
        parity=draft.parity,
        envelope=draft.envelope,
    )


def recipe_data(recipe: Recipe) -> dict[str, Any]:
    """What the recipe's text says, as plain dicts, lists and values."""
    found = plain(parse(recipe.text, recipe.path, []))
    assert isinstance(found, dict)
    return found


def changed_recipe(recipe: Recipe, data: Mapping[str, Any], comment: str) -> Recipe:
    """The recipe that `data` spells, in the place of this one; a model that took the place of the text's own stays.

    Raises RecipeError as load_recipe.
    """
    lines = textwrap.wrap(comment, 110, initial_indent="# ", subsequent_indent="# ")
    text = (
        "\n".join(lines) + "\n" + yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True, width=110)
    )
    return same_model(parse_recipe(text.encode(), recipe.path), recipe)


def same_model(recipe: Recipe, other: Recipe) -> Recipe:
    """The recipe with the other one's model source."""
    return replace(recipe, model=replace(recipe.model, source=other.model.source))


def recipe_json_schema() -> JsonSchema:
    """The format as JSON Schema (draft 7, which editors know best)."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "qexport recipe",
        "description": "One recipe: which model, how each layer is stored, for which mobile runtimes.",
        **recipe_record(None).json_schema(),
    }


def _scheme_names(root: Node) -> tuple[str, ...]:
    """Names under `schemes`, valid or not, so that a rule is not blamed for its scheme's mistake."""
    entry = root.entries.get("schemes") if isinstance(root, MapNode) else None
    return tuple(entry.node.entries) if entry and isinstance(entry.node, MapNode) else ()
