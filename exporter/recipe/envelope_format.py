"""The part of a recipe's format that says what a release must be."""

from __future__ import annotations

from exporter.recipe.fields import Choice, Field, Integer, ListOf, Number, Record
from exporter.recipe.types import STEPS, Envelope, Step


def _envelope(node: object, ladder: tuple[Step, ...] = STEPS, **values: object) -> Envelope:
    return Envelope(place=node.place, ladder=ladder, **values)  # type: ignore[attr-defined,arg-type]


ENVELOPE = Record(
    _envelope,
    {
        "max_kl": Field(Number(0, 100), "largest mean KL divergence to the float model, nats per token"),
        "min_top1": Field(Number(0, 1), "smallest share of tokens with the same most likely next token"),
        "max_ppl_ratio": Field(Number(1, 1000), "largest perplexity over the float model's"),
        "max_mb": Field(Number(0.001, 1e6), "largest size of a target's model files, 10^6 bytes"),
        "min_accuracy_ratio": Field(
            Number(0, 10), "right answers over the float model's, of HellaSwag, TruthfulQA and GSM8K"
        ),
        "max_safety_shift": Field(
            Number(0, 1),
            "largest share of harmful requests that the float model refuses and the files do not",
        ),
        "min_tokens_per_second": Field(Number(0, 1e6), "slowest decoding, on this machine"),
        "ladder": Field(
            ListOf(Choice(STEPS)),
            "what is tried in turn when the recipe as written misses it",
            default=[*STEPS],
        ),
        "items": Field(Integer(1, 1_000_000), "questions of each suite; none: as qexport evaluate has them"),
    },
)
