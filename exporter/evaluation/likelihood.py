"""How likely a model finds a known text: bits for each byte of it, which no tokenizer decides."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from exporter.evaluation.items import Continued
from exporter.evaluation.pairing import joined, own_interval, paired_interval
from exporter.evaluation.scorecard import Dimension, Figure
from exporter.parity import Positions


def likelihood_figures(
    dimension: Dimension,
    suite: str,
    group: str,
    how: str,
    texts: Sequence[Continued],
    found: Sequence[Positions],
    seed: int,
) -> list[Figure]:
    """Bits per byte of both with a paired interval, perplexity per token, and mean KL, over (n,) texts."""
    size = np.array([text.bytes for text in texts], np.float64)
    bits = [
        np.array([nll.sum() for nll in side]) / math.log(2)
        for side in ([one.reference_nll for one in found], [one.candidate_nll for one in found])
    ]
    tokens = np.array([len(one.kl) for one in found], np.float64)
    interval, remark = paired_interval(bits[0], bits[1], seed, size)
    kl_interval, kl_remark = own_interval(np.array([one.kl.sum() for one in found]), seed, tokens)
    perplexity = [float(np.exp(side.sum() * math.log(2) / tokens.sum())) for side in bits]
    counts = f"{int(size.sum())} bytes, {int(tokens.sum())} tokens"

    def figure(name: str, value: float, **more: object) -> Figure:
        return Figure(dimension, suite, name, value, how, len(found), "texts", group=group, **more)  # type: ignore[arg-type]

    return [
        figure(
            "bits per byte",
            float(bits[1].sum() / size.sum()),
            reference=float(bits[0].sum() / size.sum()),
            unit="bits",
            interval=interval,
            remark=joined(counts, remark),
        ),
        figure("perplexity", perplexity[1], reference=perplexity[0], remark="per token"),
        figure(
            "mean KL",
            float(sum(one.kl.sum() for one in found) / tokens.sum()),
            unit="nats",
            interval=kl_interval,
            remark=kl_remark,
        ),
    ]
