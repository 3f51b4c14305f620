"""Patterns over module paths, against a reference matcher that expands braces and recurses."""

from __future__ import annotations

from fnmatch import fnmatchcase
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.recipe import PatternError, parse_pattern
from exporter.recipe.folding import fold_names, fold_numbers, listed

# --- the reference: slow, and written without a look at the regular expressions -----------------------

_SEGMENT = st.sampled_from(["a", "b", "ab", "a_b", "0", "1", "*", "a*", "*b", "**"])


def _branches(inner: st.SearchStrategy[list[str]]) -> st.SearchStrategy[list[str]]:
    """A pattern's segments: (shown text) lists; braces hold whole sub-patterns."""
    return st.lists(inner, min_size=1, max_size=3).map(
        lambda choices: ["{" + ",".join(".".join(choice) for choice in choices) + "}"]
    )


_PLAIN = st.lists(_SEGMENT, min_size=1, max_size=3)
_PATTERN = st.recursive(
    _PLAIN,
    lambda inner: st.lists(st.one_of(_PLAIN, _branches(inner)), min_size=1, max_size=3).map(
        lambda parts: [segment for part in parts for segment in part]
    ),
    max_leaves=6,
).map(".".join)
_NAMES = st.lists(st.sampled_from(["a", "b", "ab", "a_b", "abb", "0", "1"]), min_size=1, max_size=6).map(
    ".".join
)


def expand(pattern: str) -> list[str]:
    """All brace-free patterns, by the innermost braces first."""
    close = pattern.find("}")
    if close < 0:
        return [pattern]
    start = pattern.rindex("{", 0, close)
    choices = pattern[start + 1 : close].split(",")
    return [p for choice in choices for p in expand(pattern[:start] + choice + pattern[close + 1 :])]


def match_segments(pattern: list[str], path: list[str]) -> bool:
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(match_segments(pattern[1:], path[skip:]) for skip in range(len(path) + 1))
    return bool(path) and fnmatchcase(path[0], pattern[0]) and match_segments(pattern[1:], path[1:])


@given(_PATTERN, st.lists(_NAMES, min_size=1, max_size=8))
def test_matcher_agrees_with_the_reference(pattern: str, names: list[str]) -> None:
    parsed = parse_pattern(pattern)
    alternatives = expand(pattern)
    for name in names:
        expected = any(match_segments(a.split("."), name.split(".")) for a in alternatives)
        assert parsed.matches(name) == expected, (pattern, name)
        if expected:
            assert parsed.literal in name  # the shortcut that planning relies on


@given(_PATTERN, st.lists(_NAMES, min_size=1, max_size=8))
def test_an_unused_choice_is_one_with_which_nothing_matches(pattern: str, names: list[str]) -> None:
    parsed = parse_pattern(pattern)
    unused = {alternative for alternative, _ in parsed.unused_alternatives(names)}
    for alternative in parsed.alternatives:
        alone = expand(pattern[: alternative.start] + alternative.text + pattern[alternative.end :])
        matched = any(match_segments(a.split("."), n.split(".")) for a, n in product(alone, names))
        assert (alternative in unused) == (not matched)


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("**.down_proj", ["down_proj", "a.b.down_proj"], ["a.down_proj.b", "xdown_proj"]),
        ("model.**", ["model", "model.a", "model.a.b"], ["models", "a.model"]),
        ("a.**.b", ["a.b", "a.x.y.b"], ["ab", "a.xb"]),
        ("**", ["a", "a.b", ""], []),
        ("*", ["a"], ["a.b", ""]),
        ("*.mlp.*_proj", ["0.mlp.up_proj"], ["0.mlp.up", "mlp.up_proj", "0.1.mlp.up_proj"]),
        ("h.{0,1,8..10}.fc", ["h.0.fc", "h.9.fc", "h.10.fc"], ["h.2.fc", "h.11.fc", "h.01.fc"]),
        ("x.{a.b,c}.d", ["x.a.b.d", "x.c.d"], ["x.a.d", "x.b.d"]),
        ("x.{q,k,{gate,up}_}proj", ["x.qproj", "x.gate_proj"], ["x.q_proj"]),
        ("{**,a}.b", ["b", "x.y.b", "a.b"], ["a"]),
    ],
)
def test_what_a_pattern_matches(pattern: str, matching: list[str], other: list[str]) -> None:
    parsed = parse_pattern(pattern)
    assert [name for name in [*matching, *other] if parsed.matches(name)] == matching


_HOLDS = "a pattern holds letters, digits, '_' and '-', joined by '.', and '*', '**', '{a,b}', '{0..9}'"


