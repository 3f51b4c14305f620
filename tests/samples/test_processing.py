"""Preprocessing: transformers' own processors, the same as data, and as ONNX graphs in ONNX Runtime."""

# ruff: noqa: E501

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from exporter.errors import LoweringError, SourceError
from exporter.recipe import Preprocessing
from exporter.samples.audio import Clip
from exporter.samples.files import Sample
from exporter.samples.graphs import log_mel_graph, picture_graph
from exporter.samples.processing import (
    PictureSteps,
    SpeechSteps,
    picture_processor,
    speech_processor,
    text_processor,
)
from exporter.samples.shipping import raw_input, ship

SPEECH = {
    "chunk_length": 2, "feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 40, "hop_length": 160,
    "n_fft": 400, "sampling_rate": 16000,
}  # fmt: skip
PICTURES = {
    "shortest edge, crop": {
        "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 60}, "crop_size": {"height": 48, "width": 48},
        "do_center_crop": True, "do_resize": True, "do_rescale": True, "do_normalize": True, "resample": 3,
        "image_mean": [0.48, 0.45, 0.4], "image_std": [0.26, 0.25, 0.27], "rescale_factor": 1 / 255, "do_convert_rgb": True,
    },
    "both edges": {
        "image_processor_type": "ViTImageProcessor", "size": {"height": 48, "width": 40}, "do_resize": True, "do_rescale": True,
        "do_normalize": True, "resample": 2, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "rescale_factor": 1 / 255,
    },
    "no normalising": {
        "image_processor_type": "ViTImageProcessor", "size": {"height": 48, "width": 48}, "do_resize": True, "do_rescale": True,
        "do_normalize": False, "resample": 2, "rescale_factor": 1 / 127.5,
    },
}  # fmt: skip


def with_config(folder: Path, config) -> Path:
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text("{}")
    return folder


