"""Long texts: whether the files drift from the float model the more they have read."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np

from exporter.evaluate import Window
from exporter.evaluation.items import drawn
from exporter.evaluation.pairing import own_interval
from exporter.evaluation.scorecard import Figure
from exporter.evaluation.session import Session
from exporter.parity import Positions
from exporter.parity.metrics import paired_half_width
from exporter.samples.shares import LANGUAGES, articles
from exporter.verify.material import begin_token

SUITE = "long-context"
BUCKET = 128  # positions of a mean
STRIDE = 8  # every so many-th position
WANTED = 1024  # tokens of context that a drift should be looked for in


def measure_long_context(session: Session) -> dict[str, list[Figure]]:
    """KL of one long text after the other, each read from its first token on."""
    length = min(session.settings.context, session.context)
    if length < WANTED:
        session.notes.append(
            f"long-context: the context is {length} tokens, of {WANTED} that a drift should be looked for in"
        )
    windows = _texts(session, length)
    found = session.compare(SUITE, windows, STRIDE)
    how = (
        f"Wikipedia, test share, {len(windows)} texts of {length} tokens, every {STRIDE}th position; articles of one "
        "language follow each other where one is too short"
    )
    return {name: drift_figures(own, how, session.settings.seed) for name, own in found.items()}


def _texts(session: Session, length: int) -> list[Window]:
    """So many texts, the languages in turn."""
    tokenizer, begin = session.tokenizer, begin_token(session.tokenizer)
    lead = () if begin is None else (begin,)
    count = session.settings.count(SUITE)
    found: list[Window] = []
    for number, language in enumerate(LANGUAGES):
        every = list(articles(language, "test"))
        rest = iter(drawn(every, len(every), session.settings.seed))
        for _ in range(number, count, len(LANGUAGES)):
            tokens: list[int] = list(lead)
            for text in rest:
                ids = tokenizer(text + "\n\n", add_special_tokens=False).input_ids
                tokens += islice(ids, length - len(tokens))
                if len(tokens) == length:
                    found.append(Window(tuple(tokens), 0))
                    break
    return found


def drift_figures(found: Sequence[Positions], how: str, seed: int) -> list[Figure]:
    """Mean KL in buckets of positions, and the slope of a line through those behind the first bucket.

    `found` has every STRIDE-th position of texts of one length. The slope's interval is Student's t over the texts'
    own slopes, which are independent of each other.
    """
    kl = np.stack([one.kl for one in found])  # (texts, positions)
    positions = STRIDE * np.arange(kl.shape[1])

    def figure(name: str, value: float, **more: object) -> Figure:
        return Figure("quality", SUITE, name, value, how, len(found), "texts", **more)  # type: ignore[arg-type]

    figures = []
    for start in range(0, int(positions[-1]) + 1, BUCKET):
        inside = (positions >= start) & (positions < start + BUCKET)
        interval, remark = own_interval(kl[:, inside].mean(axis=1), seed)
        figures.append(
            figure(
                "KL by position",
                float(kl[:, inside].mean()),
                group=f"{start}–{start + BUCKET - 1}",
                unit="nats",
                interval=interval,
                remark=remark,
            )
        )
    settled = positions >= min(BUCKET, int(positions[-1]) // 2)  # the first tokens lack context
    x = positions[settled] - positions[settled].mean()
    slopes = 1000 * (kl[:, settled] @ x) / float(x @ x)  # nats per 1,000 tokens, of each text
    half = paired_half_width(slopes) if len(slopes) >= 5 else None
    mean = float(slopes.mean())
    remark = (
        f"{len(found)} texts are too few for an interval, 5 are the fewest"
        if half is None
        else "Student's t over the texts"
    )
    figures.insert(
        0,
        figure(
            "drift of KL",
            mean,
            unit="nats per 1,000 tokens",
            interval=None if half is None else (mean - half, mean + half),
            remark=remark,
        ),
    )
    return figures