@pytest.mark.parametrize(
    ("pattern", "offset", "message"),
    [
        ("", 0, f"the pattern is empty; {_HOLDS}"),
        ("a..b", 2, "empty segment: a name, '*' or '**' belongs before the '.'"),
        (".a", 0, "empty segment: a name, '*' or '**' belongs before the '.'"),
        ("a.", 2, "empty segment after the last '.'"),
        ("a.{b,c", 2, "'{' is never closed; a '}' is missing"),
        ("a.{0..3", 2, "'{' is never closed; a '}' is missing"),
        ("a.b}", 3, "'}' without a '{' before it"),
        ("a,b", 1, "',' without a '{' before it"),
        ("a.{b,}", 5, "empty choice inside '{…}'"),
        ("a.{}", 3, "empty choice inside '{…}'"),
        ("a b", 1, f"' ' does not belong in a pattern: {_HOLDS}"),
        ("model[.]a", 5, f"'[' does not belong in a pattern: {_HOLDS}"),
        ("a.b$", 3, f"'$' does not belong in a pattern: {_HOLDS}"),
        ("a**", 1, "'**' stands for whole segments, so only '.' may come before it"),
        ("**a", 2, "'**' stands for whole segments, so only '.' may follow it"),
        ("{**,a}b", 6, "'**' stands for whole segments, so only '.' may follow it"),
        ("a.{9..3}", 3, "the range 9..3 runs backwards"),
        ("a.{0..99999}", 3, "the range 0..99999 is longer than 4,096"),
        ("{0..99}.{0..99}", 0, "the pattern stands for 10,000 paths, at most 4,096"),
        ("{" * 9 + "a" + "}" * 9, 8, "braces are nested more than 8 deep"),
        ("*a" * 9, 16, "more than 8 '*' in one segment"),
        ("a" * 501, 500, "the pattern has 501 characters, at most 500"),
    ],
)
def test_a_malformed_pattern_names_the_character(pattern: str, offset: int, message: str) -> None:
    with pytest.raises(PatternError) as caught:
        parse_pattern(pattern)
    assert (str(caught.value), caught.value.offset) == (message, offset)


@given(st.text(alphabet="ab.*{},0 \\", max_size=14))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        parse_pattern(text).matches("a.b")
    except PatternError as error:
        assert 0 <= error.offset <= len(text)


# --- folding: the other direction ---------------------------------------------------------------------

_REAL = st.lists(
    st.sampled_from(["layers", "0", "1", "2", "7", "q_proj", "k_proj", "mlp", "_x"]), min_size=1, max_size=4
)


@given(st.lists(_REAL.map(".".join), min_size=1, max_size=30))
def test_folded_names_match_exactly_the_names(names: list[str]) -> None:
    patterns = [parse_pattern(p) for p in fold_names(names)]
    assert {name for name in names if any(p.matches(name) for p in patterns)} == set(names)
    expanded = [path for p in patterns for path in _all_paths(p.text)]
    assert sorted(expanded) == sorted(set(names))  # nothing else, and nothing twice


def _all_paths(pattern: str) -> list[str]:
    def spelled(choice: str) -> str:
        first, dots, last = choice.partition("..")
        return ",".join(map(str, range(int(first), int(last) + 1))) if dots else choice

    out, rest = "", pattern
    while "{" in rest:
        before, _, rest = rest.partition("{")
        inside, _, rest = rest.partition("}")
        out += before + "{" + ",".join(map(spelled, inside.split(","))) + "}"
    return expand(out + rest)


def test_how_a_model_reads_when_folded() -> None:
    names = ["embed"]
    for i in range(30):
        names += [f"layers.{i}.attn.{x}_proj" for x in "qkv"] + [
            f"layers.{i}.mlp.{x}" for x in ("up_proj", "down")
        ]
    assert fold_names(names) == [
        "embed",
        "layers.{0..29}.attn.{q,k,v}_proj",
        "layers.{0..29}.mlp.{up_proj,down}",
    ]
    assert fold_numbers([0, 1, 28, 29, 5]) == "{0,1,5,28,29}"
    assert fold_names(["e.0.w.1", "e.0.w.2", "e.3.w.1"]) == ["e.0.w.{1,2}", "e.3.w.1"]
    assert listed(["a.0", "a.1"]) == "2 layers (a.{0,1})"
    assert listed(["a.0"]) == "a.0"
    assert listed([f"{x}.w" for x in "abcdef"]) == "6 layers (a.w, b.w, c.w, d.w and 2 more)"
