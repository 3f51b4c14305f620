"""The integers of the written files against those that were to be written, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from exporter.backends import get_backend
from exporter.backends.base import PackedLayer, unpacked
from exporter.errors import ArtifactError, GateFailed
from exporter.numerics import QuantizedTensor
from exporter.schemes import QuantScheme
from exporter.targets import Target


def first_difference(
    packed: Mapping[str, PackedLayer],
    schemes: Mapping[str, QuantScheme],
    expected: Callable[[str], QuantizedTensor],
) -> str | None:
    """`layer NAME: what is wrong` of the first layer that differs in one element, or None.

    `packed` is what read_back found, `schemes` all layers of the plan, float ones too.
    """
    for name, scheme in schemes.items():
        if scheme.is_float:
            continue
        try:
            found = _tensor(packed, name, scheme)
        except ValueError as problem:
            return str(problem)
        wanted = expected(name)
        for what, a, b in (
            ("integers", found.values, wanted.values),
            ("scales", found.scales, wanted.scales),
            ("zero points", found.zero_points, wanted.zero_points),
        ):
            if a is not None and b is not None and not np.array_equal(a, b):
                return f"layer {name}: {np.count_nonzero(a != b):,} of {a.size:,} {what} differ"
    extra = sorted(set(packed) - {name for name, scheme in schemes.items() if not scheme.is_float})
    return f"layer {extra[0]}: is quantised in the file, the plan keeps it float" if extra else None


def integers_of(
    folder: Path, targets: Sequence[Target], schemes: Mapping[str, QuantScheme]
) -> Callable[[str], QuantizedTensor]:
    """Layer name -> the integers in the folder's files.

    Raises ArtifactError where they are not what the schemes say, GateFailed where two runtimes' files
    hold different ones.
    """
    first, *others = [get_backend(target.backend) for target in targets]
    packed = first.read_back(folder / first.folder)

    def load(name: str) -> QuantizedTensor:
        return _tensor(packed, name, schemes[name])

    try:
        for name, scheme in schemes.items():
            if not scheme.is_float:
                load(name)
    except ValueError as problem:
        raise ArtifactError(
            f"{folder / first.folder}: {problem}; name the recipe that these files were made of"
        ) from None
    for other in others:
        difference = first_difference(other.read_back(folder / other.folder), schemes, load)
        if difference:
            raise GateFailed(
                f"{folder / other.folder}: does not hold the integers of {folder / first.folder}. "
                f"{difference}; export again with --force"
            )
    return load


def _tensor(packed: Mapping[str, PackedLayer], name: str, scheme: QuantScheme) -> QuantizedTensor:
    """A layer as the plan has it. Raises ValueError, `layer NAME: …`, where the file holds another."""
    layer = packed.get(name)
    if layer is None:
        raise ValueError(f"layer {name}: is not quantised in the file, the plan says {scheme.describe()}")
    if layer.bits != scheme.bits:
        raise ValueError(f"layer {name}: has {layer.bits} bits, the plan says {scheme.describe()}")
    try:
        return unpacked(layer, scheme)
    except ValueError:
        raise ValueError(
            f"layer {name}: is int{layer.bits} of group {layer.group}, the plan says {scheme.describe()}"
        ) from None
