"""The parts of a recipe that name data: whole messages, each at its place."""

# ruff: noqa: E501

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.errors import Place, QexportError, RecipeError
from exporter.recipe import (
    Calibration,
    DataSource,
    ParityData,
    PictureSet,
    Preprocessing,
    Recipe,
    SpeechSet,
    TaskGate,
    TextSet,
    parse_recipe,
)
from exporter.samples.drawing import calibration_key
from exporter.samples.labelled import data_key

HEAD = """\
schema: 1
name: demo
rules: [{match: "**", scheme: float}]
targets: [{backend: onnxruntime}]
"""
MODEL = "model: {source: some/folder, task: image-classification}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"png")
    (tmp_path / "de.jsonl").write_text('{"text": "eins"}\n')
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    (tmp_path / "cache" / "data" / "speech").mkdir(parents=True)
    (tmp_path / "cache" / "data" / "speech" / "transcripts.jsonl").write_text("{}\n")
    monkeypatch.setenv("QEXPORT_CACHE", str(tmp_path / "cache"))
    return tmp_path


def read(folder: Path, text: str) -> Recipe:
    return parse_recipe((HEAD + text).encode(), folder / "r.yaml")


def refused(folder: Path, text: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        read(folder, text)
    return str(caught.value).replace(str(folder), "DIR").splitlines()


def test_calibration(folder: Path) -> None:
    found = read(
        folder,
        MODEL
        + 'calibration: {text: [de.jsonl, {path: de.jsonl, language: pt-BR, topic: "the law"}], samples: 7, '
        "seed: 3, languages: {de: 0.2, fr: 0.8}, topics: {the law: 1}}\n",
    ).calibration
    assert found == Calibration(
        text=(DataSource(folder / "de.jsonl"), DataSource(folder / "de.jsonl", "pt-BR", "the law")),
        samples=7,
        seed=3,
        languages={"de": 0.2, "fr": 0.8},
        topics={"the law": 1.0},
        place=Place(folder / "r.yaml", 6, 14),
    )
    found = read(folder, MODEL + "calibration: {pictures: [photos, photos/a.png]}\n").calibration
    assert found is not None
    assert found.sources == (DataSource(folder / "photos"), DataSource(folder / "photos" / "a.png"))
    found = read(folder, MODEL + "calibration: {audio: ['data:speech']}\n").calibration
    assert found is not None and found.sources == (DataSource(folder / "cache" / "data" / "speech"),)
    found = read(folder, MODEL + "calibration: {python: my.data:samples}\n").calibration
    assert found is not None
    assert (found.python, str(found.place)) == ("my.data:samples", f"{folder}/r.yaml:6:23")


@pytest.mark.parametrize(
    ("entry", "messages"),
    [
        ("{samples: 3}", ["DIR/r.yaml:6:14: calibration: give one of text, pictures, audio, python; here is none"]),
        ("{text: [de.jsonl], pictures: [photos]}", ["DIR/r.yaml:6:14: calibration: give one of text, pictures, audio, python; here are text and pictures"]),
        ("{python: 'a:b', languages: {de: 1}}", ["DIR/r.yaml:6:14: calibration: tensors of a python function have no languages and no topics to take shares of"]),
        ("{python: samples}", ["DIR/r.yaml:6:23: calibration.python is text 'samples'; expected module:function"]),
        ("{text: [de.jsonl], languages: {de: 0.7, en: 0.6}}", ["DIR/r.yaml:6:44: calibration.languages: the shares add up to 1.3; they may add up to 1 at most, and what is left of 1 goes to all other languages"]),
        ("{text: [de.jsonl], topics: {a: 0.7, b: 0.6}}", ["DIR/r.yaml:6:41: calibration.topics: the shares add up to 1.3; they may add up to 1 at most, and what is left of 1 goes to all other topics"]),
        ("{text: [de.jsonl], languages: {de: 1.2, x: 0.1}}", ["DIR/r.yaml:6:49: calibration.languages.de is number 1.2; expected a number from 0 to 1", "DIR/r.yaml:6:54: calibration.languages: name 'x'; expected a language tag such as de or pt-BR"]),
        ("{text: [photos]}", ["DIR/r.yaml:6:22: calibration.text[0]: there is no file DIR/photos"]),
        ("{text: [{path: fr.jsonl, lang: fr}]}", ["DIR/r.yaml:6:29: calibration.text[0].path: there is no file DIR/fr.jsonl", "DIR/r.yaml:6:39: unknown key 'lang' in calibration.text[0]; allowed: path, language, topic; did you mean 'language'?"]),
        ("{pictures: [none]}", ["DIR/r.yaml:6:26: calibration.pictures[0]: there is no file or folder DIR/none"]),
        ("{audio: ['data:speech/clips']}", ["DIR/r.yaml:6:23: calibration.audio[0]: there is no file or folder DIR/cache/data/speech/clips; `python scripts/fetch_data.py speech` fetches it"]),
        ("{text: ['data:speech/de.jsonl']}", ["DIR/r.yaml:6:22: calibration.text[0]: there is no file DIR/cache/data/speech/de.jsonl; `python scripts/fetch_data.py speech` fetches it"]),
    ],
)  # fmt: skip
def test_calibration_that_is_none(folder: Path, entry: str, messages: list[str]) -> None:
    assert refused(folder, MODEL + f"calibration: {entry}\n") == messages


def test_data_that_is_not_fetched_is_missed_when_it_is_read(folder: Path) -> None:
    """A plan of a shipped recipe works without its data."""
    text = "calibration: {text: ['data:wikipedia/de.jsonl']}\nparity: {data: {pictures: {folder: 'data:photos'}}}\n"
    recipe = read(folder, MODEL + text)
    assert recipe.calibration is not None and recipe.parity.data is not None
    with pytest.raises(QexportError) as caught:
        calibration_key(recipe.calibration)
    assert str(caught.value) == (
        f"{folder}/cache/data/wikipedia/de.jsonl: cannot be read (No such file or directory); "
        "`python scripts/fetch_data.py wikipedia` fetches it"
    )
    with pytest.raises(QexportError) as caught:
        data_key(recipe.parity.data)
    assert str(caught.value) == (
        f"{folder}/cache/data/photos: cannot be read (No such file or directory); "
        "`python scripts/fetch_data.py photos` fetches it"
    )


def test_preprocessing(folder: Path) -> None:
    model = read(
        folder,
        "model: {source: f, task: image-classification, languages: [de, en], preprocessing: {size: 224, crop: 0.875, "
        "rescale: 1, mean: [127], std: [128], resample: bicubic, channels: BGR, labels: labels.txt}}\n",
    ).model
    assert model.languages == ("de", "en")
    assert model.preprocessing == Preprocessing(
        (224, 224), 0.875, 1.0, (127.0,), (128.0,), "BGR", "bicubic", folder / "labels.txt"
    )
    plain = read(
        folder, "model: {source: f, task: image-classification, preprocessing: {size: [240, 320]}}\n"
    ).model
    assert plain.preprocessing == Preprocessing((240, 320))
    assert read(folder, MODEL).model.preprocessing is None


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{crop: 0.875}", "5:63: missing key 'size' in model.preprocessing: pixels that the model takes, one number or [height, width]"),
        ("{size: big}", "5:70: model.preprocessing.size is text 'big'; expected a whole number from 1 to 8192"),
        ("{size: [224]}", "5:70: model.preprocessing.size has 1 entries; expected at least 2"),
        ("{size: {height: 3}}", "5:70: model.preprocessing.size is a mapping; expected a number of pixels or [height, width]"),
        ("{size: 224, std: [1, 0, 1]}", "5:63: model.preprocessing: std is [1.0, 0.0, 1.0]; each must be above 0"),
        ("{size: 224, mean: [1, 2]}", "5:63: model.preprocessing: mean has 2 values and std 1; give one for all channels, or three"),
        ("{size: 224, resample: lancsoz}", "5:85: model.preprocessing.resample is text 'lancsoz'; allowed: nearest, bilinear, bicubic, lanczos; did you mean 'lanczos'?"),
        ("{size: 224, labels: none.txt}", "5:83: model.preprocessing.labels: there is no file DIR/none.txt"),
        ("{size: 224, labels: photos}", "5:83: model.preprocessing.labels: DIR/photos is a folder; expected a file"),
    ],
)  # fmt: skip
def test_preprocessing_that_is_none(folder: Path, entry: str, message: str) -> None:
    text = "model: {source: f, task: image-classification, preprocessing: " + entry + "}\n"
    assert refused(folder, text) == [f"DIR/r.yaml:{message}"]


