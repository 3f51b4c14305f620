"""From a text, a picture or a clip to a model's inputs: through transformers' own processors, and as data.

The description is what an app needs to do the same on the phone; it goes into the manifest. It is checked
against the processor on a picture or a clip, and says so where it leaves something out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from exporter.errors import SourceError, first_line
from exporter.recipe import Preprocessing
from exporter.samples.audio import Clip, read_wav
from exporter.samples.files import Medium, Sample
from exporter.samples.images import Pixels, read_picture
from exporter.samples.text import read_text

Inputs = dict[str, NDArray[Any]]  # by the names of the model's forward, batch axis first, one example
FloatArray = NDArray[np.float32]
PREPROCESSOR = "preprocessor_config.json"
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
    "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "chat_template.jinja",
)  # fmt: skip
_RESAMPLING = ("nearest", "lanczos", "bilinear", "bicubic")  # by Pillow's numbers


@dataclass(frozen=True)
class PictureSteps:
    """What becomes of a picture, in this order: resize, crop the middle, factor, mean and std, (1, 3, H, W)."""

    resize: Literal["both edges", "shortest edge"] | None
    resize_to: tuple[int, int]  # height, width; one number twice for the shortest edge
    crop: tuple[int, int] | None  # height, width
    resample: str
    rescale: float  # factor on 0 to 255
    mean: tuple[float, ...]  # of each channel
    std: tuple[float, ...]
    channels: str = "RGB"
    name: str = "pixel_values"  # of the model's input
    undescribed: str | None = None  # what the processor does besides

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after the resize. The longer edge is cut to a whole pixel, as transformers does."""
        if self.resize == "shortest edge":
            short, to = min(height, width), self.resize_to[0]
            return int(to * height / short), int(to * width / short)
        return self.resize_to if self.resize else (height, width)

    def __call__(self, pixels: Pixels) -> FloatArray:
        """(height, width, 3) RGB, 0 to 255 -> (1, 3, H, W)."""
        from PIL import Image

        height, width = self.resized(*pixels.shape[:2])
        if (height, width) != pixels.shape[:2]:
            method = Image.Resampling(_RESAMPLING.index(self.resample))
            pixels = np.asarray(Image.fromarray(pixels).resize((width, height), method))
        if self.crop:
            pixels = _middle(pixels, *self.crop)
        scaled = pixels.astype(np.float32) * np.float32(self.rescale)
        if self.channels == "BGR":
            scaled = scaled[:, :, ::-1]
        mean, std = (np.array(values, np.float32) for values in (self.mean, self.std))
        return np.ascontiguousarray(((scaled - mean) / std).transpose(2, 0, 1)[None], np.float32)


@dataclass(frozen=True)
class SpeechSteps:
    """Log-mel features: padding or cutting to a length, Hann window, power spectrum, mel filters, logarithm."""

    sampling_rate: int  # Hz
    seconds: float  # of sound that the model takes
    n_fft: int  # samples in a window
    hop: int  # samples between two windows
    n_mels: int
    mel_filters: tuple[tuple[float, ...], ...] = field(repr=False)  # (n_fft / 2 + 1, n_mels)
    floor: float = 1e-10  # of a power, before the logarithm
    range: float = 8.0  # decades below the loudest that are kept; the result is (log10 + 4) / 4
    name: str = "input_features"
    undescribed: str | None = None

    @property
    def samples(self) -> int:
        """What the model takes, in samples."""
        return round(self.sampling_rate * self.seconds)

    def __call__(self, samples: FloatArray) -> FloatArray:
        """(n,) sound -> (1, n_mels, frames); frames are centred, the edges mirrored, the last frame dropped."""
        sound = np.zeros(self.samples, np.float64)
        sound[: len(samples)] = samples[: self.samples]
        padded = np.pad(sound, self.n_fft // 2, "reflect")
        frames = np.lib.stride_tricks.sliding_window_view(padded, self.n_fft)[:: self.hop][:-1]
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.n_fft) / self.n_fft)
        power = np.abs(np.fft.rfft(frames * window)) ** 2  # (frames, n_fft / 2 + 1)
        mel = np.log10(np.maximum(power @ np.asarray(self.mel_filters), self.floor)).T
        features: FloatArray = ((np.maximum(mel, mel.max() - self.range) + 4) / 4)[None].astype(np.float32)
        return features


