"""The parity ladder for a language model: float -> dequantised weights -> each runtime.

Quantisation error and lowering error are kept apart: the first is a budget, the second must be
numerical noise. Where a runtime rounds activations to int8, its lowering is compared with a PyTorch
model that does the same, so that the rounding is not taken for a fault of the lowering.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from exporter.backends import get_backend
from exporter.backends.base import ActivationMode, TextRunner
from exporter.models.causal_lm import CausalLM, CausalLMSkeleton
from exporter.models.reference import TorchRunner, dequantized_model, round_activations
from exporter.parity import (
    Continuation,
    GreedySample,
    LayerError,
    Limits,
    LogitComparison,
    ParityReport,
    Rung,
    RungActivations,
    RungKind,
)
from exporter.targets import Target
from exporter.verify.material import Material

FLOAT_MODEL = "float"
DEQUANTIZED = "dequantised"
ROUNDED = "dequantised, int8 activations"
DISTURBED = "the same, embeddings disturbed by 1e-6"
GREEDY_TOKENS = 32
_DECODE_STEPS = 64  # of one window, where a runtime also gives whole prefills
_PREFILLS = 4  # lengths tried, where a runtime gives the last token's logits only
_FLOOR_FACTOR = 3.0  # times the noise floor; two draws of the floor itself differ by some 10 %
_LEAST_NOISE = 1e-3  # nats; a small model may show no noise at all until the first code moves
_GOLDEN_TOP = 16  # logits kept of each prompt for replay on the device
_HOOK_TOKENS = 64  # of the first window, for the error per layer

Progress = Callable[[str, float], None]
Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Verified:
    """The ladder's outcome, and what travels with the files so that a device can replay it."""

    parity: ParityReport
    golden: dict[str, Any]
    notes: tuple[str, ...] = ()


def verify_text(
    model: CausalLM,
    skeleton: CausalLMSkeleton,
    folder: Path,
    targets: Sequence[Target],
    limits: Limits,
    material: Material,
    progress: Progress,
) -> Verified:
    """Run the ladder for a language model. `folder` holds one folder per target's backend."""
    ladder = _Ladder(model, skeleton, material, limits, progress, len(targets))
    with tempfile.TemporaryDirectory(prefix="qexport-") as scratch:
        ladder.reference(Path(scratch))
        for target in targets:
            backend = get_backend(target.backend)
            ladder.runtime(backend.name, folder / backend.folder, backend.open_text)
    return Verified(ladder.report(), {"prompts": ladder.golden}, material.notes)


