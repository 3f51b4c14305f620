"""A jinja chat template as the pieces that stand around a conversation's turns, proven on conversations.

A phone has no jinja. Most templates only put fixed text before and after each turn; which text is found by rendering
markers in the turns' place and cutting there. Whatever a template does beyond that shows when conversations that the
pieces were not cut from are rendered both ways: then it is not taken apart, and the reason is told.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Turns = Sequence[tuple[str, str]]  # (role, content)
_DATES = ("01 Jan 2000", "17 Nov 2031")  # two days on which a template may be rendered
_USER, _ANSWER, _AGAIN, _SYSTEM = "qxUSERxq", "qxANSWERxq", "qxAGAINxq", "qxSYSTEMxq"
_THOUGHT = "<think>\nshort\n</think>\n\nYes."
_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")

_QUESTIONS: tuple[Turns, ...] = (
    (("user", "What is the capital of France?"),),
    (("user", "Hi"), ("assistant", "Hello! How can I help?"), ("user", "Tell me a joke.")),
    (
        ("user", "أين تقع القاهرة؟"),
        ("assistant", "في مصر 🇪🇬, 在尼罗河畔"),
        ("user", "Straße, naïve, 👩‍👩‍👧‍👦 und {{ braces }} & <b>'tags'</b> \"quoted\""),
        ("assistant", "a\n\n  b\\n\tc"),
        ("user", "{% raw %}#1\n```python\nprint('x')\n```"),
    ),
)
_EDGES: Turns = (("user", "  spaces before\n"), ("assistant", "\nand after \n\n"), ("user", "x "))
_ORDER = ("Answer briefly.", "Du bist ein höflicher Helfer.\nAntworte auf Deutsch. 日本語も")


class Undone(Exception):
    """The template is not made of pieces; says where that shows."""


@dataclass(frozen=True)
class ChatFormat:
    """begin, a system turn, users' and assistant's turns in turn, and what the next answer follows."""

    begin: str
    default_system: (
        str | None
    )  # what the system turn says where none is given; None: there is then no such turn
    system: tuple[str, str] | None  # None: the template has no system turn of its own
    user: tuple[str, str]
    assistant: tuple[str, str]
    generation: str
    trim: bool  # whitespace around contents is taken away

    def to_json(self) -> dict[str, Any]:
        """As in bundle.json."""
        return {
            "begin": self.begin,
            "default_system": self.default_system,
            "system": list(self.system) if self.system else None,
            "user": list(self.user),
            "assistant": list(self.assistant),
            "generation": self.generation,
            "trim": self.trim,
        }

    def render(self, turns: Turns) -> str:
        """The text of a conversation whose next turn is the assistant's; what the app does."""
        parts = [self.begin]
        if self.system and self.default_system is not None and (not turns or turns[0][0] != "system"):
            turns = (("system", self.default_system), *turns)
        for role, content in turns:
            around = {"system": self.system, "user": self.user, "assistant": self.assistant}[role]
            assert around is not None
            parts += [around[0], content.strip() if self.trim else content, around[1]]
        return "".join(parts) + self.generation


class Template:
    """A tokenizer's chat template, rendered as transformers renders it."""

    def __init__(self, source: str, tokens: Mapping[str, str] | None = None) -> None:
        from transformers.utils.chat_template_utils import _compile_jinja_template

        self.tokens = dict(tokens or {})
        self._compiled = _compile_jinja_template(source)

    def render(self, turns: Turns, answer: bool = True, date: str = _DATES[0]) -> str:
        """`answer`: with what the assistant's next turn begins with. Raises Undone where the template refuses."""
        messages = [{"role": role, "content": content} for role, content in turns]
        try:
            text = self._compiled.render(
                messages=messages,
                add_generation_prompt=answer,
                tools=None,
                documents=None,
                strftime_now=lambda pattern: date,
                **self.tokens,
            )
        except Exception as problem:  # whatever a template raises or misses
            raise Undone(f"the template refuses it ({type(problem).__name__}: {problem})") from problem
        return str(text)


def read_template(folder: Path) -> Template | None:
    """The chat template of a tokenizer's folder: chat_template.jinja, else in tokenizer_config.json.

    Raises Undone for one that is no jinja.
    """
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    source = settings.get("chat_template")
    if isinstance(source, list):  # several by name
        source = next((entry["template"] for entry in source if entry["name"] == "default"), None)
    if (folder / "chat_template.jinja").is_file():
        source = (folder / "chat_template.jinja").read_text("utf-8")
    if not source:
        return None
    written = {name: settings.get(name) for name in _TOKENS}
    tokens = {
        name: str(token["content"] if isinstance(token, dict) else token)
        for name, token in written.items()
        if token
    }
    try:
        return Template(source, tokens)
    except Exception as problem:  # jinja's own errors, and those of transformers' checks
        raise Undone(f"the template cannot be read ({type(problem).__name__}: {problem})") from problem


