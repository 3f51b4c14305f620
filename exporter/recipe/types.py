"""What a recipe is, once read: frozen dataclasses that cannot hold a wrong state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from exporter.errors import Place
from exporter.layers import Kind
from exporter.recipe.patterns import Pattern
from exporter.schemes import QuantScheme
from exporter.targets import Target
from exporter.tasks import Task

OnUnsupported = Literal["error", "float"]
Dimension = int | Literal["*"]
Share = Literal["calibration", "development", "test"]
SHARES: tuple[str, ...] = get_args(Share)
Channels = Literal["RGB", "BGR"]
Resampling = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Step = Literal["method", "mix", "qat", "int8"]
TrainedBy = Literal["block", "model"]
STEPS: tuple[Step, ...] = get_args(Step)
TRAINED_BY: tuple[str, ...] = get_args(TrainedBy)
LIMITS = (
    "max_mb",
    "max_kl",
    "min_top1",
    "max_ppl_ratio",
    "min_accuracy_ratio",
    "max_safety_shift",
    "min_tokens_per_second",
)
ON_UNSUPPORTED: tuple[str, ...] = get_args(OnUnsupported)
CHANNELS: tuple[str, ...] = get_args(Channels)
RESAMPLING: tuple[str, ...] = get_args(Resampling)


@dataclass(frozen=True)
class Preprocessing:
    """What becomes of a picture before the model sees it, for a model that does not say so itself."""

    size: tuple[int, int]  # height, width, pixels
    crop: float | None = None  # share of the resized picture that is kept; None: both edges resized to size
    rescale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)  # of each channel, or one for all
    std: tuple[float, ...] = (1.0,)
    channels: Channels = "RGB"
    resample: Resampling = "bilinear"
    labels: Path | None = None

    def __post_init__(self) -> None:
        if any(value <= 0 for value in self.std):
            raise ValueError(f"std is {list(self.std)}; each must be above 0")
        counts = sorted({len(self.mean), len(self.std)} - {1})
        if len(counts) > 1 or counts not in ([], [3]):
            raise ValueError(
                f"mean has {len(self.mean)} values and std {len(self.std)}; give one for all channels, or three"
            )


@dataclass(frozen=True)
class ModelSource:
    """Where the model comes from and what it does."""

    source: str  # a folder, hf:ORG/NAME@REV, package:DIST/FILE or python:module:function
    task: Task
    place: Place  # of the source
    preprocessing: Preprocessing | None = None
    languages: tuple[str, ...] = ()  # that the model is used in


@dataclass(frozen=True)
class SchemeEntry:
    """A scheme and where it is written."""

    scheme: QuantScheme
    place: Place
    group_place: Place  # of the group, or of the scheme where the group is left to its default


@dataclass(frozen=True)
class Rule:
    """`match`, `kind` and `shape` must all fit; the first rule that fits a layer decides it."""

    index: int  # from 0
    place: Place
    scheme: QuantScheme
    scheme_place: Place
    match: Pattern | None = None
    match_place: Place | None = None
    kind: Kind | None = None
    shape: tuple[Dimension, ...] | None = None
    because: str | None = None

    def __post_init__(self) -> None:
        if self.match is None and self.kind is None and self.shape is None:
            raise ValueError("a rule needs match, kind or shape")

    @property
    def text(self) -> str:
        """What the rule asks for, in one line: `**.v_proj`, `kind linear`, `shape [*, 576]`."""
        parts = [self.match.text] if self.match else []
        parts += [f"kind {self.kind}"] if self.kind else []
        parts += [f"shape [{', '.join(map(str, self.shape))}]"] if self.shape else []
        return " + ".join(parts)

    @property
    def label(self) -> str:
        """The rule in a message about another one."""
        return f"rule {self.index + 1} ({self.text}, line {self.place.line})"


@dataclass(frozen=True)
class DataSource:
    """A file or folder of samples; language and topic are those of all that does not name its own."""

    path: Path
    language: str | None = None
    topic: str | None = None


@dataclass(frozen=True)
class Calibration:
    """Samples that activations are observed on: of one medium, or tensors from a Python function."""

    text: tuple[DataSource, ...] = ()
    pictures: tuple[DataSource, ...] = ()
    audio: tuple[DataSource, ...] = ()
    python: str | None = None  # module:function
    samples: int = 128
    seed: int = 0
    languages: Mapping[str, float] = field(default_factory=dict)  # name -> share of the samples
    topics: Mapping[str, float] = field(default_factory=dict)
    share: Share | None = None  # of the texts, divided by their hashes; None: all of them
    place: Place | None = None  # of `python`, else of the whole entry

    def __post_init__(self) -> None:
        given = [key for key in ("text", "pictures", "audio", "python") if getattr(self, key)]
        if len(given) != 1:
            found = f"here are {' and '.join(given)}" if given else "here is none"
            raise ValueError(f"give one of text, pictures, audio, python; {found}")
        if self.share and not self.text:
            raise ValueError("share divides texts; pictures, sound and tensors have none")
        if self.python and (self.languages or self.topics):
            raise ValueError("tensors of a python function have no languages and no topics to take shares of")

    @property
    def sources(self) -> tuple[DataSource, ...]:
        """The files and folders, whatever their medium."""
        return self.text or self.pictures or self.audio


@dataclass(frozen=True)
class LoweringGate:
    """Limit on the error that a runtime adds to the dequantised weights; None: reported, not judged."""

    max_rel: float | None = None


@dataclass(frozen=True)
class QuantisationGate:
    """Limits on what the integers lose against the float model; None: reported, not judged."""

    max_kl: float | None = None
    min_top1: float | None = None
    max_ppl_ratio: float | None = None
    min_cosine: float | None = None
    min_language_cosine: float | None = None


@dataclass(frozen=True)
class TaskGate:
    """Limits on what a task's user would notice, over all examples of a set; None: reported, not judged."""

    max_accuracy_loss: float | None = None  # share of examples, float less runtime
    min_agreement: float | None = None  # share of examples
    max_word_error_rise: float | None = None  # share of words, runtime less float


