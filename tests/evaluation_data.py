"""Small data sets in the form that scripts/fetch_data.py writes, for tests of the evaluation."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from exporter.samples.shares import LANGUAGES, share_of

SENTENCE = "the boat lay still under grey morning fog and nobody on deck said a word about storms from west"
WORDS = SENTENCE.split()


def write_sets(data: Path) -> None:
    """Every set that the suites read, in the folder `data` of a cache."""
    rng = random.Random(0)
    for language in LANGUAGES:
        _write(data / "wikipedia" / f"{language}.jsonl", [{"text": text} for text in _articles(rng, 8)])
    questions = [
        {
            "activity_label": "Boats",
            "ctx": _words(rng, 4),
            "endings": [_words(rng, 2 + k) for k in range(4)],
            "expected_index": rng.randrange(4),
        }
        for _ in range(24)
    ]
    _write(data / "hellaswag" / "items.jsonl", questions)
    choices = [
        {
            "question": _words(rng, 4) + "?",
            "choices": [_words(rng, 3) for _ in range(3)],
            "expected_index": rng.randrange(3),
        }
        for _ in range(24)
    ]
    _write(data / "truthfulqa" / "items.jsonl", choices)
    problems = [{"prompt": _words(rng, 5) + "?", "upstream_answer": _words(rng, 6)} for _ in range(24)]
    _write(data / "gsm8k" / "items.jsonl", problems)
    functions = [
        {"prompt": f"def f{n}():\n", "canonical_solution": f"    return {_words(rng, 3)!r}\n"}
        for n in range(24)
    ]
    _write(data / "humaneval" / "items.jsonl", functions)
    for name in ("advbench", "harmless"):
        _write(data / name / "prompts.jsonl", [{"text": _words(rng, 5) + "?"} for _ in range(24)])


def _articles(rng: random.Random, count: int) -> list[str]:
    """So many of the test's share, of some 900 letters, and as many of another."""
    found: dict[bool, list[str]] = {True: [], False: []}
    while any(len(own) < count for own in found.values()):
        text = _words(rng, 170)
        found[share_of(text) == "test"].append(text)
    return found[True][:count] + found[False][:count]


def _words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(count))


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
