"""Windows by hand and by property; files that are no text."""

import hashlib
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import QexportError
from exporter.evaluate import Window, load_prompts, load_texts, text_windows, windows


def test_windows_do_not_overlap_and_the_rest_is_dropped():
    cut = windows(range(10), 4)
    assert [w.tokens for w in cut.windows] == [(0, 1, 2, 3), (4, 5, 6, 7)]
    assert cut.notes == ()


def test_the_second_half_is_scored_against_the_next_token():
    window = windows(range(100, 108), 8).windows[0]
    assert window.rows == slice(3, 7)
    assert window.targets == (104, 105, 106, 107)
    assert cut_scored(window) == 4


def cut_scored(window: Window) -> int:
    return len(range(*window.rows.indices(len(window.tokens))))


def test_each_window_begins_with_bos():
    cut = windows(range(1, 8), 4, bos=99)
    assert [w.tokens for w in cut.windows] == [(99, 1, 2, 3), (99, 4, 5, 6)]


def test_a_short_text_gives_a_shorter_window_and_says_so():
    cut = windows([5, 6, 7], 256, bos=0, name="story.txt")
    assert [w.tokens for w in cut.windows] == [(0, 5, 6, 7)]
    assert cut.notes == ("story.txt: 3 tokens fill no window of 256; one window of 4 is used",)


@pytest.mark.parametrize(("tokens", "bos"), [([], None), ([], 1), ([3], None)])
def test_too_short_for_one_prediction(tokens, bos):
    message = f"a.txt: {len(tokens)} tokens leave nothing to predict; give a longer text"
    with pytest.raises(QexportError, match=f"^{re.escape(message)}$"):
        windows(tokens, 8, bos, "a.txt")


def test_a_window_too_short_to_have_halves():
    with pytest.raises(ValueError, match=r"^a window of 3 tokens is too short; 4 is the least$"):
        windows(range(9), 3)


@given(
    st.lists(st.integers(0, 999), min_size=2, max_size=300), st.integers(4, 64), st.none() | st.integers(0, 9)
)
def test_windows_cover_the_text_in_order(tokens, length, bos):
    cut = windows(tokens, length, bos)
    lead = 0 if bos is None else 1
    joined = [t for w in cut.windows for t in w.tokens[lead:]]
    assert joined == tokens[: len(joined)]
    assert len(tokens) - len(joined) < length - lead
    for window in cut.windows:
        assert len(window.tokens) <= length
        assert cut_scored(window) == len(window.targets) >= 1
        assert window.first_scored + 1 >= len(window.tokens) // 2
    assert cut.scored == sum(cut_scored(w) for w in cut.windows)


def test_the_packages_text_is_long_enough_and_in_several_languages():
    (text,) = load_texts()
    assert 1500 <= len(text.text.split()) <= 2000
    assert all(word in text.text for word in ("Straßenbahn", "verrière", "¿Cómo", "def most_common_words"))
    assert len(text.sha256) == 64


def test_the_packages_prompts():
    prompts = load_prompts()
    assert prompts[0] == "What is the capital of France?"
    assert len(prompts) == len(set(prompts)) >= 6
    assert load_prompts(["Mine?"]) == ("Mine?",)


def test_own_files(tmp_path):
    path = tmp_path / "own.txt"
    path.write_bytes(b"\xef\xbb\xbfone two three four")  # with a byte order mark, which is no text
    (text,) = load_texts([path])
    assert (text.name, text.text) == ("own.txt", "one two three four")
    assert text.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    cut = text_windows([text, text], lambda t: [len(word) for word in t.split()], 4)
    assert [w.tokens for w in cut.windows] == [(3, 3, 5, 4)] * 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes; give a file with at least a few hundred words of running text"),
        (b"gut\nsch\xf6n", "not UTF-8 at byte 7 (0xf6, line 2); save the file as UTF-8"),
        (b" \n\n", "3 bytes of nothing but white space; give a file of running text"),
    ],
)
def test_files_that_are_no_text(tmp_path, data, message):
    path = tmp_path / "bad.txt"
    path.write_bytes(data)
    with pytest.raises(QexportError) as caught:
        load_texts([path])
    assert str(caught.value) == f"{path}: {message}"


def test_a_missing_file():
    with pytest.raises(QexportError) as caught:
        load_texts([Path("nowhere.txt")])
    assert str(caught.value) == (
        "nowhere.txt: cannot be read (No such file or directory); name a UTF-8 text file"
    )