@dataclass(frozen=True)
class PictureSet:
    """Pictures; without a file of labels, a picture's folder is its label, and pictures in no folder have none."""

    folder: Path
    labels: Path | None = None
    samples: int | None = None  # None: all
    seed: int = 0


@dataclass(frozen=True)
class SpeechSet:
    """Wav files with what is said in them."""

    folder: Path
    transcripts: Path | None = None
    samples: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class TextSet:
    """Texts, with labels or expected outputs where their lines have them."""

    files: tuple[DataSource, ...]
    samples: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class ParityData:
    """What the metrics of a task are measured on."""

    pictures: tuple[PictureSet, ...] = ()
    audio: SpeechSet | None = None
    text: TextSet | None = None

    def __post_init__(self) -> None:
        if not self.pictures and self.audio is None and self.text is None:
            raise ValueError("give at least one of pictures, audio, text")


@dataclass(frozen=True)
class Parity:
    """Gates, and what they are measured on."""

    lowering: LoweringGate = LoweringGate()
    quantisation: QuantisationGate = QuantisationGate()
    tasks: TaskGate = TaskGate()
    text: tuple[Path, ...] = ()
    prompts: tuple[str, ...] = ()
    data: ParityData | None = None


@dataclass(frozen=True)
class Envelope:
    """What a release must be, each runtime's files against the float model; None: not asked for."""

    max_kl: float | None = None  # mean, nats per token, on parity.text
    min_top1: float | None = None  # share of tokens with the same most likely next token
    max_ppl_ratio: float | None = None
    max_mb: float | None = None  # of each target's model files, 10^6 bytes
    min_accuracy_ratio: float | None = None  # right answers over the float model's, multiple choice
    max_safety_shift: float | None = None  # share of harmful requests that are refused no more
    min_tokens_per_second: float | None = None  # decoding, on this machine
    ladder: tuple[Step, ...] = STEPS  # what is tried in turn when the recipe as written misses it
    items: int | None = None  # of each suite of questions; None: as `qexport evaluate` has it
    place: Place | None = None

    def __post_init__(self) -> None:
        if not self.limits:
            raise ValueError("an envelope needs at least one limit")

    @property
    def limits(self) -> dict[str, float]:
        """Those that are set, by key."""
        return {key: value for key in LIMITS if (value := getattr(self, key)) is not None}


@dataclass(frozen=True)
class Training:
    """Quantisation-aware training on the calibration text: of which layers, and how."""

    by: TrainedBy | None = None  # None: blocks of a language model, a module as a whole
    layers: tuple[tuple[Pattern, Place], ...] = ()  # of the quantised ones; none: all that can be trained so
    weights: bool = True  # False: scales only
    steps: int = 150  # each sees one window of text; by block: for each block
    learning_rate: float | None = None  # of weights, in steps between two integers; None: rate()
    scale_rate: float = 0.0002  # of scales, as a share of each
    samples: int = 256  # texts, drawn as those of calibration
    seed: int = 0
    patience: int | None = None  # by model: evaluations of held-out text without gain until it stops; None: 2
    place: Place | None = None

    def trained_by(self, task: Task) -> TrainedBy:
        """What is taught at once."""
        return self.by or ("block" if task == "text-generation" else "model")

    def rate(self, task: Task) -> float:
        """The learning rate, which a block bears higher: its gradient is hardly noise."""
        return self.learning_rate or (0.015 if self.trained_by(task) == "block" else 0.001)


@dataclass(frozen=True)
class Recipe:
    """A whole recipe, with the text it came from."""

    name: str
    model: ModelSource
    schemes: Mapping[str, SchemeEntry]
    rules: tuple[Rule, ...]
    targets: tuple[Target, ...]
    path: Path
    text: str
    sha256: str  # of the file's bytes
    rules_place: Place
    target_places: tuple[Place, ...]
    on_unsupported: OnUnsupported = "error"
    calibration: Calibration | None = None
    qat: Training | None = None
    parity: Parity = Parity()
    envelope: Envelope | None = None

    def __post_init__(self) -> None:
        if not self.rules or not self.targets:
            raise ValueError("a recipe needs a rule and a target")
