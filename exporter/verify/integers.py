"""The integers of the written files against those that were to be written, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.backends import get_backend
from exporter.backends.base import PackedLayer, unpacked
from exporter.errors import ArtifactError, GateFailed
from exporter.numerics import QuantizedTensor, save_arrays
from exporter.schemes import QuantScheme
from exporter.static.params import StaticPlan
from exporter.targets import Target

INTEGERS = "integers.npz"


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


def static_difference(packed: Mapping[str, PackedLayer], plan: StaticPlan) -> str | None:
    """`layer NAME: what is wrong` of the first static layer whose scales or zero points of activations are not the
    plan's, or None."""
    for name in plan.layers:
        found = packed[name].static if name in packed else None
        if found is None:
            return f"layer {name}: is not between integers in the file, the plan says it is"
        for what, pair, wanted in (
            ("takes", found.input, plan.input_of(name)),
            ("gives", found.output, plan.output_of(name)),
        ):
            begin = 0 if wanted.low >= 0 else -(1 << wanted.bits - 1)  # of the type that holds the codes
            zero_point = wanted.zero_point - begin - 128
            if pair != (wanted.scale, zero_point):
                return (
                    f"layer {name}: what it {what} has scale and zero point {pair[0]:.9g}, {pair[1]}, the plan says "
                    f"{wanted.scale:.9g}, {zero_point}"
                )
    return None


def bias_difference(first: Mapping[str, PackedLayer], second: Mapping[str, PackedLayer]) -> str | None:
    """`layer NAME: what is wrong` of the first static layer whose bias differs between two files, or None."""
    for name, layer in first.items():
        other = second.get(name)
        if layer.static is None or other is None or other.static is None:
            continue
        a, b = layer.static.bias, other.static.bias
        if (a is None) != (b is None) or (a is not None and b is not None and not np.array_equal(a, b)):
            return f"layer {name}: the integers of the bias differ"
    return None


class Comparison:
    """What each runtime's file holds against the plan, and against the first file."""

    def __init__(
        self,
        schemes: Mapping[str, QuantScheme],
        expected: Callable[[str], QuantizedTensor],
        skeleton: object,
    ) -> None:
        self._schemes, self._expected = schemes, expected
        self._plan: StaticPlan | None = getattr(skeleton, "static", None)
        self._first: Mapping[str, PackedLayer] | None = None

    def difference(self, packed: Mapping[str, PackedLayer]) -> str | None:
        """`layer NAME: what is wrong`, or None."""
        found = first_difference(packed, self._schemes, self._expected)
        if self._plan is not None:
            found = found or static_difference(packed, self._plan)
            found = found or bias_difference(self._first or packed, packed)
            self._first = self._first or packed
        return found


def integers_of(
    folder: Path, targets: Sequence[Target], schemes: Mapping[str, QuantScheme]
) -> Callable[[str], QuantizedTensor]:
    """Layer name -> the integers in the folder's files.

    Raises ArtifactError where they are not what the schemes say, GateFailed where two runtimes' files
    hold different ones.
    """
    if (folder / INTEGERS).is_file():
        return _kept(folder, targets, schemes)
    first, *others = [get_backend(target.key) for target in targets]
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
        found = other.read_back(folder / other.folder)
        difference = first_difference(found, schemes, load) or bias_difference(packed, found)
        if difference:
            raise GateFailed(
                f"{folder / other.folder}: does not hold the integers of {folder / first.folder}. "
                f"{difference}; export again with --force"
            )
    return load


def write_integers(
    folder: Path, schemes: Mapping[str, QuantScheme], load: Callable[[str], QuantizedTensor]
) -> None:
    """What compiled files were made of, where a vendor's format hides it: values and scales of every layer."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, scheme in schemes.items():
        if not scheme.is_float:
            tensor = load(name)
            arrays[f"{name}:values"], arrays[f"{name}:scales"] = tensor.values, tensor.scales
    save_arrays(folder / INTEGERS, arrays)


def _kept(
    folder: Path, targets: Sequence[Target], schemes: Mapping[str, QuantScheme]
) -> Callable[[str], QuantizedTensor]:
    """As integers_of, out of the file that write_integers wrote; compared with every file that can be read."""
    arrays = np.load(folder / INTEGERS)

    def load(name: str) -> QuantizedTensor:
        values, scales = (arrays[f"{name}:{part}"] for part in ("values", "scales"))
        return QuantizedTensor(values, scales, None, schemes[name])

    missing = [
        n for n, scheme in schemes.items() if not scheme.is_float and f"{n}:values" not in arrays.files
    ]
    if missing:
        raise ArtifactError(
            f"{folder / INTEGERS}: has no layer {missing[0]}; name the recipe that these files were made of"
        )
    for target in targets:
        backend = get_backend(target.key)
        packed = backend.read_back(folder / backend.folder)
        difference = first_difference(packed, schemes, load) if packed else None
        if difference:
            raise GateFailed(
                f"{folder / backend.folder}: does not hold the integers of {folder / INTEGERS}. {difference}; export "
                "again with --force"
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
