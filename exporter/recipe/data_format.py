"""The parts of a recipe that name data: calibration, preprocessing, and what parity is measured on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from exporter.errors import Place
from exporter.folders import data_path, fetch_hint, not_fetched
from exporter.recipe.document import ListNode, MapNode, Node, Problems, ScalarNode, describe
from exporter.recipe.fields import (
    Choice,
    Field,
    Integer,
    JsonSchema,
    ListOf,
    Located,
    MapOf,
    Number,
    OneOrMore,
    Part,
    Record,
    Text,
    TextFile,
    refuse,
)
from exporter.recipe.types import (
    CHANNELS,
    RESAMPLING,
    SHARES,
    Calibration,
    DataSource,
    ParityData,
    PictureSet,
    Preprocessing,
    SpeechSet,
    TextSet,
)

_LANGUAGE = Text(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*", "a language tag such as de or pt-BR")
_TOPIC = r"\S(.*\S)?"
LANGUAGES = ListOf(_LANGUAGE)
_SEED = Field(Integer(0, 2**31 - 1), "which of them", default=0)


@dataclass(frozen=True)
class DataPath:
    """A file or folder that exists, relative to the recipe's folder or, behind `data:`, in the cache.

    A plan needs no data, so a set that is not fetched is no mistake of the recipe; what reads it says so.
    """

    folders: bool  # may it be a folder
    files: bool = True

    def read(self, node: Node, where: str, problems: Problems) -> Path:
        """See Part.read."""
        written = Text(expected=f"the path of a {self._words}").read(node, where, problems)
        path = data_path(written, node.place.path.parent)
        if not_fetched(path):
            return path
        try:
            if (self.files and path.is_file()) or (self.folders and path.is_dir()):
                return path
            wrong = "is a folder" if path.is_dir() else "is a file" if path.is_file() else ""
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            raise refuse(problems, node.place, f"{where}: {path} cannot be looked at: {error}") from None
        if wrong:
            raise refuse(problems, node.place, f"{where}: {path} {wrong}; expected a {self._words}")
        missing = f"there is no {self._words} {path}{fetch_hint(path)}"
        raise refuse(problems, node.place, f"{where}: {missing}")

    @property
    def _words(self) -> str:
        return " or ".join(["file"] * self.files + ["folder"] * self.folders)

    def json_schema(self) -> JsonSchema:
        """See Part.json_schema."""
        return {"type": "string", "pattern": r"\S"}


@dataclass(frozen=True)
class DataText(TextFile):
    """A text file that holds something; of a data set that is not fetched, see DataPath."""

    def read(self, node: Node, where: str, problems: Problems) -> Path:
        """See Part.read."""
        if isinstance(node, ScalarNode) and isinstance(node.value, str):
            path = data_path(node.value, node.place.path.parent)
            if not_fetched(path):
                return path
        return super().read(node, where, problems)


@dataclass(frozen=True)
class Source:
    """A path, or `{path, language, topic}`: what every sample in it is, where a line does not say else."""

    folders: bool

    def read(self, node: Node, where: str, problems: Problems) -> DataSource:
        """See Part.read."""
        if isinstance(node, MapNode):
            return self._record.read(node, where, problems)
        return DataSource(self._path.read(node, where, problems))

    @property
    def _path(self) -> Part[Path]:
        return DataPath(folders=True) if self.folders else DataText()

    @property
    def _record(self) -> Record[DataSource]:
        return Record(
            lambda node, **values: DataSource(**values),
            {
                "path": Field(self._path, "where it is", required=True),
                "language": Field(_LANGUAGE, "language of all that does not name its own"),
                "topic": Field(Text(_TOPIC, "a topic's name"), "topic of all that does not name its own"),
            },
        )

    def json_schema(self) -> JsonSchema:
        """See Part.json_schema."""
        return {"anyOf": [self._path.json_schema(), self._record.json_schema()]}


@dataclass(frozen=True)
class Shares:
    """Names -> shares of the sample. What is left of 1 goes to all other names."""

    name: Text
    what: str  # languages, topics

    def read(self, node: Node, where: str, problems: Problems) -> dict[str, float]:
        """See Part.read."""
        found = self._map.read(node, where, problems)
        total = math.fsum(found.values())
        if total > 1 + 1e-9:
            left = f"they may add up to 1 at most, and what is left of 1 goes to all other {self.what}"
            raise refuse(problems, node.place, f"{where}: the shares add up to {total:.6g}; {left}")
        return found

    @property
    def _map(self) -> MapOf[float]:
        return MapOf(Number(0, 1), self.name.form, self.name.expected)

    def json_schema(self) -> JsonSchema:
        """See Part.json_schema."""
        return self._map.json_schema()


@dataclass(frozen=True)
class Size:
    """One length for both edges, or [height, width]."""

    def read(self, node: Node, where: str, problems: Problems) -> tuple[int, int]:
        """See Part.read."""
        edge = Integer(1, 8192)
        if isinstance(node, ListNode):
            height, width = ListOf(edge, minimum=2, maximum=2).read(node, where, problems)
            return height, width
        if not isinstance(node, ScalarNode):
            text = "expected a number of pixels or [height, width]"
            raise refuse(problems, node.place, f"{where} is {describe(node)}; {text}")
        length = edge.read(node, where, problems)
        return length, length

    def json_schema(self) -> JsonSchema:
        """See Part.json_schema."""
        edge = Integer(1, 8192)
        return {"anyOf": [edge.json_schema(), ListOf(edge, minimum=2, maximum=2).json_schema()]}


def _calibration(
    node: MapNode,
    text: tuple[DataSource, ...] = (),
    pictures: tuple[DataSource, ...] = (),
    audio: tuple[DataSource, ...] = (),
    python: tuple[str, Place] | None = None,
    **values: object,
) -> Calibration:
    function, place = python or (None, node.place)
    return Calibration(text, pictures, audio, function, place=place, **values)  # type: ignore[arg-type]


CALIBRATION = Record(
    _calibration,
    {
        "text": Field(
            ListOf(Source(folders=False)), "text files, or .jsonl with the fields text, language, topic"
        ),
        "pictures": Field(ListOf(Source(folders=True)), "pictures, or folders of them"),
        "audio": Field(ListOf(Source(folders=True)), "wav files, or folders of them"),
        "python": Field(
            Located(Text(r"[\w.]+:\w+", "module:function")),
            "a function that gives tuples of tensors, one for each sample",
        ),
        "samples": Field(Integer(1, 100_000), "how many samples are drawn", default=128),
        "seed": _SEED,
        "share": Field(
            Choice(SHARES),
            "only texts of one share, divided by the sha256 of each: calibration 70 %, development 15 %, test 15 %",
        ),
        "languages": Field(Shares(_LANGUAGE, "languages"), "share of the samples for each language"),
        "topics": Field(
            Shares(Text(_TOPIC, "a topic's name"), "topics"), "share of the samples for each topic"
        ),
    },
    {"anyOf": [{"required": [key]} for key in ("text", "pictures", "audio", "python")]},
)

_CHANNEL_VALUES = ListOf(Number(-1024, 1024), minimum=1, maximum=4)

PREPROCESSING = Record(
    lambda node, **values: Preprocessing(**values),
    {
        "size": Field(Size(), "pixels that the model takes, one number or [height, width]", required=True),
        "crop": Field(
            Number(0.01, 1),
            "share of the resized picture that is kept, the middle; without it, both edges are resized to size",
        ),
        "rescale": Field(
            Number(1e-6, 1), "factor on the 0 to 255 of a picture, before mean and std", default=1 / 255
        ),
        "mean": Field(_CHANNEL_VALUES, "taken from each channel"),
        "std": Field(_CHANNEL_VALUES, "what each channel is divided by"),
        "channels": Field(Choice(CHANNELS), "order of the colours", default="RGB"),
        "resample": Field(Choice(RESAMPLING), "how pixels are interpolated", default="bilinear"),
        "labels": Field(DataPath(folders=False), "a text file, a label on each line"),
    },
)

_MOST = Field(Integer(1, 1_000_000), "how many are used; all where it is not given")

_PICTURES = Record(
    lambda node, **values: PictureSet(**values),
    {
        "folder": Field(DataPath(folders=True, files=False), "pictures", required=True),
        "labels": Field(
            DataPath(folders=False),
            "jsonl with the fields file, label; without it, a picture's folder is its label, and of pictures in no "
            "folder only agreement with the float model is measured",
        ),
        "samples": _MOST,
        "seed": _SEED,
    },
)

PARITY_DATA = Record(
    lambda node, **values: ParityData(**values),
    {
        "pictures": Field(
            OneOrMore(_PICTURES), "pictures, with labels where they are known; one set or several"
        ),
        "audio": Field(
            Record(
                lambda node, **values: SpeechSet(**values),
                {
                    "folder": Field(DataPath(folders=True, files=False), "wav files", required=True),
                    "transcripts": Field(
                        DataPath(folders=False),
                        "jsonl with the fields file, text, language; without it, only agreement is measured",
                    ),
                    "samples": _MOST,
                    "seed": _SEED,
                },
            ),
            "speech with what is said",
        ),
        "text": Field(
            Record(
                lambda node, **values: TextSet(**values),
                {
                    "files": Field(
                        ListOf(Source(folders=False)),
                        "text files, or .jsonl with the fields text, label, target, language, topic",
                        required=True,
                    ),
                    "samples": _MOST,
                    "seed": _SEED,
                },
            ),
            "texts, with labels or expected outputs where there are any",
        ),
    },
)
