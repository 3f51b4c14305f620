"""Code: how likely the model finds the solutions of HumanEval. Nothing that a model writes is run."""

from __future__ import annotations

from exporter.evaluation.items import continued, drawn, field_text, fitting, rows_of
from exporter.evaluation.likelihood import likelihood_figures
from exporter.evaluation.scorecard import Figure
from exporter.evaluation.session import Session

SUITE = "code"
GROUP = "HumanEval"


def measure_code(session: Session) -> dict[str, list[Figure]]:
    """The canonical solution behind its prompt."""
    rows = rows_of("humaneval", "items.jsonl", "prompt", "canonical_solution")
    texts = [
        continued(session.tokenizer, field_text(row, "prompt"), field_text(row, "canonical_solution"))
        for row in drawn(rows, session.settings.count(SUITE), session.settings.seed)
    ]
    lengths = [len(text.window.tokens) for text in texts]
    texts = fitting(texts, lengths, session.context, GROUP, session.notes)
    found = session.compare(SUITE, [text.window for text in texts])
    how = "likelihood of the canonical solution behind its prompt; no code is generated or run"
    seed = session.settings.seed
    return {
        name: likelihood_figures("quality", SUITE, GROUP, how, texts, own, seed)
        for name, own in found.items()
    }