@dataclass(frozen=True)
class TextSteps:
    """Tokens by the files of a tokenizer."""

    files: tuple[str, ...]
    max_length: int | None  # tokens; longer texts are cut
    inputs: tuple[str, ...]  # what the tokenizer gives the model
    special_tokens: Mapping[str, int] = field(default_factory=dict)


Steps = PictureSteps | SpeechSteps | TextSteps


@dataclass(frozen=True)
class Processor:
    """What makes a model's inputs of one sample, and the same as data."""

    medium: Medium
    steps: Steps
    files: tuple[Path, ...]  # that an app needs
    prepare: Callable[[Any], Inputs] = field(repr=False)  # of what read() gives
    labels: Mapping[int, str] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None  # the checkpoint's own preprocessor_config.json

    def read(self, sample: Sample) -> str | Pixels | Clip:
        """A sample's content: text, (height, width, 3) RGB, or sound at the model's rate."""
        if isinstance(self.steps, SpeechSteps):
            return read_wav(sample.path, self.steps.sampling_rate)
        return read_text(sample) if self.medium == "text" else read_picture(sample.path)

    def __call__(self, sample: Sample) -> Inputs:
        """A sample -> the model's inputs."""
        return self.prepare(self.read(sample))

    def describe(self) -> dict[str, Any]:
        """For the manifest: everything that an app has to do, and nothing of this machine."""
        steps = asdict(self.steps)
        if isinstance(
            self.steps, SpeechSteps
        ):  # (n_fft / 2 + 1, n_mels) mostly zeros: stated, and in the graph
            del steps["mel_filters"]
            steps["window"] = "periodic Hann"
            steps["mel_filters"] = "in log_mel.onnx, or by the processor named in config"
        data: dict[str, Any] = {
            "medium": self.medium,
            "steps": steps,
            "files": [path.name for path in self.files],
        }
        if self.labels:
            data["labels"] = [self.labels[number] for number in sorted(self.labels)]
        if self.config is not None:
            data["config"] = dict(self.config)
        return data


