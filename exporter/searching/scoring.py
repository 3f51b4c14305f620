"""Every unit's predicted loss for every scheme that it may have: measured once, kept, and read for each budget."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from exporter.artifacts import write_json
from exporter.blockwise import quantize_by_blocks
from exporter.blockwise.moments import shared_inputs
from exporter.blockwise.sensitivity import VERSION
from exporter.blockwise.windows import calibration_windows
from exporter.errors import QexportError
from exporter.folders import locked
from exporter.layers import LayerInfo
from exporter.memory import release_to_system
from exporter.models.causal_lm import CausalLM, CausalLMSkeleton
from exporter.models.reference import streamed_float_model
from exporter.numerics import QuantizedTensor
from exporter.quantizing import QuantizedStore, quantize_layers
from exporter.schemes import FLOAT, QuantScheme, wants_text
from exporter.searching.fisher import SCORES, FisherScores, Predicted
from exporter.searching.measuring import Measuring
from exporter.searching.units import Unit, units_of

FORMAT = 2
_FEWEST = 4  # windows
_HELD_OUT = 8  # windows that true KL is measured on; nothing is fitted to them
_GRADIENT_WINDOWS, _GRADIENT_TOKENS = 32, 256
_MEASURED_UNITS = 12
_FIRST = "fisher_tokens"  # what units are ranked by before any is measured
_SHORT = 16  # tokens that tell which layers take one tensor
_KEPT = 400_000_000  # bytes of a float model's weights that stay mapped
Tokens = NDArray[np.int64]
Report = Callable[[str, float], None]


@dataclass(frozen=True)
class Scores:
    """What a search knows of a model."""

    units: tuple[Unit, ...]
    predicted: Mapping[str, Mapping[str, Mapping[str, float]]]  # unit -> scheme -> score's name -> value
    measured: Mapping[str, Mapping[str, float]]  # unit -> scheme -> KL with this unit alone as integers
    uniform: Mapping[str, float]  # scheme -> KL with every unit in it
    best: str  # the score whose order is that of what was measured
    correlations: Mapping[str, float]  # score -> Spearman's rank correlation with what was measured
    factor: float  # from the best score to nats

    def loss(self, unit: str, scheme: str) -> float:
        """Predicted KL in nats per token with this unit alone as integers; measured where it was."""
        known = self.measured.get(unit, {}).get(scheme)
        return known if known is not None else self.factor * self.predicted[unit][scheme][self.best]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Scores:
        """What to_json gave."""
        units = tuple(Unit(tuple(u["layers"]), tuple(u["owners"]), u["parameters"]) for u in data["units"])
        rest = {key: value for key, value in data.items() if key not in ("format", "units")}
        return cls(units=units, **rest)


class Scoring:
    """One model and the schemes that its layers may have."""

    def __init__(
        self,
        model: CausalLM,
        layers: Sequence[LayerInfo],
        candidates: Mapping[str, QuantScheme],
        allowed: Mapping[str, Sequence[str]],
        folder: Path,
        seed: int,
        workers: int | None = None,
    ) -> None:
        """`layers` that are searched over, with tied ones; `allowed`: layer -> names of candidates. Scores lie in
        `folder`; integers lie beside it and serve every search over the same scheme, model and text, so that one
        more scheme costs its own share only. A search that was stopped goes on from there."""
        self.model, self.layers, self.candidates, self.allowed = model, layers, candidates, allowed
        self.folder, self.seed, self.workers = folder, seed, workers
        self.stores: dict[str, QuantizedStore] = {}
        self.all_layers = model.layers().layers

    def scores(self, texts: Sequence[str], report: Report) -> Scores:
        """All of it; minutes for a model of some hundred million weights."""
        path = self.folder / "scores.json"
        if path.is_file():
            return Scores.from_json(json.loads(path.read_text("utf-8")))
        windows, held_out = self._windows(texts)
        self._all_integers(windows[: -len(held_out)], partial(_scaled, report, 0.0, 0.5))
        units = units_of(self.layers, self._inputs(windows[0]))
        predicted = self._predicted(units, windows, partial(_scaled, report, 0.5, 0.3))
        release_to_system()
        measured, uniform = self._measured(units, predicted, held_out, partial(_scaled, report, 0.8, 0.2))
        found = _judged(units, predicted, measured, uniform)
        write_json(path.with_suffix(".partial"), found.to_json())
        os.replace(path.with_suffix(".partial"), path)
        return found

    def true_kl(
        self, texts: Sequence[str], mixes: Mapping[str, Mapping[str, str]], report: Report
    ) -> dict[str, float]:
        """Each mix -> its mean KL in nats on the held-out text. `mixes`: layer -> candidate; all others are float."""
        windows, held_out = self._windows(texts)
        self._all_integers(windows[: -len(held_out)], partial(_scaled, report, 0.0, 0.5))
        by_name = {layer.name: layer for layer in self.layers}
        found = {}
        with tempfile.TemporaryDirectory(prefix=".float-", dir=self.folder) as states:
            measuring = Measuring(self.model, self._skeleton, held_out, Path(states))
            for number, (mix, choice) in enumerate(mixes.items()):
                report(f"true KL of {mix}", 0.5 + 0.5 * number / len(mixes))
                integers = {layer: self._load(scheme, by_name[layer]) for layer, scheme in choice.items()}
                found[mix] = measuring.kl(integers).kl_mean
        return found

    def _windows(self, texts: Sequence[str]) -> tuple[Tokens, Tokens]:
        """All of them, and those at the end that nothing is fitted to. Raises QexportError where they are few."""
        windows = calibration_windows(self.model.tokenizer(), texts, self.model.layers().max_context)
        if len(windows) < _FEWEST:
            raise QexportError(
                f"calibration.text: {len(windows)} windows of {windows.shape[1]} tokens; a search fits on some and "
                f"measures on others and needs {_FEWEST}; give more text, some 50,000 tokens do"
            )
        return windows, windows[-min(_HELD_OUT, len(windows) // 4) :]

    def _schemes(self, name: str) -> dict[str, QuantScheme]:
        """Every layer that may have it in this candidate, all others float."""
        return {
            layer.name: self.candidates[name] if name in self.allowed.get(layer.name, ()) else FLOAT
            for layer in self.all_layers
        }

    def _all_integers(self, windows: Tokens, report: Report) -> None:
        """Of every candidate; at once where they are there already."""
        share = 1 / len(self.candidates)
        for number, (name, scheme) in enumerate(self.candidates.items()):
            self._integers(name, scheme, windows, partial(_scaled, report, share * number, share))
            release_to_system()  # each stage has models of its own, whose mapped files count as memory

    def _integers(self, name: str, scheme: QuantScheme, windows: Tokens, report: Report) -> None:
        """The whole model in one candidate."""
        schemes = self._schemes(name)
        folder = self.folder.parent / f"integers-{self._integers_key(schemes, windows)}"
        folder.mkdir(exist_ok=True)
        store = self.stores[name] = QuantizedStore(folder)
        decided = [(layer, schemes[layer.name]) for layer in self.all_layers]
        for layer, own in decided:
            if not own.is_float:
                store.expect(layer.name, own)
        with locked(folder):
            done = folder / "done"
            if done.is_file():
                return
            report(f"integers of {name}", 0.0)
            if wants_text({name: scheme}):
                quantize_by_blocks(self.model, decided, windows, store, folder / "work", report, self.workers)
            else:
                said = f"integers of {name}"
                quantize_layers(
                    self.model, decided, store, lambda _, share: report(said, share), self.workers
                )
            done.touch()

    def _integers_key(self, schemes: Mapping[str, QuantScheme], windows: Tokens) -> str:
        """What integers depend on, whatever the recipe calls the scheme."""
        asked = {
            "format": FORMAT,
            "sensitivity": VERSION,
            "model": self.model.identity(),
            "schemes": {
                layer: asdict(replace(scheme, name=""))
                for layer, scheme in schemes.items()
                if not scheme.is_float
            },
            "windows": hashlib.sha256(windows.tobytes()).hexdigest(),
        }
        return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()[:24]

    def _load(self, name: str, layer: LayerInfo) -> Callable[[], QuantizedTensor]:
        return partial(self.stores[name].load, layer.tied_to or layer.name)

    def _integers_of(self, names: Sequence[str], scheme: str) -> dict[str, Callable[[], QuantizedTensor]]:
        """Layers that may have this candidate -> its integers."""
        by_name = {layer.name: layer for layer in self.layers}
        return {
            name: self._load(scheme, by_name[name]) for name in names if scheme in self.allowed.get(name, ())
        }

    @cached_property
    def _skeleton(self) -> CausalLMSkeleton:
        """In which every layer that is searched over is a planned one."""
        schemes = {layer.name: FLOAT for layer in self.all_layers} | {
            layer.name: self.candidates[self.allowed[layer.name][0]] for layer in self.layers
        }
        return self.model.skeleton(schemes, _never)

    def _streamed(self) -> torch.nn.Module:
        return streamed_float_model(self._skeleton, lambda planned: self.model.weight(planned.info), _KEPT)

    def _inputs(self, window: Tokens) -> dict[str, str]:
        model = self._streamed()
        layers = {
            layer.name: model.get_submodule(layer.name) for layer in self.layers if layer.kind == "linear"
        }
        with torch.no_grad(), shared_inputs(layers) as found:
            model(torch.from_numpy(window[None, :_SHORT]), use_cache=False)
        return found

    def _predicted(self, units: Sequence[Unit], windows: Tokens, report: Report) -> Predicted:
        """From gradients; texts that the integers were fitted to do: the change is what is asked for."""
        candidates = {
            layer.name: {name: self._load(name, layer) for name in self.allowed[layer.name]}
            for layer in self.layers
        }
        texts = [torch.from_numpy(window[:_GRADIENT_TOKENS]) for window in windows[:_GRADIENT_WINDOWS]]
        scores = FisherScores(self._streamed(), candidates)
        return scores.run(texts, {unit.name: unit.layers for unit in units}, self.seed, report)

    def _measured(
        self, units: Sequence[Unit], predicted: Predicted, windows: Tokens, report: Report
    ) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
        """True KL of some units alone, in the scheme that costs most, and of everything in each scheme."""
        with tempfile.TemporaryDirectory(prefix=".float-", dir=self.folder) as states:
            measuring = Measuring(self.model, self._skeleton, windows, Path(states))
            found: dict[str, dict[str, float]] = {}
            chosen = _spread(units, predicted)
            for number, (unit, scheme) in enumerate(chosen):
                report(f"true KL of {unit.name}", number / (len(chosen) + len(self.candidates)))
                result = measuring.kl(self._integers_of(unit.layers, scheme))
                found[unit.name] = {scheme: result.kl_mean}
            uniform = {}
            for number, name in enumerate(self.candidates):
                report(f"true KL of {name}", (len(chosen) + number) / (len(chosen) + len(self.candidates)))
                layers = [layer.name for layer in self.layers]
                uniform[name] = measuring.kl(self._integers_of(layers, name)).kl_mean
        return found, uniform


def _spread(units: Sequence[Unit], predicted: Predicted) -> list[tuple[Unit, str]]:
    """Units over the whole range of scores, the costliest first, each with the scheme that costs it most."""
    worst = {
        unit.name: max(predicted[unit.name], key=lambda s: predicted[unit.name][s][_FIRST]) for unit in units
    }
    ranked = sorted(units, key=lambda unit: -predicted[unit.name][worst[unit.name]][_FIRST])
    top, rest = ranked[: _MEASURED_UNITS // 2], ranked[_MEASURED_UNITS // 2 :]
    step = max(1, len(rest) // (_MEASURED_UNITS - len(top))) if rest else 1
    return [(unit, worst[unit.name]) for unit in [*top, *rest[::step]][:_MEASURED_UNITS]]


def _judged(
    units: Sequence[Unit],
    predicted: Predicted,
    measured: Mapping[str, Mapping[str, float]],
    uniform: Mapping[str, float],
) -> Scores:
    """Which score orders the units as true KL does, and by how much it must be multiplied."""
    pairs = [(unit, scheme, kl) for unit, schemes in measured.items() for scheme, kl in schemes.items()]
    true = np.array([kl for _, _, kl in pairs])
    correlations, factors = {}, {}
    for score in SCORES:
        values = np.array([predicted[unit][scheme][score] for unit, scheme, _ in pairs])
        correlations[score] = float(spearmanr(values, true).statistic) if len(pairs) > 2 else 0.0
        factors[score] = float(np.median(true / np.maximum(values, 1e-30)))
    best = max(SCORES, key=lambda score: correlations[score])
    return Scores(tuple(units), predicted, measured, uniform, best, correlations, factors[best])


def _scaled(report: Report, start: float, share: float, doing: str, done: float) -> None:
    report(doing, start + share * done)


def _never(name: str) -> QuantizedTensor:
    raise AssertionError(f"{name} is float")
