"""Drawing: seeded, the same wherever the files lie, shares as declared; and what a sample covers."""

import json
import random
import shutil
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import QexportError
from exporter.recipe import Calibration, DataSource
from exporter.samples.characters import has_emoji, looks_like_code, script, scripts
from exporter.samples.coverage import (
    Coverage,
    language_warnings,
    measure,
)
from exporter.samples.drawing import calibration_key, draw, quotas, split
from exporter.samples.shares import share_of
from exporter.samples.text import read_text


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return DataSource(path)


def many(language, count, topic=None):
    named = {"topic": topic} if topic else {}
    return [{"text": f"{language} {topic} text {i}", "language": language, **named} for i in range(count)]


def languages(drawn):
    found = [sample.language for sample in drawn.samples]
    return {language: found.count(language) for language in sorted(set(found), key=str)}


def test_shares_are_as_declared(tmp_path):
    source = write_rows(tmp_path / "a.jsonl", many("en", 900) + many("de", 80) + many("ru", 20))
    free = draw(Calibration(text=(source,), samples=100))
    assert languages(free) == {"de": 8, "en": 90, "ru": 2}  # in proportion
    asked = draw(Calibration(text=(source,), samples=100, languages={"de": 0.4, "ru": 0.1}))
    assert languages(asked) == {"de": 40, "en": 50, "ru": 10}
    assert (asked.available, asked.notes) == (1000, ())


def test_topics_within_languages(tmp_path):
    rows = many("de", 50, "law") + many("de", 50, "news") + many("en", 100, "news")
    source = write_rows(tmp_path / "a.jsonl", rows)
    drawn = draw(Calibration(text=(source,), samples=40, languages={"de": 0.5}, topics={"law": 0.25}))
    found = [(sample.language, sample.topic) for sample in drawn.samples]
    assert {pair: found.count(pair) for pair in set(found)} == {
        ("de", "law"): 5,
        ("de", "news"): 15,
        ("en", "news"): 20,
    }
    assert drawn.notes == (
        "calibration.topics: law is declared at 0.25, which is 10 of 40 samples; the data hold 50, so the sample "
        "has 5 (12.5%). Add data of law or lower its share",
    )


def test_a_share_that_the_data_cannot_give(tmp_path):
    source = write_rows(tmp_path / "a.jsonl", many("en", 100) + many("de", 5))
    drawn = draw(Calibration(text=(source,), samples=50, languages={"de": 0.5, "fi": 0.1}))
    assert languages(drawn) == {"de": 5, "en": 45}
    assert drawn.notes == (
        "calibration.languages: de is declared at 0.5, which is 25 of 50 samples; the data hold 5, so the sample has "
        "5 (10.0%). Add data of de or lower its share",
        "calibration.languages: fi is declared at 0.1, which is 5 of 50 samples; the data hold 0, so the sample has "
        "0 (0.0%). Add data of fi or lower its share",
    )


