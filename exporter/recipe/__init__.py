"""Recipes: the one strict YAML reader, the format's JSON Schema, and patterns over module paths."""

from exporter.recipe.patterns import Pattern, PatternError, parse_pattern
from exporter.recipe.reader import load_recipe, parse_recipe, recipe_json_schema
from exporter.recipe.types import (
    Calibration,
    DataSource,
    LoweringGate,
    ModelSource,
    Parity,
    ParityData,
    PictureSet,
    Preprocessing,
    QuantisationGate,
    Recipe,
    Rule,
    SchemeEntry,
    Share,
    SpeechSet,
    TaskGate,
    TextSet,
    Training,
)

__all__ = [
    "Calibration",
    "DataSource",
    "LoweringGate",
    "ModelSource",
    "Parity",
    "ParityData",
    "Pattern",
    "PatternError",
    "PictureSet",
    "Preprocessing",
    "QuantisationGate",
    "Recipe",
    "Rule",
    "SchemeEntry",
    "Share",
    "SpeechSet",
    "TaskGate",
    "TextSet",
    "Training",
    "load_recipe",
    "parse_pattern",
    "parse_recipe",
    "recipe_json_schema",
]
