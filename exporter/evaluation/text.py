"""Running text in nine languages: KL divergence, changed most likely tokens, perplexity."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from exporter.evaluate import Window, windows
from exporter.evaluation.items import drawn
from exporter.evaluation.pairing import joined, own_interval
from exporter.evaluation.scorecard import Figure
from exporter.evaluation.session import Session
from exporter.parity import Positions
from exporter.parity.metrics import paired_half_width
from exporter.samples.shares import LANGUAGES, articles
from exporter.verify.material import begin_token

SUITE = "text"
WINDOW = 512  # tokens; the second half is scored, so that every position has at least 256 before it
STRIDE = (
    4  # every so many-th position: neighbours tell little that is new, and in ExecuTorch each costs a call
)


def measure_text(session: Session) -> dict[str, list[Figure]]:
    """Windows of Wikipedia's test share, one an article, as many in each language."""
    each = math.ceil(session.settings.count(SUITE) / len(LANGUAGES))
    length = min(WINDOW, session.context)
    found: dict[str, list[Window]] = {}
    for language in LANGUAGES:
        found[language] = _windows(session, language, each, length)
    cut = [window for own in found.values() for window in own]
    groups = [language for language, own in found.items() for _ in own]
    results = session.compare(SUITE, cut, STRIDE)
    how = (
        f"Wikipedia, test share, {each} windows of {length} tokens in each of {len(LANGUAGES)} languages, every "
        f"{STRIDE}th position of the second half of each"
    )
    return {name: _figures(own, groups, how, session.settings.seed) for name, own in results.items()}


def _windows(session: Session, language: str, count: int, length: int) -> list[Window]:
    """The first window of so many drawn articles that are long enough; a shorter one where none is."""
    tokenizer, begin = session.tokenizer, begin_token(session.tokenizer)
    every = list(articles(language, "test"))
    found: list[Window] = []
    for text in drawn(every, len(every), session.settings.seed):
        if len(found) == count:
            break
        ids = tokenizer(text, add_special_tokens=False).input_ids
        if len(ids) + (begin is not None) >= length:
            found += windows(ids[:length], length, begin, language).windows[:1]
    if len(found) < count:
        session.notes.append(f"text, {language}: {len(found)} windows, no more articles have {length} tokens")
    return found


def _figures(found: Sequence[Positions], groups: Sequence[str], how: str, seed: int) -> list[Figure]:
    """All languages, each one, and the worst."""
    figures = _of_group(found, None, how, seed)
    by_language = {}
    for language in dict.fromkeys(groups):
        own = [result for result, group in zip(found, groups, strict=True) if group == language]
        by_language[language] = _of_group(own, language, how, seed)
        figures += by_language[language]
    worst = max(by_language, key=lambda language: by_language[language][0].value)
    of_worst = by_language[worst][0]
    figures.append(
        Figure(
            "quality",
            SUITE,
            "mean KL of the worst language",
            of_worst.value,
            how,
            of_worst.n,
            of_worst.items,
            "nats",
            remark=f"it is {worst}",
        )
    )
    return figures


def _of_group(found: Sequence[Positions], group: str | None, how: str, seed: int) -> list[Figure]:
    """KL, its 99th percentile, flips, perplexity and its ratio of some windows."""
    counts = np.array([len(one.kl) for one in found], np.float64)
    kl = np.concatenate([one.kl for one in found])
    float_nll = np.concatenate([one.reference_nll for one in found])
    file_nll = np.concatenate([one.candidate_nll for one in found])
    flipped = np.array([np.count_nonzero(~one.same) for one in found], np.float64)
    kl_interval, kl_remark = own_interval(np.array([one.kl.sum() for one in found]), seed, counts)
    flip_interval, flip_remark = own_interval(flipped, seed, counts, share=True)
    mean, half = float((file_nll - float_nll).mean()), paired_half_width(file_nll - float_nll)
    ratio_interval = None if half is None else (_exp(mean - half), _exp(mean + half))
    places = f"{len(kl)} positions"

    def figure(name: str, value: float, **more: object) -> Figure:
        return Figure("quality", SUITE, name, value, how, len(found), "windows", group=group, **more)  # type: ignore[arg-type]

    return [
        figure(
            "mean KL", float(kl.mean()), unit="nats", interval=kl_interval, remark=joined(places, kl_remark)
        ),
        figure("KL, 99th percentile", float(np.quantile(kl, 0.99)), unit="nats", remark=places),
        figure(
            "flips",
            float(flipped.sum() / counts.sum()),
            interval=flip_interval,
            remark=joined(f"{int(flipped.sum())} of {places} have another most likely token", flip_remark),
        ),
        figure("perplexity", _exp(float(file_nll.mean())), reference=_exp(float(float_nll.mean()))),
        figure(
            "perplexity ratio",
            _exp(mean),
            interval=ratio_interval,
            remark="paired, clustered over runs of neighbouring positions (parity/metrics.py)",
        ),
    ]


def _exp(x: float) -> float:
    return math.exp(x) if x < 709.0 else math.inf
