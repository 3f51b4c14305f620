"""What a task's user would notice: accuracy, word errors, neighbours, labels, generated text.

Each figure compares the float model and one runtime on the same examples, over all of them and for each
group (a language) where there are several, with a paired 95 % interval of the difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from exporter.parity.intervals import bootstrap_difference, mcnemar
from exporter.parity.words import edit_distance, words

FloatArray = NDArray[np.float32]
Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Groups = Sequence[str | None]
Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Metric:
    """One figure, of one group of examples."""

    name: str  # top-1, word error rate, cosine …
    group: str | None  # None: all examples
    items: int  # examples (tokens, for labels of tokens)
    candidate: float
    reference: float | None = None  # None where the figure itself compares the two (agreement, cosine)
    interval: tuple[float, float] | None = (
        None  # 95 %, of the difference, or of the figure without a reference
    )
    p_value: float | None = None  # McNemar, that both are right equally often
    better: Better = "higher"
    detail: str = ""  # counts in words: "2 of 63 words wrong, float 2"

    @property
    def difference(self) -> float | None:
        """Candidate less reference."""
        return None if self.reference is None else self.candidate - self.reference

    @property
    def worse(self) -> bool:
        """Whether the whole interval of the difference lies on the wrong side of nothing."""
        if self.reference is None or self.interval is None:
            return False
        return self.interval[1] < 0 if self.better == "higher" else self.interval[0] > 0


@dataclass(frozen=True)
class Disagreement:
    """One example on which the two models part."""

    example: str  # its file, or its beginning
    reference: str
    candidate: str
    target: str | None = None


@dataclass(frozen=True)
class TaskComparison:
    """One runtime against the float model."""

    candidate: str  # e.g. "onnxruntime"
    reference: str  # e.g. "float"
    task: str
    data: str  # what was measured on, in words
    metrics: tuple[Metric, ...]
    disagreements: tuple[Disagreement, ...] = ()

    def find(self, name: str, group: str | None = None) -> Metric:
        """The figure of that name. Raises KeyError where there is none."""
        for metric in self.metrics:
            if (metric.name, metric.group) == (name, group):
                return metric
        raise KeyError((name, group))


@dataclass(frozen=True)
class TaskReport:
    """All runtimes."""

    comparisons: tuple[TaskComparison, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data for json.dumps; numbers that JSON lacks become "inf", "-inf" or "nan"."""
        data: dict[str, Any] = _plain(asdict(self))
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TaskReport:
        """Inverse of to_json. Raises KeyError or TypeError for data that to_json did not write."""
        return cls(
            tuple(
                TaskComparison(
                    **{
                        **entry,
                        "metrics": tuple(_metric(metric) for metric in entry["metrics"]),
                        "disagreements": tuple(Disagreement(**d) for d in entry["disagreements"]),
                    }
                )
                for entry in data["comparisons"]
            ),
            tuple(data["notes"]),
        )


def classification(
    reference: FloatArray,
    candidate: FloatArray,
    labels: NDArray[np.int64] | None = None,
    groups: Groups = (),
    seed: int = 0,
) -> tuple[Metric, ...]:
    """Top-1 and top-5 accuracy where labels are known, and agreement with the float model's top-1.

    Logits are (n, classes), labels (n,). Of equal logits the lower class number wins, in both models.
    Raises ValueError where shapes differ or logits are not finite.
    """
    _check_pair(reference, candidate)
    agree = _top(reference, 1)[:, 0] == _top(candidate, 1)[:, 0]
    makers: list[Callable[[NDArray[np.intp], str | None], Metric]] = []
    if labels is not None:
        if len(labels) != len(reference):
            raise ValueError(f"{len(labels)} labels for {len(reference)} examples")
        # With five classes or fewer, everything is in the top five.
        for k in (1, 5) if reference.shape[1] > 5 else (1,):
            right = [(_top(logits, k) == labels[:, None]).any(axis=1) for logits in (reference, candidate)]
            makers.append(_paired_right(f"top-{k}", right[0], right[1], seed))
    makers.append(_share("agreement", agree, seed))
    return _by_group(makers, len(reference), groups)


def label_agreement(
    reference: NDArray[np.int64],
    candidate: NDArray[np.int64],
    labels: NDArray[np.int64] | None = None,
    groups: Groups = (),
    seed: int = 0,
) -> tuple[Metric, ...]:
    """The same for (n,) labels that models chose: of texts, or of tokens, padding left out by the caller."""
    if len(reference) != len(candidate):
        raise ValueError(f"{len(reference)} labels of the reference, {len(candidate)} of the candidate")
    makers = []
    if labels is not None:
        makers.append(_paired_right("accuracy", reference == labels, candidate == labels, seed))
    makers.append(_share("agreement", reference == candidate, seed))
    return _by_group(makers, len(reference), groups)


