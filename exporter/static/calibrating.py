"""Ranges of a program's values on samples: the float program runs, and every value that will be integers is looked at.

The samples are a stream that can be begun again: once for the smallest and largest values, and once more where an
observer wants a histogram within them. Memory is one sample's run and one histogram for each value.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from exporter.errors import QexportError, first_line
from exporter.schemes import Observer
from exporter.static.observers import OBSERVERS, ChannelMeans, Extent, Histogram, sample_warning
from exporter.static.params import (
    LayerValues,
    StaticPlan,
    ValueParams,
    params_for,
    symmetric_params,
    wide_params,
)
from exporter.static.placing import Placement
from exporter.static.tidying import constant
from exporter.static.whole import joined

Sample = tuple[torch.Tensor, ...]
Samples = Callable[[], Iterable[Sample]]
Observing = Extent | Histogram | ChannelMeans
_REACH = 12.0  # e^-12 is 6e-6: less than half a step of 16-bit codes between 0 and 1
_FORMAT = 2  # of the cache; raise where the same samples would give other ranges


@dataclass(frozen=True)
class Pass:
    """A float program, which of its values will be integers, and what it is run on."""

    program: ExportedProgram
    placement: Placement
    samples: Samples


def calibrate(
    passes: Sequence[Pass], identity: str, cache: Path | None, progress: Callable[[str, float], None]
) -> tuple[StaticPlan, tuple[str, ...]]:
    """Scales and zero points of every value that becomes integers, and what a person should know.

    Several programs of the same layers are looked at together: a value of the same name has one range. `identity`: a
    hash of the weights; results are kept in the folder `cache` by that and the samples' content. Raises QexportError
    for samples that a program does not take, or values that are not finite.
    """
    placement = joined([each.placement for each in passes])
    contents = [_content(each.samples) for each in passes]
    count = sum(number for _, number in contents)
    notes = tuple(_too_few(placement, count))
    key = _key(placement, identity, " ".join(digest for digest, _ in contents))
    place = cache / "ranges" / f"{key}.json" if cache else None
    kept = _read(place) if place else None
    if kept is not None:
        return kept, notes
    plan = _measure(passes, placement, count, progress)
    if place is not None:
        _write(place, plan)
    return plan, notes


def _measure(
    passes: Sequence[Pass], placement: Placement, count: int, progress: Callable[[str, float], None]
) -> StaticPlan:
    names = sorted(set(placement.integer.values()) - set(placement.constants))
    extents = {name: Extent() for name in names}
    means = {layer: ChannelMeans(1 if placement.convolves[layer] else -1) for layer in placement.layers}
    takers: dict[str, list[Observing]] = {name: [extent] for name, extent in extents.items()}
    for layer, (source, _) in placement.layers.items():
        takers[source].append(means[layer])
    counting = [name for name in names if placement.observers[name] != "minmax"]
    total = count * (2 if counting else 1)
    for number in _look(passes, names, takers):
        progress("ranges", number / total)
    histograms = {name: Histogram(extents[name]) for name in names}
    if counting:
        for number in _look(passes, counting, {name: [histograms[name]] for name in counting}):
            progress("histograms", (count + number) / total)
    ranges = {name: OBSERVERS[placement.observers[name]](histograms[name], placement.codes) for name in names}
    ranges.update(_constant_ranges(passes))
    ranges.update(placement.fixed)
    for group in placement.alike:
        low = min(ranges[name][0] for name in group)
        high = max(ranges[name][1] for name in group)
        ranges.update(dict.fromkeys(group, (low, high)))
    return StaticPlan(
        {name: _params(placement, name, *found) for name, found in sorted(ranges.items())},
        {layer: LayerValues(*pair) for layer, pair in placement.layers.items()},
        {layer: found.means for layer, found in means.items()},
    )


def _look(
    passes: Sequence[Pass], names: Collection[str], takers: Mapping[str, Sequence[Observing]]
) -> Iterator[int]:
    """Show every sample's values of these names to their observers; how many samples were run so far."""
    number = 0
    for each in passes:
        watch = {node: name for node, name in _watched(each.placement).items() if name in names}
        module = each.program.module(check_guards=False)
        for sample in each.samples():
            number += 1
            _run(module, sample, watch, takers, number, each.placement.scores)
            yield number