class _Ladder:
    """Holds what the rungs share: reference logits on disk, continuations, and the rungs so far."""

    def __init__(
        self,
        model: CausalLM,
        skeleton: CausalLMSkeleton,
        material: Material,
        limits: Limits,
        progress: Progress,
        runtimes: int,
    ) -> None:
        self.model, self.skeleton = model, skeleton
        self.material, self.limits, self.progress = material, limits, progress
        self._done, self.runtimes = 0, runtimes  # passes over a window
        self.rounds = any(layer.scheme.activations == "dynamic-int8" for layer in skeleton.layers.values())
        self.logits: dict[str, list[Logits]] = {}  # by model and window, (scored, vocabulary), on disk
        self.greedy: list[dict[str, Continuation]] = [{} for _ in material.prompts]
        self.golden: list[dict[str, Any]] = [
            {"prompt": prompt, "input_ids": list(ids), "models": {}} for prompt, ids in material.prompts
        ]
        self.rungs: list[Rung] = []
        self.layers: tuple[LayerError, ...] = ()
        self.floor: float | None = None  # KL, nats, of the rounded reference against itself, disturbed
        self.decode = model.tokenizer().decode

    def reference(self, scratch: Path) -> None:
        """PyTorch: the float model, then the dequantised one, with and without rounded activations."""
        module = self.model.float_model()
        self._collect(FLOAT_MODEL, module, scratch)
        outputs = _layer_outputs(
            module, list(self.skeleton.layers), self.material.windows[0].tokens[:_HOOK_TOKENS]
        )
        del module
        gc.collect()
        module = dequantized_model(self.skeleton, quantize_activations=False)
        self._collect(DEQUANTIZED, module, scratch)
        self.layers = self._layer_errors(module, outputs)
        self._rung("quantisation", FLOAT_MODEL, DEQUANTIZED, "quantisation", "float")
        if self.rounds:
            round_activations(module, True)
            self._collect(ROUNDED, module, scratch)
            self._rung(
                "quantisation with int8 activations", FLOAT_MODEL, ROUNDED, "quantisation", "quantised"
            )
            _disturb(module)
            self._collect(DISTURBED, module, scratch, greedy_too=False)
            self._rung("noise floor of int8 activations", ROUNDED, DISTURBED, "lowering", "quantised")
            self.floor = self.rungs[-1].result.kl_mean

    def runtime(
        self, name: str, folder: Path, open_text: Callable[[Path, ActivationMode], TextRunner]
    ) -> None:
        """One runtime: as it ships, and with float activations where it can."""
        shipped = open_text(folder, "as-shipped")
        kind: RungActivations = "quantised" if self.rounds else "float"
        if shipped.full_logits:
            self._prefill(f"{name} as shipped (prefill)", shipped, FLOAT_MODEL, name, "shipped", kind)
            exact = open_text(folder, "float") if self.rounds else shipped
            label = f"{name}, float activations" if self.rounds else name
            self._prefill(f"{name} lowering (prefill)", exact, DEQUANTIZED, label, "lowering", "float")
            self._decode(
                f"{name} lowering (decode)", exact, DEQUANTIZED, label, "lowering", "float", _DECODE_STEPS
            )
            if self.rounds:
                self._continue(label, exact)
        else:
            like = ROUNDED if self.rounds else DEQUANTIZED
            rows = self._decode(f"{name} lowering (decode)", shipped, like, name, "lowering", kind, None)
            self._last_rows(f"{name} lowering (prefill)", shipped, like, name, kind)
            self._compare(f"{name} as shipped (decode)", FLOAT_MODEL, name, "shipped", kind, rows)
        self._continue(name, shipped)

    def _tick(self, doing: str) -> None:
        """One more pass over a window is done, of about as many as every model and runtime takes."""
        self._done += 1
        references = 4 if self.rounds else 2
        passes = len(self.material.windows) * (references + 2 * self.runtimes)
        self.progress(doing, min(0.99, self._done / passes))

    def report(self) -> ParityReport:
        """Everything measured."""
        greedy = tuple(
            GreedySample(prompt, DEQUANTIZED, continuations)
            for (prompt, _), continuations in zip(self.material.prompts, self.greedy, strict=True)
        )
        return ParityReport(tuple(self.rungs), greedy, self.layers)

    def _limits(self, kind: RungKind, acts: RungActivations) -> Limits:
        """The recipe's; for a lowering with rounded activations what the noise floor allows.

        Rounding to int8 is a step function: a difference in the last bit of a float moves some codes by
        one, and the layers behind amplify it. How far that goes is measured on the reference itself, its
        embeddings disturbed by 1e-6; a sound lowering lies about as near, a wrong one does not.
        """
        if kind != "lowering" or acts == "float":
            return self.limits
        if self.floor is None:  # the floor itself is being measured
            return Limits()
        return Limits(max_noise_kl=max(_FLOOR_FACTOR * self.floor, _LEAST_NOISE))

    def _collect(self, name: str, module: torch.nn.Module, scratch: Path, greedy_too: bool = True) -> None:
        """The model's logits over the scored halves, on disk, and its continuations of the prompts."""
        runner = TorchRunner(module, 1 << 20)
        self.logits[name] = []
        for index, window in enumerate(self.material.windows):
            runner.reset()
            path = scratch / f"{len(self.logits)}-{index}.npy"
            np.save(path, runner.forward(window.tokens)[window.rows])
            self.logits[name].append(np.load(path, mmap_mode="r"))
            self._tick(name)
        if greedy_too:
            self._continue(name, runner)

    def _continue(self, name: str, runner: TextRunner) -> None:
        """Greedy continuations of the prompts; the first logits of each become golden vectors."""
        ends = _end_tokens(self.skeleton.config)
        for (_, prompt), found, golden in zip(self.material.prompts, self.greedy, self.golden, strict=True):
            tokens, first = greedy(runner, prompt, GREEDY_TOKENS, ends)
            found[name] = Continuation(self.decode(list(tokens)), tokens)
            top = np.argsort(-first, kind="stable")[:_GOLDEN_TOP]
            golden["models"][name] = {
                "greedy": list(tokens),
                "top_ids": top.tolist(),
                "top_logits": [round(float(first[index]), 4) for index in top],
            }

    def _prefill(
        self,
        name: str,
        runner: TextRunner,
        reference: str,
        candidate: str,
        kind: RungKind,
        acts: RungActivations,
    ) -> None:
        def rows() -> Iterator[Logits]:
            for window in self.material.windows:
                runner.reset()
                yield runner.forward(window.tokens)[window.rows]
                self._tick(name)

        self._compare(name, reference, candidate, kind, acts, rows())

    def _decode(
        self,
        name: str,
        runner: TextRunner,
        reference: str,
        candidate: str,
        kind: RungKind,
        acts: RungActivations,
        steps: int | None,
    ) -> list[Logits]:
        """Prefill the first half, then feed the text's own tokens one by one through the cache."""
        found = []
        for window in self.material.windows if steps is None else self.material.windows[:1]:
            runner.reset()
            start, stop = window.first_scored + 1, len(window.tokens) - 1
            rows = [runner.forward(window.tokens[:start])[-1]]
            fed = window.tokens[start : stop if steps is None else min(stop, start + steps)]
            rows += [runner.forward([token])[-1] for token in fed]
            found.append(np.stack(rows))
            self._tick(name)
        self._compare(name, reference, candidate, kind, acts, found)
        return found

    def _last_rows(
        self, name: str, runner: TextRunner, reference: str, candidate: str, acts: RungActivations
    ) -> None:
        """Whole prefills of several lengths, of which the runtime gives the last token's logits."""
        comparison = LogitComparison()
        for window, expected in zip(self.material.windows, self.logits[reference], strict=True):
            for at in np.unique(np.linspace(0, len(expected) - 1, _PREFILLS).astype(int)):
                runner.reset()
                end = window.first_scored + 1 + at
                row = runner.forward(window.tokens[:end])[-1:]
                comparison.update(expected[at : at + 1], row, np.array([window.tokens[end]]))
        self.rungs.append(
            Rung(
                name,
                reference,
                candidate,
                "lowering",
                acts,
                comparison.result(),
                self._limits("lowering", acts),
            )
        )

    def _rung(self, name: str, reference: str, candidate: str, kind: RungKind, acts: RungActivations) -> None:
        self._compare(name, reference, candidate, kind, acts, self.logits[candidate])

    def _compare(
        self,
        name: str,
        reference: str,
        candidate: str,
        kind: RungKind,
        acts: RungActivations,
        found: Sequence[Logits] | Iterator[Logits],
    ) -> None:
        """Add a rung; `found` has a block of rows per window, from the first scored position on."""
        comparison = LogitComparison()
        for window, expected, rows in zip(self.material.windows, self.logits[reference], found, strict=False):
            targets = np.array(window.targets[: len(rows)])
            comparison.update(expected[: len(rows)], np.asarray(rows), targets)
        self.rungs.append(
            Rung(name, reference, candidate, kind, acts, comparison.result(), self._limits(kind, acts))
        )

    def _layer_errors(
        self, module: torch.nn.Module, expected: Mapping[str, NDArray[np.float32]]
    ) -> tuple[LayerError, ...]:
        found = _layer_outputs(module, list(expected), self.material.windows[0].tokens[:_HOOK_TOKENS])
        return tuple(
            LayerError(
                name,
                layer.scheme.bits,
                sqnr_db(self.model.weight(layer.info), layer.load().dequantized()),
                sqnr_db(expected[name], found[name]),
            )
            for name, layer in self.skeleton.layers.items()
        )


