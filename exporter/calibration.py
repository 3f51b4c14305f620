"""What a recipe's calibration data cover, for the person who has to trust what is measured on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from exporter.folders import cache_folder
from exporter.models.loading import Model
from exporter.models.python_module import PythonModule
from exporter.recipe import Recipe
from exporter.samples.audio import Clip, read_wav
from exporter.samples.coverage import Coverage, language_warnings, measure
from exporter.samples.drawing import draw
from exporter.samples.files import Sample
from exporter.samples.images import Pixels, read_picture
from exporter.samples.text import read_text


def coverage_of(recipe: Recipe, model: Model, warnings: Sequence[str] = ()) -> Coverage | None:
    """The table over the drawn samples; None for a recipe without any, and for tensors of a Python function.

    Samples are read one at a time. `warnings` are those of what was measured on them. Raises QexportError for data
    that cannot be read.
    """
    given = recipe.calibration
    if given is None or given.python:
        return None
    drawn = draw(given, cache_folder())
    unlike = language_warnings(recipe.model.languages, drawn.samples)
    return measure(
        drawn,
        _contents(drawn.samples),
        _token_counter(model) if given.text else None,
        given.languages,
        given.topics,
        (*unlike, *warnings),
    )


def _contents(samples: Sequence[Sample]) -> Iterator[str | Pixels | Clip]:
    for sample in samples:
        if sample.medium == "text":
            yield read_text(sample)
        elif sample.medium == "image":
            yield read_picture(sample.path)
        else:
            yield read_wav(sample.path)


def _token_counter(model: Model) -> Callable[[str], int] | None:
    """How long a text is to the model."""
    if isinstance(model, PythonModule):
        return None
    tokenizer = model.tokenizer()
    return lambda text: len(tokenizer(text)["input_ids"])
