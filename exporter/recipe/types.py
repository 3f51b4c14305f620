"""What a recipe is, once read: frozen dataclasses that cannot hold a wrong state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
ON_UNSUPPORTED: tuple[str, ...] = get_args(OnUnsupported)


@dataclass(frozen=True)
class ModelSource:
    """Where the model comes from and what it does."""

    source: str  # a folder, hf:ORG/NAME@REV, package:DIST/FILE or python:module:function
    task: Task
    place: Place  # of the source


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
class Calibration:
    """Text that activations are observed on."""

    text: tuple[Path, ...]
    samples: int = 128
    seed: int = 0


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


@dataclass(frozen=True)
class Parity:
    """Gates, and what they are measured on."""

    lowering: LoweringGate = LoweringGate()
    quantisation: QuantisationGate = QuantisationGate()
    text: tuple[Path, ...] = ()
    prompts: tuple[str, ...] = ()


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
    parity: Parity = Parity()

    def __post_init__(self) -> None:
        if not self.rules or not self.targets:
            raise ValueError("a recipe needs a rule and a target")
