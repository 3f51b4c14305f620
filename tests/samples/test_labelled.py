"""Evaluation sets: read whole, or refused with the line that is wrong."""

# ruff: noqa: E501

import json

import pytest

from exporter.errors import QexportError
from exporter.recipe import DataSource, ParityData, PictureSet, SpeechSet, TextSet
from exporter.samples.files import Sample, list_files
from exporter.samples.labelled import (
    Example,
    class_numbers,
    data_key,
    languages_of,
    picture_examples,
    speech_examples,
    text_examples,
)


def refused(call, folder) -> str:
    with pytest.raises(QexportError) as caught:
        call()
    return str(caught.value).replace(str(folder), "DIR")


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(12):
        (folder / f"{i}.png").write_bytes(bytes([i]))
    return folder


def table(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_pictures_with_a_table(photos, tmp_path):
    labels = table(
        tmp_path / "labels.jsonl", [{"file": f"{i}.png", "label": "cat" if i % 3 else 7} for i in range(12)]
    )
    found = picture_examples(PictureSet(photos, labels))
    assert [(e.sample.path.name, e.label) for e in found[:2]] == [("0.png", 7), ("1.png", "cat")]
    few = picture_examples(PictureSet(photos, labels, samples=6))
    assert sorted(str(e.label) for e in few) == ["7", "7", "cat", "cat", "cat", "cat"]  # each class its share
    assert few == picture_examples(PictureSet(photos, labels, samples=6))
    assert few != picture_examples(PictureSet(photos, labels, samples=6, seed=1))


def test_pictures_in_no_folder_have_no_label(photos):
    assert [e.label for e in picture_examples(PictureSet(photos))] == [None] * 12
    assert len(picture_examples(PictureSet(photos, samples=5))) == 5


def test_pictures_in_folders_of_classes(photos):
    (photos / "cat").mkdir()
    for path in list(photos.glob("*.png"))[:4]:
        path.rename(photos / "cat" / path.name)
    loose = next(
        f.path.name for f in list_files("image", (DataSource(photos),)).files if f.path.parent == photos
    )
    assert refused(lambda: picture_examples(PictureSet(photos)), photos) == (
        f"DIR/{loose}: has no label; put it into a folder that is named as its class, or give parity.data.pictures.labels, "
        "a jsonl file with the fields file, label"
    )
    (photos / "dog").mkdir()
    for path in list(photos.glob("*.png")):
        path.rename(photos / "dog" / path.name)
    found = picture_examples(PictureSet(photos))
    assert {(e.sample.path.parent.name, e.label) for e in found} == {("cat", "cat"), ("dog", "dog")}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"file": "0.png"}], "DIR/labels.jsonl, line 1: no field 'label'; it has: file"),
        ([{"file": "0.png", "label": 1.5}], "DIR/labels.jsonl, line 1: label is 1.5; it must be a number or a name"),
        ([{"file": "x.png", "label": 1}], "DIR/labels.jsonl, line 1: there is no file DIR/photos/x.png"),
        ([{"file": "0.png", "label": 1}] * 2, "DIR/labels.jsonl, line 2: 0.png is listed a second time"),
        ([], "DIR/labels.jsonl: lists no file; each line is an object with the fields file, label"),
        ([{"file": f"{i}.png", "label": 1} for i in range(11)], "DIR/labels.jsonl: one file is not listed, the first is DIR/photos/11.png; list it or take it out of the folder"),
    ],
)  # fmt: skip
def test_tables_that_do_not_fit(photos, tmp_path, rows, message):
    labels = table(tmp_path / "labels.jsonl", rows)
    assert refused(lambda: picture_examples(PictureSet(photos, labels)), tmp_path) == message


def test_labels_of_the_model(tmp_path):
    examples = [Example(Sample("image", tmp_path / "a.png"), label) for label in (1, "Cat", "dog")]
    labels = {0: "cat", 1: "dog", 2: "owl"}
    assert class_numbers(examples, labels, "parity.data.pictures") == (1, 0, 1)
    for label, shown in (("tabby", "'tabby'"), (3, "3"), (-1, "-1")):
        wrong = [*examples, Example(Sample("image", tmp_path / "b.png"), label)]
        assert refused(lambda w=wrong: class_numbers(w, labels, "parity.data.pictures"), tmp_path) == (
            f"parity.data.pictures: DIR/b.png has the label {shown}, which is none of the model's 3 (0 cat, 1 dog, 2 owl). "
            "Labels are numbers or names of the model's classes; give a set made for this model, or the model's names "
            "as `labels` of its preprocessing"
        )
    assert refused(lambda: class_numbers([Example(examples[0].sample)], labels, "here"), tmp_path) == (
        "here: DIR/a.png has no label, and accuracy needs one for each example"
    )
    many = {i: f"class{i}" for i in range(1000)}
    assert "1,000 (0 class0, 1 class1, 2 class2, 3 class3, 4 class4, 5 class5 … 999 class999)" in refused(
        lambda: class_numbers(examples, many, "here"), tmp_path
    )


def test_speech(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.wav").write_bytes(bytes([i]))
    assert {e.target for e in speech_examples(SpeechSet(tmp_path))} == {None}
    rows = [{"file": f"{i}.wav", "text": f"number {i}", "language": "en" if i else "de"} for i in range(3)]
    found = speech_examples(SpeechSet(tmp_path, table(tmp_path / "t.jsonl", rows)))
    assert [e.target for e in found] == ["number 0", "number 1", "number 2"]
    assert languages_of(found) == ("de", "en", "en")


def test_text_with_labels_and_targets(tmp_path):
    rows = [{"text": "good", "label": "positive", "language": "en"}, {"text": "weather", "target": "Wetter"}]
    (tmp_path / "plain.txt").write_text("only words")
    sources = DataSource(table(tmp_path / "a.jsonl", rows)), DataSource(tmp_path / "plain.txt", "nl")
    found = text_examples(TextSet(sources))
    assert [(e.label, e.target, e.language) for e in found] == [
        ("positive", None, "en"), (None, "Wetter", None), (None, None, "nl"),
    ]  # fmt: skip
    bad = table(tmp_path / "b.jsonl", [{"text": "a", "label": 1}, {"text": "b", "label": True}])
    assert refused(lambda: text_examples(TextSet((DataSource(bad),))), tmp_path) == (
        "DIR/b.jsonl, line 2: label is True; it must be a number or a name"
    )


def test_the_key_follows_content_and_labels(photos, tmp_path):
    rows = [{"file": f"{i}.png", "label": i} for i in range(12)]
    data = ParityData((PictureSet(photos, table(tmp_path / "labels.jsonl", rows)),))
    first = data_key(data)
    assert data_key(data) == first
    table(tmp_path / "labels.jsonl", [{**row, "label": 0} for row in rows])
    assert data_key(data) != first