def transcription(
    reference: Sequence[str],
    candidate: Sequence[str],
    targets: Sequence[str] | None = None,
    groups: Groups = (),
    seed: int = 0,
) -> tuple[Metric, ...]:
    """Word error rates against what was said, where it is known, and of the candidate against the float model.

    A rate is errors over words of all clips together. `groups` are languages: those that are written without
    spaces are counted by characters.
    """
    languages = list(groups) or [None] * len(reference)
    pairs = list(zip(reference, candidate, languages, strict=True))
    makers = []
    if targets is not None:
        if len(targets) != len(reference):
            raise ValueError(f"{len(targets)} transcripts for {len(reference)} clips")
        wanted = [words(text, language) for text, language in zip(targets, languages, strict=True)]
        said = zip(wanted, pairs, strict=True)
        errors = np.array(
            [[edit_distance(w, words(text, lang)) for text in (a, b)] for w, (a, b, lang) in said], np.float64
        ).reshape(-1, 2)
        makers.append(
            _error_rate("word error rate", errors, np.array([len(w) for w in wanted], np.float64), seed)
        )
    own = [words(a, language) for a, _, language in pairs]
    against = [edit_distance(w, words(b, lang)) for w, (_, b, lang) in zip(own, pairs, strict=True)]
    alone = np.stack([np.zeros(len(own)), np.array(against, np.float64)], axis=1)
    lengths = np.array([len(w) for w in own], np.float64)
    makers.append(_error_rate("words unlike float", alone, lengths, seed, compared=False))
    return _by_group(makers, len(reference), groups)


def embeddings(
    reference: FloatArray, candidate: FloatArray, groups: Groups = (), seed: int = 0
) -> tuple[Metric, ...]:
    """How close (n, width) vectors stay to the float model's, and whether they find the same neighbours.

    cosine: mean of cos(float, candidate); lowest cosine: its minimum. recall@1: share of examples whose
    nearest other example is the float model's. rank correlation: Spearman's, of each example's similarities
    to all others, averaged. Raises ValueError where shapes differ or a vector is zero or not finite.
    """
    _check_pair(reference, candidate)
    ours, theirs = _unit(candidate), _unit(reference)
    cosine = np.einsum("ij,ij->i", ours, theirs)
    makers: list[Callable[[NDArray[np.intp], str | None], Metric]] = [
        _mean("cosine", cosine, seed),
        lambda rows, group: Metric("lowest cosine", group, len(rows), float(cosine[rows].min())),
    ]
    if len(reference) > 2:
        same, correlation = _neighbours(theirs, ours)
        makers += [_share("recall@1", same, seed), _mean("rank correlation", correlation, seed)]
    return _by_group(makers, len(reference), groups)


def generated(
    reference: Sequence[str],
    candidate: Sequence[str],
    targets: Sequence[str] | None = None,
    groups: Groups = (),
    seed: int = 0,
) -> tuple[Metric, ...]:
    """Exact match of generated texts, white space at the ends aside: with what was wanted, and with the float
    model's text; and the share of its words that is the same up to the first difference."""
    pairs = [(a.strip(), b.strip()) for a, b in zip(reference, candidate, strict=True)]
    makers = []
    if targets is not None:
        wanted = [text.strip() for text in targets]
        right = [
            np.array([pair[i] == w for pair, w in zip(pairs, wanted, strict=True)], bool) for i in (0, 1)
        ]
        makers.append(_paired_right("exact match", right[0], right[1], seed))
    makers.append(_share("same text as float", np.array([a == b for a, b in pairs], bool), seed))
    makers.append(_mean("same beginning", np.array([_beginning(a, b) for a, b in pairs], np.float64), seed))
    return _by_group(makers, len(pairs), groups)


def _beginning(reference: str, candidate: str) -> float:
    """Share of the longer text's words that both begin with."""
    a, b = reference.split(), candidate.split()
    same = 0
    while same < min(len(a), len(b)) and a[same] == b[same]:
        same += 1
    return same / max(len(a), len(b)) if a or b else 1.0


def _by_group(
    makers: Sequence[Callable[[NDArray[np.intp], str | None], Metric]], n: int, groups: Groups
) -> tuple[Metric, ...]:
    """Each figure over all examples, then for each group where there are at least two."""
    if groups and len(groups) != n:
        raise ValueError(f"{len(groups)} groups for {n} examples")
    if n == 0:
        return ()
    rows: list[tuple[NDArray[np.intp], str | None]] = [(np.arange(n), None)]
    names = sorted({group for group in groups if group})
    if len(names) > 1:
        rows += [(np.array([i for i, g in enumerate(groups) if g == name]), name) for name in names]
    return tuple(make(members, name) for members, name in rows for make in makers)


