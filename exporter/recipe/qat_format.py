"""The part of a recipe's format that asks for quantisation-aware training."""

from __future__ import annotations

from exporter.recipe.fields import Boolean, Field, Integer, ListOf, Located, ModulePattern, Number, Record
from exporter.recipe.types import Training

_DEFAULT = Training()

QAT = Record(
    lambda node, **values: Training(place=node.place, **values),
    {
        "layers": Field(
            ListOf(Located(ModulePattern())),
            "which of the quantised layers are trained; all where it is not given",
        ),
        "weights": Field(Boolean(), "false: scales only, integers stay", default=_DEFAULT.weights),
        "steps": Field(
            Integer(1, 1_000_000),
            "each sees one window of text, or one sample of a module",
            default=_DEFAULT.steps,
        ),
        "learning_rate": Field(
            Number(1e-6, 1), "of weights, in steps between two integers", default=_DEFAULT.learning_rate
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
            "evaluations of held-out samples without gain until it stops",
            default=_DEFAULT.patience,
        ),
    },
)
