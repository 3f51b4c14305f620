"""Readers of text, pictures and sound: what they give, and the whole message of every refusal."""

# ruff: noqa: E501  (a message stands in one line, as a person sees it)

import json
import wave

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from exporter.errors import QexportError
from exporter.recipe import DataSource
from exporter.samples.audio import clip_notes, read_wav
from exporter.samples.files import list_files
from exporter.samples.images import read_picture
from exporter.samples.python import python_samples
from exporter.samples.text import PIECE, jsonl_rows, read_text, text_samples


def refused(call, folder) -> str:
    with pytest.raises(QexportError) as caught:
        result = call()
        if hasattr(result, "__next__"):
            list(result)
    return str(caught.value).replace(str(folder), "DIR")


def write_wav(path, samples, rate=16000, channels=1):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.asarray(np.round(np.asarray(samples) * 32768), "<i2").tobytes())
    return path


def tone(rate, hertz=440.0, seconds=0.5):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


# --- text -----------------------------------------------------------------------------------------------


def test_jsonl_lines_name_language_and_topic(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [
        {"text": "eins", "language": "de"},
        {"text": "zwei\nZeilen", "topic": "law"},
        {"text": "drei", "id": 7},
    ]
    path.write_text("\n\n".join(json.dumps(row) for row in rows), "utf-8")
    found = list(text_samples(DataSource(path, "nl", "news")))
    assert [text for _, text in found] == ["eins", "zwei\nZeilen", "drei"]
    assert [(s.language, s.topic) for s, _ in found] == [("de", "news"), ("nl", "law"), ("nl", "news")]
    assert [read_text(sample) for sample, _ in found] == [text for _, text in found]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "a"', "not JSON (Expecting ',' delimiter: line 2 column 1 (char 13)); each line of a jsonl file is one object"),
        (b'["a"]', 'a list; each line must be an object such as {"text": "…", "language": "de"}'),
        (b'{"txt": "a"}', "no field 'text'; it has: txt"),
        (b'{"text": 3}', "text is 3; it must be text"),
        (b'{"text": "a", "language": ["de"]}', "language is ['de']; it must be text"),
        (b'{"text": "  "}', "text is empty"),
        (b'{"text": "\xe9"}', "not UTF-8 at byte 10 (0xe9) of the line; save the file as UTF-8"),
    ],
)  # fmt: skip
def test_a_line_that_is_none(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "good"}\n' + line + b"\n")
    assert refused(lambda: text_samples(DataSource(path)), tmp_path) == f"DIR/a.jsonl, line 2: {message}"


def test_a_line_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr("exporter.samples.text._LONGEST_LINE", 100)
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "' + "a" * 200)
    assert refused(lambda: jsonl_rows(path), tmp_path) == (
        "DIR/a.jsonl, line 1: longer than 100 bytes; a sample is one line of a jsonl file"
    )


def test_running_text_is_cut_at_paragraphs(tmp_path):
    path = tmp_path / "a.txt"
    paragraphs = [("word " * 240).strip(), ("other " * 100).strip(), ("third " * 200).strip()]
    path.write_text("\n\n".join(paragraphs))
    assert [text for _, text in text_samples(DataSource(path))] == [
        "\n\n".join(paragraphs[:2]),
        paragraphs[2],
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.text(st.sampled_from("ab \n.äж漢🙂"), max_size=3000), max_size=4))
def test_pieces_are_the_text(tmp_path, parts):
    """Nothing is lost but white space, no piece is longer than PIECE, and each is found again at its place."""
    path = tmp_path / "a.txt"
    path.write_bytes("\n\n".join(parts).encode())
    found = list(text_samples(DataSource(path)))
    assert "".join("".join(text.split()) for _, text in found) == "".join("".join(parts).split())
    assert all(sample.size <= PIECE for sample, _ in found)
    assert [read_text(sample) for sample, _ in found] == [text for _, text in found]


def test_running_text_that_is_not_utf8(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"good words\n" * 400 + b"caf\xe9\n")
    assert refused(lambda: text_samples(DataSource(path)), tmp_path) == (
        "DIR/a.txt: not UTF-8 at byte 4403 (0xe9); save the file as UTF-8"
    )


# --- pictures -------------------------------------------------------------------------------------------


def test_a_picture_is_upright_rgb(tmp_path):
    image = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    image.save(tmp_path / "a.png", exif=exif)
    pixels = read_picture(tmp_path / "a.png")
    assert pixels.shape == (3, 2, 3)
    assert pixels[:, :, 0].tolist() == [[120, 0], [160, 40], [200, 80]]
    assert (pixels == pixels[:, :, :1]).all()


