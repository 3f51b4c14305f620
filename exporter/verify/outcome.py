"""What a ladder of any task gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from exporter.parity import ParityReport
from exporter.parity.tasks import TaskReport
from exporter.samples.files import Sample


@dataclass(frozen=True)
class GoldenInput:
    """What one golden example was made of: a person's text, picture or sound, and the model's inputs."""

    sample: Sample | None
    tensors: Mapping[str, NDArray[Any]] = field(default_factory=dict)  # those too large for JSON


@dataclass(frozen=True)
class Verified:
    """The ladder's outcome, and what travels with the files so that a device can replay it."""

    parity: ParityReport
    golden: dict[str, Any]
    notes: tuple[str, ...] = ()
    tasks: TaskReport | None = None
    inputs: tuple[GoldenInput, ...] = ()  # of golden's examples, in their order
