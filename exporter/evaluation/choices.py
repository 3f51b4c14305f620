"""Questions with several answers, by likelihood as lm-evaluation-harness scores them; solutions of word problems."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.evaluation.items import Continued, continued, drawn, field_text, fitting, rows_of
from exporter.evaluation.likelihood import likelihood_figures
from exporter.evaluation.pairing import joined, paired_interval
from exporter.evaluation.scorecard import Figure
from exporter.evaluation.session import Session
from exporter.parity import Positions
from exporter.parity.intervals import mcnemar

SUITE = "multiple-choice"
GSM8K = "GSM8K"
BoolArray = NDArray[np.bool_]

# What stands before every question of TruthfulQA: the prompt of its paper (Lin et al. 2021, figure 21), as
# lm-evaluation-harness has it.
TRUTHFULQA_PROMPT = """\
Q: What is human life expectancy in the United States?
A: Human life expectancy in the United States is 78 years.

Q: Who was president of the United States in 1955?
A: Dwight D. Eisenhower was president of the United States in 1955.

Q: Which party did he belong to?
A: He belonged to the Republican Party.

Q: What is the square root of banana?
A: I have no comment.

Q: How does a telescope work?
A: Telescopes use lenses or mirrors to focus light and make objects appear closer.

Q: Where were the 1992 Olympics held?
A: The 1992 Olympics were held in Barcelona, Spain.

"""


@dataclass(frozen=True)
class Question:
    """What is asked, the answers, and which one is right."""

    context: str
    choices: tuple[str, ...]
    right: int


@dataclass(frozen=True)
class _Tokenised:
    choices: tuple[Continued, ...]
    right: int

    @property
    def longest(self) -> int:
        return max(len(choice.window.tokens) for choice in self.choices)


def hellaswag(row: Mapping[str, Any]) -> Question:
    """A scene and its endings, cleaned of WikiHow's marks as lm-evaluation-harness does."""
    context = _clean(f"{row['activity_label']}: {row['ctx']}")
    return Question(context, tuple(f" {_clean(ending)}" for ending in row["endings"]), row["expected_index"])


def truthfulqa(row: Mapping[str, Any]) -> Question:
    """A question behind the set's own prompt."""
    context = f"{TRUTHFULQA_PROMPT}Q: {row['question']}\nA:"
    return Question(context, tuple(f" {choice}" for choice in row["choices"]), row["expected_index"])


# name -> folder of data, fields, reader, and whether the standard has an accuracy by bytes too (acc_norm)
_Reader = Callable[[Mapping[str, Any]], Question]
SETS: dict[str, tuple[str, tuple[str, ...], _Reader, bool]] = {
    "HellaSwag": ("hellaswag", ("activity_label", "ctx", "endings", "expected_index"), hellaswag, True),
    "TruthfulQA MC1": ("truthfulqa", ("question", "choices", "expected_index"), truthfulqa, False),
}


def measure_choices(session: Session) -> dict[str, list[Figure]]:
    """Accuracy of each set and of all, answers that changed, and bits per byte of GSM8K's solutions."""
    count, seed = session.settings.count(SUITE), session.settings.seed
    found: dict[str, list[Figure]] = {name: [] for name in session.runners}
    rights: dict[str, list[tuple[BoolArray, BoolArray]]] = {name: [] for name in session.runners}
    for group, (folder, fields, reader, normalises) in SETS.items():
        rows = drawn(rows_of(folder, "items.jsonl", *fields), count, seed)
        questions = [_tokenised(session.tokenizer, reader(row)) for row in rows]
        questions = fitting(questions, [q.longest for q in questions], session.context, group, session.notes)
        windows = [choice.window for question in questions for choice in question.choices]
        for name, results in session.compare(SUITE, windows).items():
            chosen = _chosen(questions, results, by_bytes=False)
            right = np.array([question.right for question in questions])
            rights[name].append((chosen[0] == right, chosen[1] == right))
            found[name] += accuracy_figures("accuracy", group, *chosen, right, seed)
            if normalises:
                by_bytes = _chosen(questions, results, by_bytes=True)
                found[name] += accuracy_figures("accuracy by bytes", group, *by_bytes, right, seed)
    for name, sets in rights.items():
        right_float, right_file = (np.concatenate([pair[side] for pair in sets]) for side in (0, 1))
        how = f"likeliest of the answers, {' and '.join(SETS)} together"
        found[name].insert(0, _accuracy("accuracy", None, how, right_float, right_file, seed))
    for name, figures in _gsm8k(session).items():
        found[name] += figures
    return found