def test_task_gates(folder: Path) -> None:
    text = "parity: {tasks: {max_accuracy_loss: 0.05, min_agreement: 0.95, max_word_error_rise: 0.01}}\n"
    assert read(folder, MODEL + text).parity.tasks == TaskGate(0.05, 0.95, 0.01)
    assert refused(folder, MODEL + "parity: {tasks: {min_agreement: 95}}\n") == [
        "DIR/r.yaml:6:33: parity.tasks.min_agreement is number 95; expected a number from 0 to 1"
    ]


def test_data(folder: Path) -> None:
    text = (
        "parity: {data: {pictures: {folder: photos, samples: 5}, "
        "audio: {folder: 'data:speech', transcripts: 'data:speech/transcripts.jsonl', seed: 1}, "
        "text: {files: [{path: de.jsonl, language: de}]}}}\n"
    )
    speech = folder / "cache" / "data" / "speech"
    assert read(folder, MODEL + text).parity.data == ParityData(
        (PictureSet(folder / "photos", samples=5),),
        SpeechSet(speech, speech / "transcripts.jsonl", seed=1),
        TextSet((DataSource(folder / "de.jsonl", "de"),)),
    )
    several = MODEL + "parity: {data: {pictures: [{folder: photos}, {folder: photos, samples: 2}]}}\n"
    assert read(folder, several).parity.data == ParityData(
        (PictureSet(folder / "photos"), PictureSet(folder / "photos", samples=2))
    )
    assert refused(folder, MODEL + "parity: {data: {pictures: []}}\n") == [
        "DIR/r.yaml:6:27: parity.data.pictures has 0 entries; expected at least 1"
    ]
    assert refused(
        folder, MODEL + "parity: {data: {pictures: {folder: photos/a.png, labels: photos}}}\n"
    ) == [
        "DIR/r.yaml:6:36: parity.data.pictures.folder: DIR/photos/a.png is a file; expected a folder",
        "DIR/r.yaml:6:58: parity.data.pictures.labels: DIR/photos is a folder; expected a file",
    ]
    assert refused(folder, MODEL + "parity: {data: {}}\n") == [
        "DIR/r.yaml:6:16: parity.data: give at least one of pictures, audio, text"
    ]