def _paired_right(
    name: str, reference: BoolArray, candidate: BoolArray, seed: int
) -> Callable[[NDArray[np.intp], str | None], Metric]:
    """Shares of right answers, and whether they differ."""

    def make(rows: NDArray[np.intp], group: str | None) -> Metric:
        a, b = reference[rows], candidate[rows]
        return Metric(
            name,
            group,
            len(rows),
            float(b.mean()),
            float(a.mean()),
            bootstrap_difference(a.astype(np.float64), b.astype(np.float64), seed=seed),
            mcnemar(a, b),
            detail=f"{b.sum():,} of {len(rows):,} right, float {a.sum():,}",
        )

    return make


def _share(name: str, same: BoolArray, seed: int) -> Callable[[NDArray[np.intp], str | None], Metric]:
    def make(rows: NDArray[np.intp], group: str | None) -> Metric:
        values = same[rows].astype(np.float64)
        interval = bootstrap_difference(np.zeros(len(rows)), values, seed=seed)
        detail = f"{same[rows].sum():,} of {len(rows):,}"
        return Metric(name, group, len(rows), float(values.mean()), interval=interval, detail=detail)

    return make


def _mean(name: str, values: Float64Array, seed: int) -> Callable[[NDArray[np.intp], str | None], Metric]:
    def make(rows: NDArray[np.intp], group: str | None) -> Metric:
        interval = bootstrap_difference(np.zeros(len(rows)), values[rows], seed=seed)
        return Metric(name, group, len(rows), float(values[rows].mean()), interval=interval)

    return make


def _error_rate(
    name: str, errors: Float64Array, lengths: Float64Array, seed: int, compared: bool = True
) -> Callable[[NDArray[np.intp], str | None], Metric]:
    """(n, 2) errors of reference and candidate, (n,) words."""

    def make(rows: NDArray[np.intp], group: str | None) -> Metric:
        a, b = errors[rows].T
        total = float(lengths[rows].sum())
        rates = [float(e.sum()) / total if total else (math.inf if e.sum() else 0.0) for e in (a, b)]
        interval = bootstrap_difference(a, b, lengths[rows], seed) if total else None
        float_too = f", float {a.sum():.0f}" if compared else ""
        return Metric(
            name,
            group,
            len(rows),
            rates[1],
            rates[0] if compared else None,
            interval,
            better="lower",
            detail=f"{b.sum():.0f} of {total:,.0f} words{float_too}",
        )

    return make


def _neighbours(reference: Float64Array, candidate: Float64Array) -> tuple[BoolArray, Float64Array]:
    """(n, width) unit vectors -> whether the nearest other is the same, and Spearman's correlation, (n,) each."""
    n = len(reference)
    same, correlation = np.zeros(n, bool), np.zeros(n)
    for i in range(n):  # a row at a time: n x n similarities of thousands of texts need not be held
        others = np.arange(n) != i
        a, b = reference[others] @ reference[i], candidate[others] @ candidate[i]
        same[i] = a.argmax() == b.argmax()
        correlation[i] = _pearson(_ranks(a), _ranks(b))
    return same, correlation


def _ranks(values: Float64Array) -> Float64Array:
    """Ranks from 0; equal values share the mean of theirs."""
    ordered, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    del ordered
    ends = np.cumsum(counts)
    ranks: Float64Array = (ends - (counts + 1) / 2)[inverse]
    return ranks


def _pearson(a: Float64Array, b: Float64Array) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float(a @ a) * float(b @ b))
    if scale == 0:  # all similarities equal in one of them: no order to keep
        return 1.0 if not (a.any() or b.any()) else 0.0
    return float(a @ b) / scale


def _top(logits: FloatArray, k: int) -> NDArray[np.intp]:
    """(n, k) classes of the largest logits, largest first, equal ones by their number."""
    return np.argsort(-logits.astype(np.float64), axis=1, kind="stable")[:, :k]


def _unit(vectors: FloatArray) -> Float64Array:
    wide = vectors.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    if not (lengths > 0).all():
        raise ValueError(f"vector {int((lengths[:, 0] == 0).argmax())} is zero and has no direction")
    unit: Float64Array = wide / lengths
    return unit


def _check_pair(reference: FloatArray, candidate: FloatArray) -> None:
    if reference.shape != candidate.shape or reference.ndim != 2:
        raise ValueError(f"the reference's values are {reference.shape}, the candidate's {candidate.shape}")
    for who, values in (("reference", reference), ("candidate", candidate)):
        if not np.isfinite(values).all():
            raise ValueError(
                f"{who}: example {int((~np.isfinite(values)).any(axis=1).argmax())} has values not finite"
            )


def _metric(entry: Mapping[str, Any]) -> Metric:
    numbers = {
        key: None if entry[key] is None else float(entry[key])
        for key in ("candidate", "reference", "p_value")
    }
    interval = entry["interval"]
    ends = None if interval is None else (float(interval[0]), float(interval[1]))
    return Metric(**{**entry, **numbers, "interval": ends})


def _plain(value: Any) -> Any:
    """Tuples to lists, and floats that JSON cannot hold to strings that float() reads again."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