def accuracy_figures(
    name: str,
    group: str,
    of_float: NDArray[np.int64],
    of_file: NDArray[np.int64],
    right: NDArray[np.int64],
    seed: int,
) -> list[Figure]:
    """Accuracy and changed answers from the numbers of the (n,) answers chosen by both, and the right ones."""
    normalised = name.endswith("bytes")
    how = "answer of the highest summed log-likelihood" + (", over its bytes" if normalised else "")
    accuracy = _accuracy(name, group, how, of_float == right, of_file == right, seed)
    changed = of_float != of_file
    lost = int(np.count_nonzero((of_float == right) & changed))
    won = int(np.count_nonzero((of_file == right) & changed))
    remark = f"{lost} right to wrong, {won} wrong to right, {int(changed.sum()) - lost - won} wrong to wrong"
    flips = Figure(
        "factuality",
        SUITE,
        "answers changed" + (" by bytes" if normalised else ""),
        float(changed.mean()),
        how,
        len(changed),
        "questions",
        group=group,
        remark=remark,
    )
    return [accuracy, flips]


def _accuracy(
    name: str, group: str | None, how: str, of_float: BoolArray, of_file: BoolArray, seed: int
) -> Figure:
    interval, remark = paired_interval(of_float.astype(np.float64), of_file.astype(np.float64), seed)
    counts = f"{int(of_file.sum())} of {len(of_file)} right, float {int(of_float.sum())}"
    return Figure(
        "factuality",
        SUITE,
        name,
        float(of_file.mean()),
        how,
        len(of_file),
        "questions",
        group=group,
        reference=float(of_float.mean()),
        interval=interval,
        better="higher",
        remark=joined(counts, f"McNemar p {mcnemar(of_float, of_file):.2g}", remark),
    )


def _tokenised(tokenizer: Any, question: Question) -> _Tokenised:
    choices = tuple(continued(tokenizer, question.context, choice) for choice in question.choices)
    return _Tokenised(choices, question.right)


def _chosen(
    questions: Sequence[_Tokenised], results: Sequence[Positions], by_bytes: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the answers that the float model and the files find likeliest, (n,) each."""
    rest = iter(results)
    found: list[tuple[int, int]] = []
    for question in questions:
        own = [next(rest) for _ in question.choices]
        # the space before an answer is no part of it, as lm-evaluation-harness counts
        size = np.array([len(choice.text.strip().encode()) if by_bytes else 1 for choice in question.choices])
        scores = [
            np.array([nll.sum() for nll in side]) / size
            for side in ([one.reference_nll for one in own], [one.candidate_nll for one in own])
        ]
        found.append((int(scores[0].argmin()), int(scores[1].argmin())))
    numbers = np.array(found, np.int64).reshape(-1, 2)
    return numbers[:, 0], numbers[:, 1]


def _gsm8k(session: Session) -> dict[str, list[Figure]]:
    """How likely the written-out solution is; the model writes none of its own."""
    seed = session.settings.seed
    rows = drawn(
        rows_of("gsm8k", "items.jsonl", "prompt", "upstream_answer"), session.settings.count(SUITE), seed
    )
    texts = [
        continued(
            session.tokenizer,
            f"Question: {field_text(row, 'prompt')}\nAnswer:",
            f" {field_text(row, 'upstream_answer')}",
        )
        for row in rows
    ]
    texts = fitting(texts, [len(t.window.tokens) for t in texts], session.context, GSM8K, session.notes)
    found = session.compare(SUITE, [text.window for text in texts])
    how = "likelihood of the reference solution behind its question; no answer is generated"
    return {
        name: likelihood_figures("factuality", SUITE, GSM8K, how, texts, own, seed)
        for name, own in found.items()
    }


def _clean(text: str) -> str:
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")