def test_the_same_wherever_files_lie_and_whatever_they_are_called(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    for i in range(60):
        (folder / f"{i}.wav").write_bytes(b"sound" + bytes([i]))
    other = tmp_path / "b"
    (other / "deep").mkdir(parents=True)
    for i, path in enumerate(random.Random(1).sample(sorted(folder.iterdir()), 60)):
        shutil.copyfile(path, other / ("deep" if i % 2 else ".") / f"{i + 500}.wav")
    one, two = (draw(Calibration(audio=(DataSource(place),), samples=20)) for place in (folder, other))
    assert [s.path.read_bytes() for s in one.samples] == [s.path.read_bytes() for s in two.samples]
    assert one.sha256 == two.sha256
    another = draw(Calibration(audio=(DataSource(folder),), samples=20, seed=1))
    assert another.sha256 != one.sha256
    assert {s.path for s in another.samples} != {s.path for s in one.samples}


def test_copies_count_once_and_too_little_is_said(tmp_path):
    source = write_rows(tmp_path / "a.jsonl", many("en", 10) * 3)
    drawn = draw(Calibration(text=(source,), samples=50))
    assert len({read_text(sample) for sample in drawn.samples}) == len(drawn.samples) == 10
    assert drawn.notes == (
        "calibration: 20 samples are copies of others and were left out",
        "calibration: 50 samples are asked for, the data hold 10; all are used",
    )


def test_nothing_to_draw_from(tmp_path):
    (tmp_path / "a.txt").write_text("\n \n")
    with pytest.raises(QexportError) as caught:
        draw(Calibration(text=(DataSource(tmp_path / "a.txt"),)))
    assert str(caught.value) == (
        f"calibration: {tmp_path / 'a.txt'} hold no sample; give files with something in them"
    )


def test_drawn_once_for_the_same_data(tmp_path, monkeypatch):
    source = write_rows(tmp_path / "a.jsonl", many("en", 300))
    calibration = Calibration(text=(source,), samples=20)
    first = draw(calibration, tmp_path / "cache")
    (stored,) = (tmp_path / "cache" / "samples").iterdir()
    assert stored.stem == first.sha256 == calibration_key(calibration)

    def never(*arguments):
        raise AssertionError("drawn again")

    with monkeypatch.context() as patched:
        patched.setattr("exporter.samples.drawing.text_samples", never)
        assert draw(calibration, tmp_path / "cache") == first
    stored.write_text("{")  # damaged
    assert draw(calibration, tmp_path / "cache") == first
    source.path.write_text(source.path.read_text().replace("text 7", "other"))
    assert draw(calibration, tmp_path / "cache").sha256 != first.sha256


def test_memory_stays_flat(tmp_path):
    """20 MB of text; what is held is places of 50 samples, a line, and a cache of nothing."""
    with (tmp_path / "a.jsonl").open("w") as file:
        for i in range(20_000):
            file.write(json.dumps({"text": f"{i} " + "x" * 1000, "language": "en"}) + "\n")
    calibration = Calibration(text=(DataSource(tmp_path / "a.jsonl"),), samples=50)
    tracemalloc.start()
    draw(calibration)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6


SHARES = st.dictionaries(st.sampled_from("abc"), st.integers(0, 33).map(lambda percent: percent / 100))


@given(st.integers(0, 500), st.dictionaries(st.sampled_from([*"abcde", None]), st.integers(0, 300)), SHARES)
def test_split_gives_as_many_as_there_are(n, available, shares):
    found = split(n, available, shares)
    assert found.keys() == available.keys()
    assert sum(found.values()) == min(n, sum(available.values()))
    assert all(0 <= found[name] <= available[name] for name in available)


@given(st.integers(1, 200), SHARES)
def test_split_is_within_one_of_the_shares_where_there_is_enough(n, shares):
    available = {**dict.fromkeys(shares, 1000), None: 1000}
    found = split(n, available, shares)
    assert all(abs(found[name] - n * share) <= 1 for name, share in shares.items())


def test_quotas_sum_to_the_whole():
    available = {("de", "a"): 10, ("de", None): 5, (None, "a"): 100}
    assert sum(quotas(50, available, {"de": 0.5}, {"a": 0.9}).values()) == 50


# --- coverage -------------------------------------------------------------------------------------------

PYTHON = "def f(x):\n    return [y * 2 for y in x if y > 0]\n\nprint(f([1, 2, 3]))\n"


def test_characters():
    assert [script(c) for c in "aäжΩ漢かア가ا1 ｂª"] == [
        "LATIN", "LATIN", "CYRILLIC", "GREEK", "CJK", "HIRAGANA", "KATAKANA", "HANGUL", "ARABIC", "", "", "LATIN", "",
    ]  # fmt: skip
    assert scripts("ab, жa 3") == {"LATIN": 3, "CYRILLIC": 1}
    assert has_emoji("nice 🙂") and has_emoji("🇩🇪") and not has_emoji("a → b")
    assert looks_like_code(PYTHON) and looks_like_code("{ return a[i] + b[j]; }")
    assert not looks_like_code("In 1999 (or so), he said: “well, why not?” It was - for once - a good idea.")
    assert not looks_like_code(" \n")


def test_the_table(tmp_path):
    rows = [
        {"text": "a" * 10, "language": "en"}, {"text": "b" * 30 + " 5", "language": "en"},
        {"text": "ж" * 200 + "Ω", "language": "ru", "topic": "law"}, {"text": PYTHON + "🙂"},
    ]  # fmt: skip
    drawn = draw(Calibration(text=(write_rows(tmp_path / "a.jsonl", rows),), samples=4))
    coverage = measure(drawn, (read_text(s) for s in drawn.samples), languages={"en": 0.5, "fi": 0.1})
    table = {(row.kind, row.name): row for row in coverage.rows}
    assert list(table) == [
        ("all", None), ("language", "en"), ("language", "fi"), ("language", "ru"), ("language", None),
        ("topic", "law"), ("topic", None),
    ]  # fmt: skip
    assert (coverage.unit, coverage.samples) == ("characters", 4)
    english = table["language", "en"]
    assert (english.samples, english.declared, english.total, english.digits) == (2, 0.5, 42.0, 1)
    assert english.lengths == pytest.approx((11.1, 21.0, 30.9, 32.0))
    russian = table["language", "ru"]
    assert (russian.outside_ascii, russian.rare_scripts, dict(russian.scripts)) == (
        1.0,
        ("GREEK",),
        {"CYRILLIC": 200, "GREEK": 1},
    )
    assert table["language", "fi"].samples == 0
    assert (table["language", None].code, table["language", None].emoji) == (1, 1)
    assert Coverage.from_json(json.loads(json.dumps(coverage.to_json()))) == coverage
    tokens = measure(drawn, (read_text(s) for s in drawn.samples), count_tokens=lambda text: 7)
    assert (tokens.unit, tokens.rows[0].total) == ("tokens", 28.0)


def test_one_language_for_a_multilingual_model(tmp_path):
    drawn = draw(Calibration(text=(write_rows(tmp_path / "a.jsonl", many("de", 5)),)))
    assert language_warnings(("de", "fr", "ja"), drawn.samples) == (
        "calibration: the model is declared for 3 languages (de, fr, ja), and every sample is in one, de: what the "
        "others need is not seen; give data in each",
    )
    two = draw(Calibration(text=(write_rows(tmp_path / "b.jsonl", many("de", 5) + many("fr", 5)),)))
    assert language_warnings(("de", "fr", "ja"), two.samples) == (
        "calibration: the model is declared for 3 languages (de, fr, ja), and no sample is in ja",
    )
    (tmp_path / "c.txt").write_text("words")
    none = draw(Calibration(text=(DataSource(tmp_path / "c.txt"),)))
    assert language_warnings(("de", "fr"), none.samples) == (
        "calibration: the model is declared for 2 languages (de, fr), and no sample names its language; give "
        "`language` in the data or recipe",
    )
    assert language_warnings(("de",), none.samples) == language_warnings((), none.samples) == ()
    assert language_warnings(("de", "fr"), two.samples) == ()


def test_a_share_of_the_texts(tmp_path):
    source = write_rows(tmp_path / "a.jsonl", many("en", 400))
    drawn = {
        share: draw(Calibration(text=(source,), samples=400, share=share))
        for share in ("calibration", "test")
    }
    texts = {share: {read_text(sample) for sample in found.samples} for share, found in drawn.items()}
    assert all(share_of(text) == share for share, found in texts.items() for text in found)
    assert 0.6 < len(texts["calibration"]) / 400 < 0.8 and 0.08 < len(texts["test"]) / 400 < 0.22
    assert drawn["test"].sha256 != drawn["calibration"].sha256