def test_what_is_no_picture(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"<html>no</html>")
    assert refused(lambda: read_picture(tmp_path / "a.jpg"), tmp_path) == (
        "DIR/a.jpg: not a picture, it begins with b'<html>no'; replace it or take it out of the folder"
    )
    (tmp_path / "b.jpg").write_bytes(b"")
    assert refused(lambda: read_picture(tmp_path / "b.jpg"), tmp_path) == (
        "DIR/b.jpg: not a picture, it is empty; replace it or take it out of the folder"
    )
    assert refused(lambda: read_picture(tmp_path / "none.jpg"), tmp_path) == (
        "DIR/none.jpg: cannot be read (No such file or directory)"
    )


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp"])
def test_a_truncated_picture(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    message = refused(lambda: read_picture(path), tmp_path)
    assert message.startswith(f"DIR/a.{suffix}: this picture is damaged (")
    assert message.endswith("); replace it or take it out of the folder")


def test_a_picture_too_large_to_be_one(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert refused(lambda: read_picture(tmp_path / "a.png"), tmp_path) == (
        "DIR/a.png: this picture has too many pixels (Image size (1600 pixels) exceeds limit of 1000 pixels, "
        "could be decompression bomb DOS attack.); make it smaller"
    )


# --- sound ----------------------------------------------------------------------------------------------


def test_a_clip_at_its_own_rate(tmp_path):
    samples = tone(16000)
    clip = read_wav(write_wav(tmp_path / "a.wav", samples), 16000)
    np.testing.assert_allclose(clip.samples, samples, atol=0.5 / 32768 + 1e-7)  # half a step of 16 bits
    assert (clip.rate, clip.file_rate, clip.channels, clip.seconds) == (16000, 16000, 1, 0.5)
    assert clip_notes([clip], 30) == ()


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_another_rate_is_resampled_and_said(tmp_path, rate):
    clip = read_wav(write_wav(tmp_path / "a.wav", tone(rate), rate), 16000)
    assert len(clip.samples) == 8000
    # In the middle, away from the edges of the filter, the tone is the same tone. Its pass band is flat to
    # about 1 % (Kaiser window, beta 5), at 440 Hz far better.
    np.testing.assert_allclose(clip.samples[1000:7000], tone(16000)[1000:7000], atol=0.005)
    assert clip_notes([clip]) == (f"{tmp_path / 'a.wav'} of {rate:,} Hz resampled to 16,000 Hz",)


def test_no_alias_is_left(tmp_path):
    """10 kHz cannot be told at 16 kHz; it must vanish and not turn up as 6 kHz."""
    clip = read_wav(write_wav(tmp_path / "a.wav", tone(48000, 10_000.0), 48000), 16000)
    assert np.abs(clip.samples[500:-500]).max() < 0.5 * 10 ** (-54 / 20)  # Kaiser, beta 5


def test_stereo_gives_the_mean(tmp_path):
    left, right = tone(16000), tone(16000, 300.0)
    clip = read_wav(write_wav(tmp_path / "a.wav", np.stack([left, right], axis=1), channels=2))
    np.testing.assert_allclose(clip.samples, (left + right) / 2, atol=0.5 / 32768 + 1e-7)
    many = clip_notes([clip, clip], most_seconds=0.25)
    assert many == (
        f"2 wav files (the first: {tmp_path / 'a.wav'}) of 2 channels mixed to their mean",
        f"2 wav files (the first: {tmp_path / 'a.wav'}) longer than 0.25 s: what comes after is cut off",
    )


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32"])
def test_every_width_has_full_scale_one(tmp_path, dtype):
    from scipy.io import wavfile

    samples = np.array([-1.0, -0.5, 0.0, 0.5])
    stored = (
        samples
        if dtype == "float32"
        else samples * (128 if dtype == "uint8" else 2.0 ** (8 * np.dtype(dtype).itemsize - 1))
    )
    wavfile.write(tmp_path / "a.wav", 16000, (stored + (128 if dtype == "uint8" else 0)).astype(dtype))
    assert read_wav(tmp_path / "a.wav").samples.tolist() == samples.tolist()


def test_sound_that_is_none(tmp_path):
    write_wav(tmp_path / "empty.wav", [])
    assert refused(lambda: read_wav(tmp_path / "empty.wav"), tmp_path) == (
        "DIR/empty.wav: 0 samples of sound; record it again or take it out of the folder"
    )
    (tmp_path / "a.wav").write_bytes(b"ID3 this is an mp3")
    assert refused(lambda: read_wav(tmp_path / "a.wav"), tmp_path) == (
        "DIR/a.wav: not a wav file that can be read (File format b'ID3 ' not understood. Only 'RIFF', 'RIFX', and "
        "'RF64' supported.); convert it to PCM, 16 bits"
    )
    content = write_wav(tmp_path / "cut.wav", tone(16000)).read_bytes()
    (tmp_path / "cut.wav").write_bytes(content[:5000])
    assert refused(lambda: read_wav(tmp_path / "cut.wav"), tmp_path).startswith(
        "DIR/cut.wav: this wav file is truncated ("
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(st.integers(0, 60), st.binary(min_size=1, max_size=4), st.integers(0, 300))
def test_a_damaged_header_is_read_or_refused(tmp_path, at, bytes_, length):
    content = bytearray(write_wav(tmp_path / "a.wav", tone(8000, seconds=0.02)).read_bytes())
    content[at : at + len(bytes_)] = bytes_
    (tmp_path / "a.wav").write_bytes(content[: length + 40])
    try:
        read_wav(tmp_path / "a.wav", 16000)
    except QexportError as problem:
        assert str(tmp_path / "a.wav") in str(problem)


# --- folders --------------------------------------------------------------------------------------------


def test_folders(tmp_path):
    (tmp_path / "in").mkdir()
    assert refused(lambda: list_files("image", [DataSource(tmp_path / "in")]), tmp_path) == (
        "DIR/in: no pictures in this folder, it is empty; a file's name must end in "
        ".bmp, .gif, .jpeg, .jpg, .png, .ppm, .tif, .tiff, .webp"
    )
    (tmp_path / "in" / "a.txt").write_text("a")
    (tmp_path / "in" / ".hidden.wav").write_text("a")
    assert refused(lambda: list_files("audio", [DataSource(tmp_path / "in")]), tmp_path) == (
        "DIR/in: no wav files in this folder, it holds only 1 file (1 .txt); a file's name must end in .wav"
    )
    (tmp_path / "in" / "deep").mkdir()
    (tmp_path / "in" / "deep" / "B.WAV").write_text("b")
    listing = list_files("audio", [DataSource(tmp_path / "in", "de")])
    assert [(file.path.name, file.source.language) for file in listing.files] == [("B.WAV", "de")]
    assert listing.notes == (f"{tmp_path / 'in'}: 1 file (1 .txt) left out, not wav files",)


# --- python functions -----------------------------------------------------------------------------------


@pytest.fixture
def module(tmp_path, monkeypatch):
    def write(body: str) -> str:
        name = f"samples_of_{abs(hash(body))}"
        (tmp_path / f"{name}.py").write_text("import torch\n" + body)
        return f"{name}:give"

    monkeypatch.syspath_prepend(tmp_path)
    return write


def test_tensors_come_as_they_are_given(module):
    source = module(
        "def give():\n    for i in range(10):\n        yield torch.full((1, 2), i), torch.tensor([i])\n"
    )
    found = list(python_samples(source, 4))
    assert [len(item) for item in found] == [2] * 4
    assert [item[0][0, 0].item() for item in found] == [0, 1, 2, 3]
    assert len(list(python_samples(source, 20))) == 10


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("give = 3\n", "module MODULE has no function 'give'"),
        ("def give():\n    return []\n", "gives no sample; yield tuples of tensors"),
        ("def give():\n    return 3\n", "calling it failed, TypeError: 'int' object is not iterable; --debug shows where"),
        ("def give():\n    yield (torch.ones(1),)\n    1 / 0\n", "item 2 failed, ZeroDivisionError: division by zero; --debug shows where"),
        ("def give():\n    yield torch.ones(1)\n", "item 1 is a Tensor; each item is a tuple of tensors, the model's inputs in their order"),
        ("def give():\n    yield ()\n", "item 1 is an empty tuple; each item is a tuple of tensors, the model's inputs in their order"),
        ("def give():\n    yield torch.ones(1), 2.0\n", "item 1, input 1 is a float; it must be a torch.Tensor"),
    ],
)  # fmt: skip
def test_a_function_that_gives_something_else(module, tmp_path, body, message):
    source = module(body)
    assert refused(lambda: python_samples(source, 5), tmp_path) == (
        f"calibration.python {source}: {message.replace('MODULE', source.partition(':')[0])}"
    )
