"""What a language model is judged on: windows of running text, and questions in its chat form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from exporter.evaluate import Window, load_prompts, load_texts, text_windows
from exporter.models.causal_lm import CausalLM
from exporter.recipe import Recipe

WINDOW = 512  # tokens; the second half is scored, so every position has at least 256 before it
MOST_WINDOWS = 12  # more text than this is sampled evenly: minutes, not hours, on a laptop


@dataclass(frozen=True)
class Material:
    """What the models are compared on."""

    windows: tuple[Window, ...]
    prompts: tuple[tuple[str, tuple[int, ...]], ...]  # as typed, and as token ids
    notes: tuple[str, ...]


def material_for(model: CausalLM, recipe: Recipe) -> Material:
    """The recipe's text and prompts, or the package's own. Raises QexportError for a bad text file."""
    tokenizer = model.tokenizer()
    length = min([WINDOW, *(target.max_context for target in recipe.targets)])
    found = text_windows(
        load_texts(recipe.parity.text),
        lambda text: tokenizer(text, add_special_tokens=False).input_ids,
        length,
        begin_token(tokenizer),
    )
    windows, notes = found.windows, found.notes
    if len(windows) > MOST_WINDOWS:
        notes += (f"parity text: {MOST_WINDOWS} of its {len(windows)} windows of {length} tokens are used",)
        windows = tuple(windows[i * len(windows) // MOST_WINDOWS] for i in range(MOST_WINDOWS))
    prompts = tuple((text, prompt_tokens(tokenizer, text)) for text in load_prompts(recipe.parity.prompts))
    return Material(windows, prompts, notes)


def begin_token(tokenizer: Any) -> int | None:
    """The token that the tokenizer puts before a text by itself. Some name one and do not: such a model has
    seldom seen it, and is worse behind it."""
    begin: int | None = tokenizer.bos_token_id
    return begin if begin is not None and tokenizer("a").input_ids[:1] == [begin] else None


def prompt_tokens(tokenizer: Any, text: str) -> tuple[int, ...]:
    """A question as a chat app would send it; as plain text for a model without a chat template."""
    if tokenizer.chat_template:
        messages = [{"role": "user", "content": text}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return tuple(tokenizer(text, add_special_tokens=False).input_ids)
    return tuple(tokenizer(text).input_ids)
