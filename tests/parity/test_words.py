"""Words and edit distance."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.whisper.english_normalizer import BasicTextNormalizer

from exporter.parity.words import edit_distance, normalised, words


@given(st.text(st.sampled_from("aB ä.,!?'[]()<>-é漢\n\t½ﬁ…")) | st.text())
def test_the_normaliser_of_the_paper(text):
    """Its authors' code, as transformers has it; white space at the ends aside."""
    assert normalised(text) == BasicTextNormalizer()(text).strip()


def test_words():
    assert words("And Mr. John [cough] Dashwood, had (um) THEN") == [
        "and",
        "mr",
        "john",
        "dashwood",
        "had",
        "then",
    ]
    assert words("今日は。 天気", "ja") == ["今", "日", "は", "天", "気"]
    assert words("今日は 天気", "en") == ["今日は", "天気"]
    assert words("  ") == []


SHORT = st.lists(st.sampled_from("abc"), max_size=7)


def slow(a, b):
    """Levenshtein by its definition."""
    if not a or not b:
        return len(a) + len(b)
    return min(slow(a[1:], b) + 1, slow(a, b[1:]) + 1, slow(a[1:], b[1:]) + (a[0] != b[0]))


@given(st.lists(st.sampled_from("abc"), max_size=5), st.lists(st.sampled_from("abc"), max_size=5))
def test_edit_distance_is_the_definitions(a, b):
    assert edit_distance(a, b) == slow(a, b)


@given(SHORT, SHORT, SHORT)
def test_edit_distance_is_a_metric(a, b, c):
    assert edit_distance(a, b) == edit_distance(b, a)
    assert (edit_distance(a, b) == 0) == (a == b)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)


@pytest.mark.parametrize(
    ("a", "b", "distance"), [("kitten", "sitting", 3), ("", "abc", 3), ("flaw", "lawn", 2)]
)
def test_known_distances(a, b, distance):
    assert edit_distance(a, b) == distance
