"""What goes into a program and what comes out: names, types, shapes and the axes that may vary. Pure data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

Dtype = Literal["float32", "int64", "int32", "bool", "uint8"]
BATCH = "batch_size"


@dataclass(frozen=True)
class Axis:
    """An axis whose length the caller chooses, within bounds."""

    name: str  # BATCH is fixed to 1 by a backend that takes one example at a time
    minimum: int
    maximum: int
    multiple_of: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.minimum <= self.maximum or self.multiple_of < 1:
            raise ValueError(f"axis {self.name}: lengths {self.minimum} to {self.maximum} are none")


@dataclass(frozen=True)
class Port:
    """One input or output."""

    name: str
    dtype: Dtype
    shape: tuple[int | str, ...]  # a text names an axis


@dataclass(frozen=True)
class Signature:
    """Inputs in the order of the module's positional arguments, outputs in the order of its tuple."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    axes: Mapping[str, Axis]

    def __post_init__(self) -> None:
        for port in (*self.inputs, *self.outputs):
            unknown = [axis for axis in port.shape if isinstance(axis, str) and axis not in self.axes]
            if unknown and port in self.inputs:
                raise ValueError(f"input {port.name}: axis {unknown[0]!r} has no bounds")

    def single(self) -> Signature:
        """The same for one example at a time."""
        axes = {name: replace(axis, maximum=1) if name == BATCH else axis for name, axis in self.axes.items()}
        return replace(self, axes=axes)

    def describe(self) -> dict[str, object]:
        """Names, types, shapes and bounds, for the manifest."""
        return {
            "inputs": [[port.name, port.dtype, list(port.shape)] for port in self.inputs],
            "outputs": [[port.name, port.dtype, list(port.shape)] for port in self.outputs],
            "axes": {name: [axis.minimum, axis.maximum] for name, axis in self.axes.items()},
        }


def within(signature: Signature, longest: int) -> Signature:
    """The same with no axis but the batch longer than `longest`, where the model allows that."""
    axes = {
        name: axis
        if name == BATCH or longest < axis.minimum
        else replace(axis, maximum=min(axis.maximum, longest))
        for name, axis in signature.axes.items()
    }
    return replace(signature, axes=axes)