def _constant_ranges(passes: Sequence[Pass]) -> dict[str, tuple[float, float]]:
    """Of every constant; where programs hold different ones under a name, of all of them."""
    found: dict[str, tuple[float, float]] = {}
    for each in passes:
        for name, held in each.placement.constants.items():
            value = constant(each.program, held)
            low, high = found.get(name, (float(value.min()), float(value.max())))
            found[name] = (min(low, float(value.min())), max(high, float(value.max())))
    return found


def _params(placement: Placement, name: str, low: float, high: float) -> ValueParams:
    if name in placement.wide:
        return wide_params(low, high)
    balanced = any(name in group for group in placement.alike if group & placement.balanced)
    if placement.symmetric or balanced or name in placement.balanced:
        return symmetric_params(low, high, placement.codes)
    return params_for(low, high, placement.codes)


def _cut(value: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores of a softmax over the last axis without what is too low to count: its weight would be below
    e^-_REACH of the largest of its row."""
    found: NDArray[np.float32] = np.maximum(value, value.max(axis=-1, keepdims=True) - np.float32(_REACH))
    return found


def _watched(placement: Placement) -> dict[str, str]:
    """Name of the node whose result is the value -> name of the value."""
    clamp_of = {producer: clamp for clamp, producer in placement.clamps.items()}
    return {clamp_of.get(node, node).name: name for node, name in placement.integer.items()}


class _Watching(torch.fx.Interpreter):
    """Runs a program and shows the results of some of its nodes."""

    def __init__(self, module: torch.fx.GraphModule, look: Callable[[str, torch.Tensor], None]) -> None:
        super().__init__(module)  # values nobody needs any more are let go of
        self.extra_traceback = False  # it would be added to our own message
        self._look = look

    def run_node(self, n: torch.fx.Node) -> Any:
        """See torch.fx.Interpreter."""
        result = super().run_node(n)
        if isinstance(result, torch.Tensor):
            self._look(n.name, result)
        return result


def _run(
    module: torch.nn.Module,
    sample: Sample,
    watch: Mapping[str, str],
    found: Mapping[str, Sequence[Observing]],
    number: int,
    scores: frozenset[str],
) -> None:
    def look(node: str, value: torch.Tensor) -> None:
        name = watch.get(node)
        if name is None:
            return
        try:
            array = value.detach().numpy()
            for observer in found[name]:
                observer.update(_cut(array) if name in scores else array)
        except ValueError as problem:
            raise QexportError(
                f"calibration: sample {number}, value {name}: {problem}; the range of a value must be finite. Take "
                "the sample out, or keep the layers around it float"
            ) from problem

    assert isinstance(module, torch.fx.GraphModule)
    try:
        with torch.no_grad():
            _Watching(module, look).run(*sample)
    except QexportError:
        raise
    except Exception as problem:  # an operator may raise anything
        shapes = ", ".join(f"{str(t.dtype).removeprefix('torch.')} {list(t.shape)}" for t in sample)
        raise QexportError(
            f"calibration: the model does not take sample {number} ({shapes}): {first_line(problem)}; samples have the "
            "shape of the example inputs, or lengths within the declared axes"
        ) from problem


def _content(samples: Samples) -> tuple[str, int]:
    """A hash over all samples, and how many there are."""
    digest, count = hashlib.sha256(), 0
    for sample in samples():
        count += 1
        for tensor in sample:
            array = tensor.detach().contiguous().numpy()
            digest.update(f"{array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest(), count


def _too_few(placement: Placement, count: int) -> list[str]:
    """Warnings, one for each observer that is in use."""
    fewest: dict[Observer, int] = {}
    for node, name in placement.integer.items():
        observer = placement.observers[name]
        values = int(node.meta["val"].numel())
        fewest[observer] = min(values, fewest.get(observer, values))
    warnings = (sample_warning(observer, count, values) for observer, values in sorted(fewest.items()))
    return [warning for warning in warnings if warning]


def _key(placement: Placement, identity: str, digest: str) -> str:
    content = [
        _FORMAT,
        identity,
        digest,
        sorted(placement.observers.items()),
        sorted(placement.layers.items()),
        sorted(sorted(group) for group in placement.alike),
        placement.codes,
        placement.symmetric,
        sorted(placement.fixed.items()),
        sorted(placement.scores),
        sorted(placement.balanced),
        sorted(placement.wide),
        sorted(placement.constants.items()),
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def _read(place: Path) -> StaticPlan | None:
    try:
        return StaticPlan.from_json(json.loads(place.read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(place: Path, plan: StaticPlan) -> None:
    """A cache that cannot be written costs a second measurement, so it is no error."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        draft = place.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(plan.to_json()))
        os.replace(draft, place)
    except OSError:
        return