def text_processor(folder: Path, max_length: int | None = None) -> Processor:
    """The checkpoint's tokenizer. Raises SourceError where it has none."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
    except Exception as problem:  # transformers raises OSError, ValueError and more for one cause
        raise SourceError(
            f"{folder}: its tokenizer cannot be opened ({first_line(problem)}); the folder must hold tokenizer.json"
        ) from problem
    limit = min(max_length or tokenizer.model_max_length, tokenizer.model_max_length)
    most = limit if limit < 1 << 30 else None  # transformers says "none" by a huge number

    def prepare(text: str) -> Inputs:
        encoded = tokenizer(text, truncation=most is not None, max_length=most, return_tensors="np")
        return {name: np.asarray(values, np.int64) for name, values in encoded.items()}

    special = {
        name: int(getattr(tokenizer, f"{name}_token_id"))
        for name in ("bos", "eos", "pad", "unk", "sep", "cls", "mask")
        if getattr(tokenizer, f"{name}_token_id", None) is not None
    }
    files = tuple(folder / name for name in TOKENIZER_FILES if (folder / name).is_file())
    steps = TextSteps(tuple(path.name for path in files), most, tuple(prepare("a")), special)
    return Processor("text", steps, files, prepare)


def picture_processor(
    folder: Path | None, preprocessing: Preprocessing | None, labels: Mapping[int, str] | None = None
) -> Processor:
    """The recipe's own preprocessing, else the checkpoint's image processor (its Pillow form).

    Raises SourceError where there is neither, or where labels and model do not fit.
    """
    names = dict(labels or {})
    if preprocessing is not None:
        steps = _stated(preprocessing)
        if preprocessing.labels:
            names = _label_file(preprocessing.labels, names)
        return Processor("image", steps, (), lambda pixels: {steps.name: steps(pixels)}, names)
    if folder is None or not (folder / PREPROCESSOR).is_file():
        raise SourceError(
            f"{folder or 'this model'}: has no {PREPROCESSOR}, so nothing says what becomes of a picture; "
            "state it in the recipe, e.g. model: {preprocessing: {size: 224, crop: 0.875, mean: [0.485, 0.456, 0.406], "
            "std: [0.229, 0.224, 0.225]}}"
        )
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(str(folder), backend="pil")
    except Exception as problem:
        raise SourceError(f"{folder / PREPROCESSOR}: cannot be used ({first_line(problem)})") from problem

    def prepare(pixels: Pixels) -> Inputs:
        encoded = processor(images=pixels, return_tensors="np", input_data_format="channels_last")
        return {name: np.asarray(values) for name, values in encoded.items()}

    described = _checked(_described(processor), prepare)
    return Processor("image", described, (folder / PREPROCESSOR,), prepare, names, _config_of(folder))


def speech_processor(folder: Path) -> Processor:
    """The checkpoint's feature extractor. Raises SourceError where it has none."""
    from transformers import AutoFeatureExtractor

    if not (folder / PREPROCESSOR).is_file():
        raise SourceError(
            f"{folder}: has no {PREPROCESSOR}, so nothing says what becomes of sound; put it beside config.json"
        )
    try:
        extractor = AutoFeatureExtractor.from_pretrained(str(folder))
        steps = SpeechSteps(
            int(extractor.sampling_rate),
            float(extractor.chunk_length),
            int(extractor.n_fft),
            int(extractor.hop_length),
            int(extractor.feature_size),
            tuple(tuple(map(float, row)) for row in np.asarray(extractor.mel_filters)),
            name=extractor.model_input_names[0],
        )
    except Exception as problem:
        raise SourceError(
            f"{folder / PREPROCESSOR}: not log-mel features of a fixed length, which is all that is supported "
            f"({first_line(problem)})"
        ) from problem

    def prepare(clip: Clip) -> Inputs:
        encoded = extractor(clip.samples, sampling_rate=clip.rate, return_tensors="np")
        return {name: np.asarray(values) for name, values in encoded.items()}

    described = _checked_sound(steps, extractor)
    return Processor("audio", described, (folder / PREPROCESSOR,), prepare, config=_config_of(folder))


def _stated(stated: Preprocessing) -> PictureSteps:
    """A recipe's preprocessing as steps."""
    height, width = stated.size
    crop = None
    resize: Literal["both edges", "shortest edge"] = "both edges"
    to = stated.size
    if stated.crop is not None:
        resize, crop = "shortest edge", stated.size
        to = (round(min(height, width) / stated.crop),) * 2
    mean, std = (tuple(v * 3 if len(v) == 1 else v) for v in (stated.mean, stated.std))
    return PictureSteps(resize, to, crop, stated.resample, stated.rescale, mean, std, stated.channels)


