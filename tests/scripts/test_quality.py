"""scripts/quality.py and its tables: the split, the windows, which rows are measured, what is printed."""

from dataclasses import replace

import numpy as np
import pytest
import quality
import quality_tables
from peers.scoring import Subject, Unmade, own_subjects, run
from quality import SCORED, WINDOW, Window
from quality_tables import Results, Row, render
from tiny_models import llama_with_tokenizer
from transformers import AutoTokenizer

from exporter.parity import LogitComparison


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """One token for each byte, and none before a text."""
    return AutoTokenizer.from_pretrained(llama_with_tokenizer(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def beginning(tokenizer, tmp_path_factory):
    """The same, and <s> before every text."""
    from tokenizers.processors import TemplateProcessing

    folder = tmp_path_factory.mktemp("beginning")
    tokenizer.save_pretrained(folder)
    other = AutoTokenizer.from_pretrained(folder)
    other.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return other


def letters(count: int, first: str = "a") -> str:
    return "".join(chr(ord(first) + index % 7) for index in range(count))


def test_windows_follow_each_other(tokenizer):
    text = letters(3 * WINDOW + 5)
    found = quality.cut(tokenizer, "de", [text], 1, 2)
    assert [window.language for window in found] == ["de", "de"]
    assert [token for window in found for token in window.tokens] == tokenizer(text).input_ids[: 2 * WINDOW]
    assert len(quality.cut(tokenizer, "de", [text], 1, 9)) == 3  # no more than whole ones


def test_each_window_begins_as_the_tokenizer_begins(beginning):
    text = letters(2 * (WINDOW - 1))
    found = quality.cut(beginning, "de", [text], 1, 2)
    assert [len(window.tokens) for window in found] == [WINDOW, WINDOW]
    assert all(window.tokens[0] == 0 for window in found)
    assert [token for window in found for token in window.tokens[1:]] == beginning(text).input_ids[1:]


def test_short_articles_are_passed_over(tokenizer):
    texts = [letters(WINDOW - 1), letters(WINDOW, "d"), letters(20), letters(WINDOW), letters(WINDOW)]
    found = quality.cut(tokenizer, "de", texts, 2, 2)
    assert [list(window.tokens) for window in found] == [tokenizer(texts[i]).input_ids for i in (1, 3)]
    with pytest.raises(SystemExit, match="de: 3 articles of 512 tokens, 4 are needed"):
        quality.cut(tokenizer, "de", texts, 4, 2)


def test_targets_are_what_scored_rows_predict():
    window = Window("de", tuple(range(WINDOW)))
    assert window.targets.tolist() == list(range(SCORED + 1, WINDOW))


def test_text_hash_is_of_languages_and_tokens():
    windows = [Window("de", (1, 2)), Window("en", (3,))]
    others = [[Window("de", (1, 2)), Window("en", (4,))], [Window("de", (1,)), Window("en", (2, 3))]]
    assert len({quality.text_sha256(entry) for entry in [windows, *others, windows[::-1], windows]}) == 4


def test_loss_of_each_language():
    random = np.random.default_rng(0)
    reference = random.standard_normal((6, 5)).astype(np.float32)
    candidate = reference + np.repeat(np.eye(5, dtype=np.float32)[:3], 2, axis=0)
    whole = LogitComparison()
    for rows in (slice(0, 2), slice(2, 4), slice(4, 6)):
        whole.update(reference[rows], candidate[rows], np.zeros(2, np.int64))
    found = quality.by_language(whole, [Window("de", ()), Window("en", ()), Window("de", ())])
    german, english = LogitComparison(), LogitComparison()
    german.update(reference[[0, 1, 4, 5]], candidate[[0, 1, 4, 5]])
    english.update(reference[2:4], candidate[2:4])
    assert found == {
        "de": pytest.approx(german.result().kl_mean, abs=1e-5),
        "en": pytest.approx(english.result().kl_mean, abs=1e-5),
    }


ROW = Row(
    reference="tiny",
    reference_sha256="ab" * 32,
    share="test",
    text_sha256="cd" * 32,
    who="llama.cpp",
    format="Q4_0",
    runtime="llama.cpp",
    version="1",
    bytes=91_700_000,
    kl_mean=0.46612,
    kl_p99=2.5,
    same_top=0.5825,
    ppl_ratio=1.4671,
    kl_by_language={"de": 0.5, "en": 0.25},
    positions=8160,
)
OURS = replace(
    ROW, who="qexport", format="int4", runtime="executorch", bytes=80_000_000, kl_by_language={"de": 0.1}
)


def test_rows_are_kept_and_replaced(tmp_path):
    path = tmp_path / "deep/results.json"
    results, meanwhile = Results(path), Results(path)
    meanwhile.add(OURS)
    results.add(ROW)
    assert Results(path).rows == [ROW, OURS]  # the largest first
    assert Results(path).has(ROW.key)
    newer = replace(ROW, version="2", kl_mean=0.4)
    assert not results.has(newer.key)  # another version is measured again
    results.add(newer)
    assert Results(path).rows == [newer, OURS]
    elsewhere = replace(ROW, text_sha256="ef" * 32)
    assert not results.has(elsewhere.key)
    results.add(elsewhere)
    assert len(Results(path).rows) == 3
    assert list(path.parent.iterdir()) == [path]


def test_a_file_of_something_else(tmp_path):
    path = tmp_path / "results.json"
    path.write_text('{"rows": [{"who": "llama.cpp"}]}')
    with pytest.raises(
        SystemExit, match=r"results\.json: holds no rows of reference, reference_sha256, .* --json"
    ):
        Results(path)


def test_tables():
    assert render([OURS, ROW]).splitlines() == [
        "### tiny, test share, 8,160 positions",
        "",
        "Reference sha256 abababababababab, text cdcdcdcdcdcdcdcd; 1.",
        "",
        "| who | format | runtime | MB | mean KL | p99 | same top | perplexity × |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| llama.cpp | Q4_0 | llama.cpp | 91.7 | 0.4661 | 2.500 | 58.2 % | 1.467 |",
        "| qexport | int4 | executorch | 80.0 | 0.4661 | 2.500 | 58.2 % | 1.467 |",
        "",
        "| ours over the best of | MB | executorch |",
        "| --- | --- | --- |",
        "| llama.cpp up to Q4_0 | 91.7 | 1.00 (int4) |",
        "",
        "| mean KL of | de | en |",
        "| --- | --- | --- |",
        "| llama.cpp, Q4_0, llama.cpp | 0.500 | 0.250 |",
        "| qexport, int4, executorch | 0.100 | – |",
    ]
    assert "| llama.cpp up to Q4_0 | 91.7 | none so small |" in render([replace(OURS, bytes=94_000_000), ROW])
    smaller = replace(
        ROW, format="Q3", bytes=70_000_000, kl_mean=ROW.kl_mean / 2
    )  # and better: it is the best of both
    floats = replace(OURS, format="int4, float activations", runtime="onnxruntime", kl_mean=ROW.kl_mean / 4)
    said = render([OURS, floats, ROW, smaller])
    assert "| ours over the best of | MB | executorch | onnxruntime, float activations |" in said
    assert "| llama.cpp up to Q4_0 | 91.7 | 2.00 (int4) | 0.50 (int4) |" in said
    assert "| llama.cpp up to Q3 | 70.0 | none so small | none so small |" in said
    assert render([ROW, replace(ROW, share="development", text_sha256="0")]).count("### tiny") == 2


def test_the_tables_command(tmp_path, monkeypatch, capsys):
    Results(tmp_path / "results.json").add(ROW)
    monkeypatch.setattr("sys.argv", ["quality_tables.py", str(tmp_path / "results.json")])
    quality_tables.main()
    assert capsys.readouterr().out == render([ROW])
    assert "llama.cpp Q4_0" in (tmp_path / "tiny.svg").read_text()
    monkeypatch.setattr("sys.argv", ["quality_tables.py", str(tmp_path / "none.json")])
    with pytest.raises(SystemExit, match=r"none\.json: not there; scripts/quality\.py --json writes it"):
        quality_tables.main()


def subject(name: str, made: list[str], problem: str = "") -> Subject:
    def make() -> None:
        if problem:
            raise Unmade(problem)
        made.append(name)

    return Subject("llama.cpp", name, "llama.cpp", "1", lambda: 0, make, lambda: pytest.fail("opened"))


BASE = {key: getattr(ROW, key) for key in ("reference", "reference_sha256", "share", "text_sha256")}


def test_only_rows_that_are_missing_are_made(tmp_path):
    results, made, checked = Results(tmp_path / "results.json"), [], []
    results.add(ROW)
    group = [subject(name, made) for name in ("F32", "Q4_0", "Q8_0")]
    found, problems = quality.wanted_peers([group], results, BASE, lambda s: checked.append(s.format))
    assert ([s.format for s in found], problems) == (["Q8_0"], [])
    assert (made, checked) == (["F32", "Q8_0"], ["F32"])
    group = [subject(name, made) for name in ("F32", "Q4_0")]
    assert quality.wanted_peers([group], results, BASE, lambda s: pytest.fail("checked")) == ([], [])


def test_what_cannot_be_made_is_told(tmp_path):
    results, made = Results(tmp_path / "results.json"), []
    first = [subject("F32", made, "no compiler"), subject("Q4_0", made)]
    second = [subject("F32", made), subject("Q5_0", made, "no such type"), subject("Q8_0", made)]
    found, problems = quality.wanted_peers([first, second], results, BASE, lambda s: None)
    assert [s.format for s in found] == ["Q8_0"]
    assert problems == ["llama.cpp, F32: no compiler", "llama.cpp, Q5_0: no such type"]
    assert made == ["F32", "Q8_0"]


def test_a_command_that_makes_a_file(tmp_path):
    draft, target = tmp_path / "draft", tmp_path / "deep/file"
    code = "import sys; open(sys.argv[1], 'a').write('x')"
    run(("-c", code, draft), draft, target)
    run(("-c", "raise SystemExit(3)"), draft, target)  # there already
    assert target.read_text() == "x" and not draft.exists()
    with pytest.raises(Unmade, match=r"^no room \(whole log: .*other\.log\)$"):
        run(("-c", "raise SystemExit('no room')"), draft, tmp_path / "other")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["folder"], "nothing to measure: name folders that qexport wrote, or --peers"),
        (
            ["folder", "--peers", "llama.cpp"],
            "takes tokenizer and hyperparameters from a GGUF file: say --gguf",
        ),
    ],
)
def test_what_the_command_needs(monkeypatch, capsys, words, message):
    monkeypatch.setattr("sys.argv", ["quality.py", *words])
    with pytest.raises(SystemExit):
        quality.parse()
    assert message in capsys.readouterr().err


def test_a_folder_that_is_no_artifact(tmp_path):
    from exporter.errors import QexportError

    with pytest.raises(QexportError, match=str(tmp_path)):
        own_subjects(tmp_path)