def run(model: onnx_ir.Model, **inputs):
    proto = onnx_ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def photo(height=97, width=131, seed=0):
    """Something with edges and slopes, and a little noise: (height, width, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    smooth = 128 + 80 * np.sin(x / 9)[..., None] * np.cos(y / 13)[..., None] * np.array([1.0, 0.5, -1.0])
    smooth[height // 3 : height // 2, width // 4 : width // 2] = 250
    return np.clip(smooth + rng.normal(scale=6, size=(height, width, 3)), 0, 255).astype(np.uint8)


# --- pictures -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PICTURES)
def test_the_description_is_what_the_processor_does(tmp_path, name):
    processor = picture_processor(with_config(tmp_path, PICTURES[name]), None)
    assert processor.steps.undescribed is None
    for height, width in ((97, 131), (300, 61), (48, 48), (20, 33)):
        pixels = photo(height, width)
        theirs = processor.prepare(pixels)["pixel_values"]
        # Both work on the same bytes of Pillow; then a product, a difference and a quotient in float32.
        np.testing.assert_allclose(processor.steps(pixels), theirs, rtol=1e-5, atol=1e-6)


def test_what_cannot_be_described_is_said(tmp_path):
    config = {
        **PICTURES["both edges"],
        "image_processor_type": "EfficientNetImageProcessor",
        "include_top": True,
    }
    processor = picture_processor(with_config(tmp_path, config), None)
    assert processor.steps.undescribed.startswith(
        "the processor does more than these steps: values differ by up to "
    )
    with pytest.raises(LoweringError, match=r"^preprocessing has no graph: the processor does more than"):
        picture_graph(processor.steps)
    shipped = ship(processor, tmp_path)
    assert shipped["graph"].startswith("preprocessing has no graph: ")
    assert shipped["config"] == config


def test_a_recipe_states_what_a_checkpoint_does_not(tmp_path):
    with pytest.raises(SourceError) as caught:
        picture_processor(tmp_path, None)
    assert str(caught.value) == (
        f"{tmp_path}: has no preprocessor_config.json, so nothing says what becomes of a picture; state it in the recipe, "
        "e.g. model: {preprocessing: {size: 224, crop: 0.875, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}}"
    )
    stated = Preprocessing((224, 224), 0.875, 1.0, (127.0,), (128.0,), resample="bicubic")
    processor = picture_processor(tmp_path, stated, {0: "cat"})
    assert processor.steps == PictureSteps(
        "shortest edge", (256, 256), (224, 224), "bicubic", 1.0, (127.0,) * 3, (128.0,) * 3
    )
    made = processor.prepare(photo(300, 400))["pixel_values"]
    assert (made.shape, made.dtype) == ((1, 3, 224, 224), np.float32)
    wanted = np.asarray(Image.fromarray(photo(300, 400)).resize((341, 256), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(
        made[0], ((wanted[16:240, 58:282].astype(np.float32) - 127) / 128).transpose(2, 0, 1)
    )


def test_labels_of_a_recipe(tmp_path):
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    stated = Preprocessing((8, 8), labels=tmp_path / "labels.txt")
    assert picture_processor(None, stated, {0: "LABEL_0", 1: "LABEL_1"}).labels == {0: "cat", 1: "dog"}
    with pytest.raises(SourceError) as caught:
        picture_processor(None, stated, {0: "a", 1: "b", 2: "c"})
    assert str(caught.value) == (
        f"{tmp_path / 'labels.txt'}: 2 labels, the model has 3 classes; give one line for each class"
    )


EDGES = st.integers(17, 300)


@settings(deadline=None, max_examples=25)
@given(
    EDGES,
    EDGES,
    st.sampled_from(["bilinear", "bicubic"]),
    st.sampled_from([None, 0.8]),
    st.sampled_from(["RGB", "BGR"]),
)
def test_the_picture_graph_is_the_processor(height, width, resample, crop, channels):
    """Both resize one axis, round to bytes, and resize the other. Where a value lies at a half, to the rounding
    of the coefficients (22 bits in Pillow), the byte may be the next one: a level in the first axis, which the
    second passes on with a gain of at most 1.25 (the sum of a cubic's sizes), and a level there: two together.
    On the whole it must be rare: a mean of a tenth of a level."""
    steps = picture_processor(
        None, Preprocessing((48, 40), crop, 1.0, (127.0, 120.0, 110.0), (128.0,), channels, resample)
    ).steps
    pixels = photo(height, width, seed=height)
    made = run(picture_graph(steps), pixels=pixels)
    # The axes one at a time, width first: Pillow by itself may begin with the height, by its version.
    to = steps.resized(height, width)
    method = Image.Resampling[resample.upper()]
    whole = Image.fromarray(pixels).resize((to[1], height), method).resize((to[1], to[0]), method)
    difference = np.abs(made - replace(steps, resize=None)(np.asarray(whole))) * 128
    assert difference.max() <= 2.001
    assert difference.mean() < 0.1
    if resample == "bilinear":  # never beyond black or white, so the order of the axes moves a byte by one
        assert (np.abs(made - steps(pixels)) * 128).max() <= 3.001


def test_a_graph_that_onnx_cannot_hold():
    steps = picture_processor(None, Preprocessing((48, 40), resample="lanczos")).steps
    with pytest.raises(LoweringError) as caught:
        picture_graph(steps)
    assert str(caught.value) == "resample lanczos: ONNX resizes by bilinear, bicubic"
    with pytest.raises(LoweringError) as caught:
        picture_graph(
            PictureSteps("shortest edge", (40, 40), (48, 48), "bilinear", 1.0, (0.0,) * 3, (1.0,) * 3)
        )
    assert str(caught.value) == "a picture resized to (40, 40) may be smaller than its crop (48, 48)"


# --- sound ----------------------------------------------------------------------------------------------


def speech_tolerance(steps: SpeechSteps, sound) -> np.ndarray:
    """(n_mels, frames): how far a float32 spectrum may move the feature (log10(power) + 4) / 4.

    A sum of n products is off by at most n 2^-24 of the sum of their sizes, here n_fft 2^-24 |x|_1 of the frame
    for each real and imaginary part. A mel bin of power P then moves by (2 / ln 10) / 4 of the error over
    its amplitude sqrt(P), times the square root of what its filter adds up.
    """
    padded = np.pad(
        np.pad(sound, (0, max(0, steps.samples - len(sound))))[: steps.samples], steps.n_fft // 2, "reflect"
    )
    frames = np.lib.stride_tricks.sliding_window_view(padded, steps.n_fft)[:: steps.hop][:-1]
    error = steps.n_fft * 2**-24 * np.abs(frames).sum(axis=1) * math.sqrt(2)  # (frames,)
    filters = np.sqrt(np.asarray(steps.mel_filters).sum(axis=0))  # (n_mels,)
    amplitude = np.sqrt(10 ** (4 * steps(sound)[0] - 4))  # at least the floor that is kept
    return 2 / math.log(10) / 4 * filters[:, None] * error / amplitude + 1e-6


@pytest.mark.parametrize("hop", [160, 250])
@pytest.mark.parametrize("seconds", [0.3, 2.0, 2.7])
def test_features_as_data_and_as_a_graph(tmp_path, seconds, hop):
    processor = speech_processor(with_config(tmp_path, {**SPEECH, "hop_length": hop}))
    steps = processor.steps
    assert (steps.undescribed, steps.samples, steps.n_mels) == (None, 32000, 40)
    rng = np.random.default_rng(1)
    sound = (
        0.3 * np.sin(np.arange(int(16000 * seconds)) * 0.07)
        + rng.normal(scale=0.01, size=int(16000 * seconds))
    ).astype(np.float32)
    theirs = processor.prepare(Clip(tmp_path, sound, 16000, 16000, 1))["input_features"][0]
    ours = steps(sound)[0]
    graph = run(log_mel_graph(steps), audio=sound)
    assert graph.shape == (1, 40, 32000 // hop)
    tolerance = speech_tolerance(steps, sound)
    assert (np.abs(graph[0] - ours) <= tolerance).all()
    assert (np.abs(theirs - ours) <= tolerance).all()


def test_no_sound_processor(tmp_path):
    with pytest.raises(SourceError) as caught:
        speech_processor(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: has no preprocessor_config.json, so nothing says what becomes of sound; put it beside config.json"
    )
    with_config(tmp_path, {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 16000})
    with pytest.raises(SourceError) as caught:
        speech_processor(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'preprocessor_config.json'}: not log-mel features of a fixed length, which is all that is supported "
        "('Wav2Vec2FeatureExtractor' object has no attribute 'chunk_length')"
    )


# --- text, and what is shipped --------------------------------------------------------------------------


@pytest.fixture
def tokenizer_folder(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "[PAD]": 1, "a": 2, "b": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path / "checkpoint"
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(
        folder
    )
    return folder


def test_text(tokenizer_folder, tmp_path):
    (tmp_path / "a.txt").write_text("a b c a b")
    processor = text_processor(tokenizer_folder, 4)
    inputs = processor(Sample("text", tmp_path / "a.txt"))
    assert inputs["input_ids"].tolist() == [[2, 3, 0, 2]]
    assert inputs["attention_mask"].dtype == np.int64
    assert processor.describe() == {
        "medium": "text",
        "steps": {
            "files": ("tokenizer.json", "tokenizer_config.json"),
            "max_length": 4,
            "inputs": tuple(inputs),
            "special_tokens": {"pad": 1, "unk": 0},
        },
        "files": ["tokenizer.json", "tokenizer_config.json"],
    }
    assert text_processor(tokenizer_folder).steps.max_length is None
    with pytest.raises(
        SourceError, match=r"its tokenizer cannot be opened \(.*\); the folder must hold tokenizer\.json$"
    ):
        text_processor(tmp_path)


def test_what_is_shipped_runs_without_us(tmp_path):
    """An app has the folder only: description, labels, and a graph that gives what the processor gives."""
    out = tmp_path / "out"
    out.mkdir()
    processor = picture_processor(
        with_config(tmp_path, PICTURES["shortest edge, crop"]), None, {1: "dog", 0: "cat"}
    )
    described = ship(processor, out)
    assert json.loads((out / "preprocessing.json").read_text()) == json.loads(json.dumps(described))
    assert described["files"] == ["preprocessor_config.json", "labels.txt", "picture.onnx"]
    assert (out / "labels.txt").read_text() == "cat\ndog\n"
    Image.fromarray(photo()).save(tmp_path / "p.png")
    sample = Sample("image", tmp_path / "p.png")
    raw = raw_input(sample, out, "example_0")
    session = onnxruntime.InferenceSession(out / described["graph"])
    made = session.run([described["steps"]["name"]], {"pixels": np.asarray(Image.open(raw))})[0]
    # Two levels of a byte, through rescale and the smallest std.
    np.testing.assert_allclose(made, processor(sample)["pixel_values"], atol=2.01 / 255 / 0.25)
    speech = ship(speech_processor(with_config(tmp_path, SPEECH)), out)
    assert speech["graph"] == "log_mel.onnx" and (out / "log_mel.onnx").is_file()
    (tmp_path / "t.txt").write_text("a\nb")
    assert raw_input(Sample("text", tmp_path / "t.txt", start=2, size=1), out, "e").read_text() == "b"
