"""The part of a recipe's format that asks for quantisation-aware training."""

from __future__ import annotations

from exporter.recipe.fields import (
    Boolean,
    Choice,
    Field,
    Integer,
    ListOf,
    Located,
    ModulePattern,
    Number,
    Record,
)
from exporter.recipe.types import TRAINED_BY, Training

_DEFAULT = Training()

QAT = Record(
    lambda node, **values: Training(place=node.place, **values),
    {
        "by": Field(
            Choice(TRAINED_BY),
            "block: each block of a language model by what it gives, one after the other; model: all layers at once by "
            "what the model says; block for text-generation and model for module where it is not given",
        ),
        "layers": Field(
            ListOf(Located(ModulePattern())),
            "which of the quantised layers are trained; where it is not given all, by block those in blocks",
        ),
        "weights": Field(Boolean(), "false: scales only, integers stay", default=_DEFAULT.weights),
        "steps": Field(
            Integer(1, 1_000_000),
            "each sees one window of text, or one sample of a module; by block: for each block",
            default=_DEFAULT.steps,
        ),
        "learning_rate": Field(
            Number(1e-6, 1),
            "of weights, in steps between two integers; 0.015 by block and 0.001 by model where it is not given",
        ),
        "scale_rate": Field(
            Number(0, 1),
            "of scales, as a share of each; those of static layers stay",
            default=_DEFAULT.scale_rate,
        ),
        "samples": Field(
            Integer(1, 1_000_000),
            "texts, pictures …, drawn as those of calibration",
            default=_DEFAULT.samples,
        ),
        "seed": Field(Integer(0, 2**31 - 1), "order of the samples", default=_DEFAULT.seed),
        "patience": Field(
            Integer(1, 1000),
            "by model: evaluations of held-out samples without gain until it stops; 2 where it is not given",
        ),
    },
)
