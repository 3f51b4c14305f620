"""How much of a language model's quality its files keep, on Wikipedia in nine languages.

    python scripts/fetch_data.py wikipedia
    python scripts/quality.py out/smollm2_permuted out/mixed_int4 out/int4

The first argument is the reference, a folder in Hugging Face's layout (scripts/permute.py); the others are folders that
qexport wrote from it. Two articles of each language's test share, windows of 512 tokens, the second half of each
scored. One row for each runtime's file: bytes of all its model's files, mean and 99th percentile of the KL divergence
to the float reference in nats, same most likely token, perplexity ratio. Articles are split as
exporter/samples/shares.py says: 70 % for calibration, 15 % for development, 15 % for this test.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from exporter.errors import QexportError
from exporter.samples.shares import LANGUAGES, SHARES, articles

if TYPE_CHECKING:
    from exporter.backends.base import TextRunner

WINDOW, SCORED = 512, 256
Logits = NDArray[np.float32]


def windows(tokenizer: object, texts: Sequence[str], each: int) -> list[list[int]]:
    """At most `each` windows of a text, each begun as the tokenizer begins a text."""
    found = []
    for text in texts:
        ids = tokenizer(text).input_ids  # type: ignore[operator]
        first = tokenizer("").input_ids[:1]  # type: ignore[operator]
        step = WINDOW - len(first)
        plain = ids[len(first) :]
        starts = range(0, min(each * step, len(plain) - step + 1), step)
        found += [[*first, *plain[start : start + step]] for start in starts]
    return found


def scored(runner: TextRunner, window: Sequence[int]) -> Logits:
    """(SCORED - 1, vocabulary): logits that predict the second half's tokens but the first."""
    runner.reset()
    if runner.full_logits:
        return runner.forward(window[:-1])[SCORED:]
    rows = [runner.forward(window[: SCORED + 1])[-1]]
    rows += [runner.forward([token])[-1] for token in window[SCORED + 1 : -1]]
    return np.stack(rows)


def references(folder: Path, found: Sequence[Sequence[int]]) -> Iterator[Logits]:
    """The float model's."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for window in found:
        with torch.no_grad():
            yield model(torch.tensor([window[:-1]])).logits[0, SCORED:].float().numpy()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reference", type=Path)
    parser.add_argument("artifacts", type=Path, nargs="+")
    parser.add_argument("--articles", type=int, default=2, help="of each language")
    parser.add_argument("--windows", type=int, default=2, help="of each article, at most")
    parser.add_argument("--share", choices=tuple(SHARES), default="test")
    arguments = parser.parse_args()
    from transformers import AutoTokenizer

    from exporter.artifacts import read_manifest
    from exporter.backends import get_backend
    from exporter.parity import LogitComparison

    tokenizer = AutoTokenizer.from_pretrained(arguments.reference)
    try:
        texts = [
            text
            for language in LANGUAGES
            for text, _ in zip(articles(language, arguments.share), range(arguments.articles), strict=False)
        ]
    except QexportError as problem:
        sys.exit(str(problem))
    found = windows(tokenizer, texts, arguments.windows)
    subjects = {}
    for folder in arguments.artifacts:
        for name, target in read_manifest(folder)["summary"]["targets"].items():
            runner = get_backend(name).open_text(folder / name)
            subjects[f"{folder.name} | {name}"] = (runner, target["model_bytes"], LogitComparison())
    for window, expected in zip(found, references(arguments.reference, found), strict=True):
        targets = np.asarray(window[SCORED + 1 :])
        for runner, _, comparison in subjects.values():
            comparison.update(expected, scored(runner, window), targets)
        print(".", end="", flush=True, file=sys.stderr)
    print(f"\n{len(found)} windows of {len(texts)} articles, share {arguments.share}\n", file=sys.stderr)
    print(
        "| artifact | runtime | MB | mean KL | p99 | same top | perplexity × |\n|---|---|---|---|---|---|---|"
    )
    for name, (_, size, comparison) in subjects.items():
        result = comparison.result()
        if result.invalid:
            sys.exit(f"{name}: {result.invalid}")
        print(
            f"| {name} | {size / 1e6:.1f} | {result.kl_mean:.4f} | {result.kl_p99:.3f} "
            f"| {100 * result.same_top1:.1f} % | {result.ppl_ratio:.3f} |"
        )


if __name__ == "__main__":
    main()
