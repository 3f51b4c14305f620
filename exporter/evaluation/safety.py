"""Refusals: of harmful requests, which should stay, and of harmless ones, which should not come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from exporter.evaluate import Window
from exporter.evaluation.items import drawn, field_text, fitting, rows_of
from exporter.evaluation.pairing import joined, own_interval, paired_interval
from exporter.evaluation.refusals import SOURCE, refuses
from exporter.evaluation.scorecard import Better, Figure
from exporter.evaluation.session import FLOAT, Session
from exporter.parity import Positions
from exporter.verify.continuing import Tokens
from exporter.verify.material import prompt_tokens

SUITE = "safety"
FIRST = 8  # tokens of an answer whose distribution is compared: where a refusal begins
# name -> folder of data, how it is called, whether refusing is right
SETS: dict[str, tuple[str, str, Better]] = {
    "harmful requests": ("advbench", "AdvBench", "higher"),
    "harmless requests": ("harmless", "chatterbot-corpus: general knowledge, programming", "lower"),
}


def measure_safety(session: Session) -> dict[str, list[Figure]]:
    """Greedy answers of both models judged by phrases, and the KL of their first tokens."""
    asked, seed = session.settings, session.settings.seed
    found: dict[str, list[Figure]] = {name: [] for name in session.runners}
    form = "in its chat form"
    if not session.tokenizer.chat_template:
        form = "as plain text"
        session.notes.append("safety: the model has no chat template, so each request is read as plain text")
    for group, (folder, data, better) in SETS.items():
        rows = drawn(rows_of(folder, "prompts.jsonl", "text"), asked.count(SUITE), seed)
        prompts = [prompt_tokens(session.tokenizer, field_text(row, "text")) for row in rows]
        most = session.context - asked.answer_tokens
        prompts = fitting(prompts, [len(prompt) for prompt in prompts], most, group, session.notes)
        answers = session.answers(SUITE, prompts, asked.answer_tokens)
        judged = {name: _refused(session.tokenizer, own) for name, own in answers.items()}
        windows = [
            Window((*prompt, *answer[:FIRST]), len(prompt) - 1)
            for prompt, answer in zip(prompts, answers[FLOAT], strict=True)
        ]
        how = (
            f"{data}, each request {form}, {asked.answer_tokens} most likely tokens, a refusal where one of the "
            f"{SOURCE} stands in them"
        )
        for name, positions in session.compare(SUITE, windows).items():
            found[name] += refusal_figures(group, how, judged[FLOAT], judged[name], better, seed)
            found[name].append(_first_tokens(group, data, positions, seed))
    return found


def refusal_figures(
    group: str, how: str, of_float: Sequence[bool], of_file: Sequence[bool], better: Better, seed: int
) -> list[Figure]:
    """Both rates and the shift, over (n,) requests."""
    reference, candidate = np.array(of_float), np.array(of_file)
    interval, remark = paired_interval(reference.astype(np.float64), candidate.astype(np.float64), seed)
    stopped = int(np.count_nonzero(reference & ~candidate))
    began = int(np.count_nonzero(candidate & ~reference))
    counts = f"{stopped} refused by the float model only, {began} by the files only"
    return [
        Figure(
            "safety",
            SUITE,
            "refusals",
            float(candidate.mean()),
            how,
            len(candidate),
            "requests",
            group=group,
            reference=float(reference.mean()),
            interval=interval,
            better=better,
            remark=joined(counts, remark),
        )
    ]


def _first_tokens(group: str, data: str, found: Sequence[Positions], seed: int) -> Figure:
    counts = np.array([len(one.kl) for one in found], np.float64)
    sums = np.array([one.kl.sum() for one in found])
    interval, remark = own_interval(sums, seed, counts)
    how = f"{data}, the first {FIRST} tokens of the float model's own answer, given to both"
    value = float(sums.sum() / counts.sum())
    return Figure(
        "safety",
        SUITE,
        "KL of the answer's first tokens",
        value,
        how,
        len(found),
        "requests",
        "nats",
        group,
        interval=interval,
        remark=remark,
    )


def _refused(tokenizer: Any, answers: Sequence[Tokens]) -> list[bool]:
    return [refuses(tokenizer.decode(answer, skip_special_tokens=True)) for answer in answers]
