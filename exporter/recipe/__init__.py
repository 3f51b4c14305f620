"""Recipes: the one strict YAML reader, the format's JSON Schema, and patterns over module paths."""

from exporter.recipe.patterns import Pattern, PatternError, parse_pattern
from exporter.recipe.reader import load_recipe, parse_recipe, recipe_json_schema
from exporter.recipe.types import (
    Calibration,
    LoweringGate,
    ModelSource,
    Parity,
    QuantisationGate,
    Recipe,
    Rule,
    SchemeEntry,
)

__all__ = [
    "Calibration",
    "LoweringGate",
    "ModelSource",
    "Parity",
    "Pattern",
    "PatternError",
    "QuantisationGate",
    "Recipe",
    "Rule",
    "SchemeEntry",
    "load_recipe",
    "parse_pattern",
    "parse_recipe",
    "recipe_json_schema",
]