def greedy(
    runner: TextRunner, prompt: Sequence[int], count: int, ends: frozenset[int]
) -> tuple[tuple[int, ...], Logits]:
    """The `count` most likely tokens after the prompt, one by one through the cache, stopping at an end
    token; and the (vocabulary,) logits that the first was chosen from."""
    runner.reset()
    first = runner.forward(prompt)[-1]
    tokens = [int(first.argmax())]
    while len(tokens) < count and tokens[-1] not in ends:
        tokens.append(int(runner.forward(tokens[-1:])[-1].argmax()))
    return tuple(tokens), first


def sqnr_db(exact: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Signal to quantisation noise, 10 log10(sum exact^2 / sum (exact - found)^2), in dB."""
    signal = float(np.square(exact, dtype=np.float64).sum())
    noise = float(np.square(exact.astype(np.float64) - found).sum())
    if noise == 0.0:
        return float("inf")
    return float(10 * np.log10(signal / noise)) if signal > 0 else float("-inf")


def _disturb(module: torch.nn.Module) -> None:
    """Scale every embedding weight by 1 + 1e-6 x, x standard normal with a fixed seed: a few float32 roundings."""
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, torch.nn.Embedding):
            noise = torch.randn(part.weight.shape, generator=generator)
            part.weight.mul_(1 + 1e-6 * noise)


def _end_tokens(config: Any) -> frozenset[int]:
    ends = config.eos_token_id
    return frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])


def _layer_outputs(
    module: torch.nn.Module, names: Sequence[str], tokens: Sequence[int]
) -> dict[str, NDArray[np.float32]]:
    """Outputs of the named layers for one piece of text, (tokens, out) each."""
    found: dict[str, NDArray[np.float32]] = {}
    with _hooks(module, names, found):
        TorchRunner(module, 1 << 20).forward(tokens)
    return found


@contextmanager
def _hooks(
    module: torch.nn.Module, names: Sequence[str], found: dict[str, NDArray[np.float32]]
) -> Iterator[None]:
    def keep(name: str) -> Callable[..., None]:
        def hook(layer: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
            found[name] = output.reshape(-1, output.shape[-1]).numpy().copy()

        return hook

    handles = [module.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