def _described(processor: Any) -> PictureSteps:
    """What an image processor says of itself."""
    size = dict(processor.size or {})
    resize: Literal["both edges", "shortest edge"] | None = None
    to = (0, 0)
    if processor.do_resize and size.get("shortest_edge"):
        resize, to = "shortest edge", (int(size["shortest_edge"]),) * 2
    elif processor.do_resize and size.get("height"):
        resize, to = "both edges", (int(size["height"]), int(size["width"]))
    crop = None
    if getattr(processor, "do_center_crop", False):
        edges = dict(processor.crop_size)
        crop = (int(edges["height"]), int(edges["width"]))
    normal = bool(processor.do_normalize)
    others = sorted({key for key, value in size.items() if value} - {"height", "width", "shortest_edge"})
    return PictureSteps(
        resize,
        to,
        crop,
        _RESAMPLING[int(processor.resample)] if int(processor.resample) < len(_RESAMPLING) else "other",
        float(processor.rescale_factor) if processor.do_rescale else 1.0,
        _three(processor.image_mean if normal else 0.0),
        _three(processor.image_std if normal else 1.0),
        name=processor.model_input_names[0],
        undescribed=f"{', '.join(others)} of size; see config" if others else None,
    )


def _three(value: Any) -> tuple[float, ...]:
    return tuple(float(v) for v in value) if isinstance(value, list | tuple) else (float(value),) * 3


def _checked(steps: PictureSteps, prepare: Callable[[Pixels], Inputs]) -> PictureSteps:
    """The steps, with a word where the processor computes something else on a picture of noise."""
    if steps.undescribed:
        return steps
    pixels = np.random.default_rng(0).integers(0, 256, (97, 131, 3), np.uint8)
    theirs = prepare(pixels)[steps.name]
    try:
        ours = steps(pixels)
    except (ValueError, TypeError) as problem:
        return _left_out(steps, first_line(problem))
    if ours.shape != theirs.shape:
        return _left_out(steps, f"a picture of 97x131 becomes {theirs.shape}, by these steps {ours.shape}")
    worst = float(np.abs(ours - theirs).max())
    if worst > 1e-5 * max(1.0, float(np.abs(theirs).max())):  # float32 in another order of operations
        return _left_out(steps, f"values differ by up to {worst:.3g}")
    return steps


def _left_out(steps: PictureSteps, what: str) -> PictureSteps:
    return replace(steps, undescribed=f"the processor does more than these steps: {what}; see config")


def _checked_sound(steps: SpeechSteps, extractor: Any) -> SpeechSteps:
    """The steps, with a word where the extractor computes something else on a second of noise.

    The extractor's own float32 spectrum differs from ours by 1e-5 of the result (its documentation).
    """
    sound = np.random.default_rng(0).normal(scale=0.1, size=steps.sampling_rate).astype(np.float32)
    theirs = np.asarray(extractor(sound, sampling_rate=steps.sampling_rate, return_tensors="np")[steps.name])
    ours = steps(sound)
    worst = float(np.abs(ours - theirs).max()) if ours.shape == theirs.shape else float("inf")
    if worst > 1e-4:
        return replace(
            steps, undescribed=f"the extractor computes otherwise, by up to {worst:.3g}; see config"
        )
    return steps


def _middle(pixels: Pixels, height: int, width: int) -> Pixels:
    """The middle of a picture; a smaller one gets a border of zeros."""
    have_height, have_width = pixels.shape[:2]
    if have_height < height or have_width < width:
        top, left = max(0, -((have_height - height) // 2)), max(0, -((have_width - width) // 2))
        wide = np.zeros((max(height, have_height), max(width, have_width), 3), np.uint8)
        wide[top : top + have_height, left : left + have_width] = pixels
        pixels, (have_height, have_width) = wide, wide.shape[:2]
    top, left = (have_height - height) // 2, (have_width - width) // 2
    return pixels[top : top + height, left : left + width]


def _label_file(path: Path, known: Mapping[int, str]) -> dict[int, str]:
    """A label a line, in the order of the model's classes."""
    names = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    if known and len(names) != len(known):
        raise SourceError(
            f"{path}: {len(names):,} labels, the model has {len(known):,} classes; give one line for each class"
        )
    return dict(enumerate(names))


def _config_of(folder: Path) -> Mapping[str, Any]:
    import json

    found: Mapping[str, Any] = json.loads((folder / PREPROCESSOR).read_text("utf-8"))
    return found