def take_apart(template: Template) -> tuple[ChatFormat, list[str]]:
    """The pieces, and what a person should know of them. Raises Undone where there are none."""
    first = (("user", _USER),)
    if template.render(first) != template.render(first, date=_DATES[1]):
        raise Undone("the template writes today's date, which is not known when the app is built")
    found, system_problem = _pieces(template)
    candidates = [ChatFormat(**found, trim=False), ChatFormat(**found, trim=True)]
    reasons = [_difference(template, candidate) for candidate in candidates]
    for candidate, reason in zip(candidates, reasons, strict=True):
        if reason is None:
            return candidate, _notes(template, candidate, system_problem)
    raise Undone(reasons[0] or "")


def _pieces(template: Template) -> tuple[dict[str, Any], str | None]:
    """ChatFormat's fields but trim; why there is no system turn."""
    one, three = (("user", _USER),), (("user", _USER), ("assistant", _ANSWER), ("user", _AGAIN))
    before, after = _cut(template.render(one), _USER)
    (user_end,) = _cut(template.render(one, answer=False), _USER)[1:]
    (answer_end,) = _cut(template.render(three[:2], answer=False), _USER, _ANSWER)[2:]
    _, to_answer, to_user, _ = _cut(template.render(three), _USER, _ANSWER, _AGAIN)
    if not (after.startswith(user_end) and to_answer.startswith(user_end) and to_user.startswith(answer_end)):
        raise Undone("what follows a turn depends on whether it is the last one")
    user = (to_user[len(answer_end) :], user_end)
    if not before.endswith(user[0]):
        raise Undone("what stands before the first question is not what stands before the next one")
    head = before[: len(before) - len(user[0])]
    found: dict[str, Any] = {
        "user": user,
        "assistant": (to_answer[len(user_end) :], answer_end),
        "generation": after[len(user_end) :],
    }
    system, problem = _system(template, head, user[0])
    return found | (system or {"begin": head, "default_system": None, "system": None}), problem


def _system(template: Template, head: str, user_start: str) -> tuple[dict[str, Any] | None, str | None]:
    """begin, default_system and system; None and the reason where a system turn is no turn of its own.

    `head`: what stands before the first question where no system turn is given.
    """
    try:
        start, between, _ = _cut(template.render((("system", _SYSTEM), ("user", _USER))), _SYSTEM, _USER)
    except Undone as problem:
        return None, str(problem)
    if not between.endswith(user_start):
        return None, "the template writes a system turn into the first question"
    end = between[: len(between) - len(user_start)]
    begin = template.tokens.get("bos_token", "")
    every_turn = user_start.startswith(begin)  # SmolLM2's first token is the one that begins each turn
    begin = begin if not every_turn and start.startswith(begin) and head.startswith(begin) else ""
    if len(head) >= len(start) + len(end) and head.startswith(start) and head.endswith(end) and start:
        default: str | None = head[len(start) : len(head) - len(end)]
    elif start.startswith(head):
        begin, default = head, None
    else:
        return None, "what stands before a system turn is not what stands before a question"
    return {"begin": begin, "default_system": default, "system": (start[len(begin) :], end)}, None


def _cut(text: str, *markers: str) -> list[str]:
    """The text between markers. Raises Undone where one is not there exactly once, in this order."""
    parts = []
    for marker in markers:
        if text.count(marker) != 1:
            raise Undone(f"a turn's content stands {text.count(marker)} times in what the template writes")
        before, _, text = text.partition(marker)
        parts.append(before)
    return [*parts, text]


def _conversations(format: ChatFormat) -> list[Turns]:
    every = [*_QUESTIONS, _EDGES]
    if format.system is None:
        return every
    return every + [(("system", order), *turns) for order in _ORDER for turns in every]


def _difference(template: Template, format: ChatFormat) -> str | None:
    """The first conversation that pieces and template write differently, or None."""
    for turns in _conversations(format):
        expected, found = template.render(turns), format.render(turns)
        if expected != found:
            place = next((n for n, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), None)
            place = min(len(expected), len(found)) if place is None else place
            return (
                f"a conversation of {len(turns)} turns differs: the template writes "
                f"{expected[place : place + 40]!r} where its pieces give {found[place : place + 40]!r}"
            )
    return None


def _notes(template: Template, format: ChatFormat, system_problem: str | None) -> list[str]:
    notes = []
    if format.system is None:
        notes.append(f"the app offers no system prompt: {system_problem}")
    turns = (("user", "Why?"), ("assistant", _THOUGHT), ("user", "Is it?"))
    if template.render(turns) != format.render(turns):
        notes.append("the template leaves <think> … </think> out of earlier answers; the app keeps it in")
    return notes
