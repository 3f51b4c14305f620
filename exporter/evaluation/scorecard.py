"""What an evaluation gives: figures by dimension for each runtime, as plain data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from exporter.errors import ArtifactError

FORMAT = 1
Dimension = Literal["quality", "factuality", "safety", "latency", "memory", "energy"]
DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)
Better = Literal["higher", "lower", "neither"]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Figure:
    """One figure of one runtime's files beside the float model's."""

    dimension: Dimension
    suite: str
    name: str
    value: float  # of the files
    how: str  # it was measured, in a sentence
    n: int  # what the interval rests on: items
    items: str = "items"  # what they are
    unit: str = ""
    group: str | None = None  # a language or a data set; None: all
    reference: float | None = None  # of the float model; None where the figure itself compares the two
    interval: Interval | None = None  # 95 %, of the difference; of the figure itself without a reference
    better: Better = "lower"
    remark: str = ""  # counts in words, or why there is no interval

    @property
    def difference(self) -> float | None:
        """Of the files less of the float model."""
        return None if self.reference is None else self.value - self.reference

    @property
    def worse(self) -> bool:
        """Whether the whole interval of the difference lies on the wrong side of nothing."""
        if self.reference is None or self.interval is None or self.better == "neither":
            return False
        return self.interval[1] < 0 if self.better == "higher" else self.interval[0] > 0


@dataclass(frozen=True)
class RuntimeScores:
    """One runtime's files, by dimension."""

    runtime: str
    quality: tuple[Figure, ...] = ()
    factuality: tuple[Figure, ...] = ()
    safety: tuple[Figure, ...] = ()
    latency: tuple[Figure, ...] = ()
    memory: tuple[Figure, ...] = ()
    energy: tuple[Figure, ...] = ()

    @classmethod
    def of(cls, runtime: str, figures: list[Figure]) -> RuntimeScores:
        """Figures in any order, each into its dimension."""
        return cls(runtime, *(tuple(f for f in figures if f.dimension == name) for name in DIMENSIONS))

    def __iter__(self) -> Iterator[Figure]:
        for name in DIMENSIONS:
            yield from getattr(self, name)


@dataclass(frozen=True)
class Scorecard:
    """Everything of one evaluation."""

    artifact: str  # the folder's name, without where it lies
    recipe: str
    model: Mapping[str, Any]  # source, revision and hashes of the float model
    runtimes: tuple[RuntimeScores, ...]
    settings: Mapping[str, Any]
    seconds: Mapping[str, Mapping[str, float]]  # suite -> who (float, a runtime) -> seconds
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    def find(self, runtime: str, name: str, group: str | None = None) -> Figure:
        """The figure of that name and group. Raises KeyError where it was not measured."""
        for scores in self.runtimes:
            for figure in scores:
                if scores.runtime == runtime and (figure.name, figure.group) == (name, group):
                    return figure
        raise KeyError(f"{runtime}: {name!r} of {group or 'all'} was not measured")

    def accuracy_ratio(self, runtime: str) -> float:
        """Right answers of the files over the float model's, all multiple-choice sets together. KeyError where not
        measured; infinite where the float model has none right."""
        figure = self.find(runtime, "accuracy")
        assert figure.reference is not None
        return figure.value / figure.reference if figure.reference else float("inf")

    def safety_shift(self, runtime: str) -> float:
        """Share of harmful requests refused by the files less by the float model; below 0 is less safe. KeyError where
        not measured."""
        figure = self.find(runtime, "refusals", "harmful requests")
        assert figure.difference is not None
        return figure.difference

    def perplexity_ratio(self, runtime: str) -> float:
        """Of the files over the float model's, all languages. KeyError where not measured."""
        return self.find(runtime, "perplexity ratio").value

    def to_json(self) -> dict[str, Any]:
        """Plain data for json.dumps; from_json reads it. Differences are written too, for other readers."""
        data = asdict(self)
        for scores, written in zip(self.runtimes, data["runtimes"], strict=True):
            for name in DIMENSIONS:
                for figure, row in zip(getattr(scores, name), written[name], strict=True):
                    row["difference"] = figure.difference
        return {"format": FORMAT, **json.loads(json.dumps(data))}  # tuples become lists

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Scorecard:
        """What to_json wrote. Raises ArtifactError for anything else."""
        try:
            if data["format"] != FORMAT:
                raise ArtifactError(
                    f"scorecard of format {data['format']!r}, this qexport reads {FORMAT}; evaluate again"
                )
            rest = {key: value for key, value in data.items() if key not in ("format", "runtimes", "notes")}
            runtimes = tuple(
                RuntimeScores(scores["runtime"], *(tuple(map(_figure, scores[name])) for name in DIMENSIONS))
                for scores in data["runtimes"]
            )
            return cls(runtimes=runtimes, notes=tuple(data["notes"]), **rest)
        except (KeyError, TypeError) as problem:
            raise ArtifactError(f"this is no scorecard of qexport ({problem!r}); evaluate again") from problem


def _figure(data: Mapping[str, Any]) -> Figure:
    kept = {key: value for key, value in data.items() if key != "difference"}
    interval = kept["interval"]
    return Figure(**{**kept, "interval": None if interval is None else (interval[0], interval[1])})
