"""The parity ladder for a language model: float -> dequantised weights -> each runtime.

Quantisation error and lowering error are kept apart: the first is a budget, the second must be
numerical noise. Where a runtime rounds activations to int8, or its KV cache, its lowering is compared
with a PyTorch model that does the same, so that the rounding is not taken for a fault of the lowering.

Which rows are compared: what a user gets, on every scored position of the text; what a lowering
computes, on the first windows. ExecuTorch gives the last token's logits only, so there each row costs a
run of the program, and a large model is not asked for every one of them (_stepwise).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.backends import get_backend
from exporter.backends.base import Backend, TextRunner
from exporter.memory import VerifyRoom, release_to_system
from exporter.models.activations import CACHE_ROUNDING, CacheRounding, fixed_scale_cache
from exporter.models.causal_lm import CausalLM, CausalLMSkeleton
from exporter.models.reference import dequantized_model, release_weights, streamed_float_model
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
from exporter.verify.continuing import Tokens, greedy, greedy_together
from exporter.verify.layer_errors import layer_errors
from exporter.verify.material import Material
from exporter.verify.outcome import Verified
from exporter.verify.references import Reference, Variant
from exporter.verify.rows import Logits, Rows, decoded, prefilled, stepped

FLOAT_MODEL = "float"
DEQUANTIZED = Variant().name
ROUNDED = Variant(rounds=True).name
GREEDY_TOKENS = 32
LOWERING_WINDOWS = 2  # a lowering's own error needs no more text: 512 positions
STRIDE = 4  # tokens at a time, in the other windows of a runtime that gives the last row only
_SINGLE_WORK = 700_000_000  # parameters times windows that such a runtime goes through token by token
_FLOOR_FACTOR = 3.0  # times the noise floor; two draws of the floor itself differ by some 10 %
_LEAST_NOISE = 1e-3  # nats; a small model may show no noise at all until the first code moves
_GOLDEN_TOP = 16  # logits kept of each prompt for replay on the device
_HOOK_TOKENS = 64  # of the first window, for the error per layer

Progress = Callable[[str, float], None]


def verify_text(
    model: CausalLM,
    skeleton: CausalLMSkeleton,
    folder: Path,
    targets: Sequence[Target],
    limits: Limits,
    material: Material,
    progress: Progress,
    room: VerifyRoom | None = None,
) -> Verified:
    """Run the ladder for a language model. `folder` holds one folder per target's backend; `room` says how
    much is worked on at once (exporter.memory)."""
    ladder = _Ladder(
        model,
        skeleton,
        material,
        limits,
        progress,
        targets,
        folder,
        room or VerifyRoom.for_layers(model.layers().layers),
    )
    release_to_system()  # what the stages before have let go of
    ladder.reference()
    for target in targets:
        backend = get_backend(target.key)
        ladder.runtime(backend, target, folder / backend.folder)
    return Verified(ladder.report(), {"prompts": ladder.golden}, material.notes)


@dataclass(frozen=True)
class _Pair:
    """A rung in the making: what it is called, and the PyTorch model that it compares with."""

    name: str
    reference: Variant | None  # None: the float model
    candidate: str
    kind: RungKind
    acts: RungActivations
    comparison: LogitComparison
    every: int = 1  # only positions that this divides are compared

    @property
    def reference_name(self) -> str:
        return self.reference.name if self.reference else FLOAT_MODEL


class _Ladder:
    """Holds what the rungs share: the references, continuations, and the rungs so far."""

    def __init__(
        self,
        model: CausalLM,
        skeleton: CausalLMSkeleton,
        material: Material,
        limits: Limits,
        progress: Progress,
        targets: Sequence[Target],
        folder: Path,
        room: VerifyRoom,
    ) -> None:
        self.model, self.skeleton, self.room = model, skeleton, room
        self.material, self.limits, self.progress = material, limits, progress
        self.windows = material.windows
        self.few = range(min(LOWERING_WINDOWS, len(self.windows)))
        self.rounds = any(layer.scheme.activations == "dynamic-int8" for layer in skeleton.layers.values())
        self.caches: dict[str, CacheRounding] = dict(CACHE_ROUNDING)
        self.cache_of = {target.key: self._cache(target, folder) for target in targets}
        self.variants = self._variants(targets)
        own = [layer.parameters for layer in model.layers().layers if layer.tied_to is None]
        self.parameters = sum(own) + model.layers().other_parameters
        self._done, self._passes = 0.0, 3.0 * (1 + len(self.variants) + 2 * len(targets))
        self.greedy: list[dict[str, Continuation]] = [{} for _ in material.prompts]
        self.golden: list[dict[str, Any]] = [
            {"prompt": prompt, "input_ids": list(ids), "models": {}} for prompt, ids in material.prompts
        ]
        self.rungs: list[Rung] = []
        self.layers: tuple[LayerError, ...] = ()
        self.floors: dict[Variant, float] = {}  # KL, nats, of a rounding model against itself, disturbed
        self.decode = model.tokenizer().decode
        config = skeleton.config
        ends = config.eos_token_id
        self.ends = frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])
        self.float_model: Reference
        self.dequantized: Reference

    def reference(self) -> None:
        """PyTorch: the float model, then the dequantised one, as it is and rounding as the runtimes do."""
        names, tokens = list(self.skeleton.layers), self.windows[0].tokens[:_HOOK_TOKENS]
        module = streamed_float_model(
            self.skeleton, lambda layer: self.model.weight(layer.info), self.room.kept_bytes
        )
        self.float_model = Reference(module, self.room.batch_tokens)
        self._collect(self.float_model, None)
        self._continue_together(FLOAT_MODEL, self.float_model)
        exact = self.float_model.outputs(tokens, names)
        release_weights(module)
        if self.skeleton.layers:
            module = dequantized_model(self.skeleton, quantize_activations=False, keep=self.room.kept_bytes)
            self.dequantized = Reference(module, self.room.batch_tokens, self.caches)
        else:
            self.dequantized = self.float_model
        self._collect(self.dequantized, Variant())
        self._continue_together(DEQUANTIZED, self.dequantized)
        self.layers = layer_errors(
            self.model, self.skeleton.layers, exact, self.dequantized.outputs(tokens, names)
        )
        del exact
        for variant in self.variants:
            self._collect(self.dequantized, variant)
        release_weights(self.dequantized.model)
        release_to_system()
        self._compare_references()

    def runtime(self, backend: Backend, target: Target, folder: Path) -> None:
        """One runtime: with float activations where it can leave them so, and as it ships."""
        cache = self.cache_of[target.key]
        shipped = Variant(self.rounds, cache)
        acts: RungActivations = "quantised" if self.rounds else "float"
        if self.rounds and backend.float_activations:
            label = f"{backend.name}, float activations"
            runner = backend.open_text(folder, "float")
            self._lowering(backend.name, label, runner, Variant(cache=cache), "float")
            self._continue(label, runner, self.greedy_of(DEQUANTIZED))
            del runner
            release_to_system()
        runner = backend.open_text(folder, "as-shipped")
        if runner.full_logits:
            if not self.rounds:
                self._lowering(backend.name, backend.name, runner, shipped, "float")
            pair = self._pair(f"{backend.name} as shipped (prefill)", None, backend.name, "shipped", acts)
            self._prefill(pair, runner, range(len(self.windows)))
            self._close([pair])
        else:
            self._stepwise(backend.name, runner, shipped, acts)
        self._continue(backend.name, runner, [() for _ in self.greedy])
        del runner
        release_to_system()

    def _stepwise(self, name: str, runner: TextRunner, like: Variant, acts: RungActivations) -> None:
        """A runtime that gives the last token's row only: each row is held to both of its references.

        The first windows go token by token, all of them where the model is small; the others, and the
        first ones once more where there are no others, go STRIDE tokens at a time. What a user gets is
        told from positions that lie alike in every window.
        """
        count = len(self.windows)
        single = min(count, max(len(self.few), _SINGLE_WORK // self.parameters))
        prefill = self._pair(f"{name} lowering (prefill)", like, name, "lowering", acts)
        decode = self._pair(f"{name} lowering (decode)", like, name, "lowering", acts)
        shipped = self._pair(f"{name} as shipped (decode)", None, name, "shipped", acts)
        if single < count:
            shipped = replace(shipped, every=STRIDE)
        for window in range(count):
            stride = 1 if window < single else STRIDE
            first, others = stepped(runner, window, self.windows[window], stride, self.room.block_rows)
            self._compare([prefill, shipped], iter([(window, 0, first)]))
            self._compare([decode if stride == 1 else prefill, shipped], others, stride)
            self._tick(name, 3 / count)
            release_to_system()
        for window in self.few if single == count else ():
            _, others = stepped(runner, window, self.windows[window], STRIDE, self.room.block_rows)
            self._compare([prefill], others, STRIDE)
        self._close([decode, prefill, shipped])

    def _lowering(
        self, name: str, label: str, runner: TextRunner, like: Variant, acts: RungActivations
    ) -> None:
        """A runtime that gives a row per token: whole prefills, then the first window in steps."""
        prefill = self._pair(f"{name} lowering (prefill)", like, label, "lowering", acts)
        self._prefill(prefill, runner, self.few)
        decode = self._pair(f"{name} lowering (decode)", like, label, "lowering", acts)
        self._compare([decode], decoded(runner, 0, self.windows[0]))
        self._tick(label, 1.0)
        self._close([prefill, decode])

    def _prefill(self, pair: _Pair, runner: TextRunner, windows: Sequence[int]) -> None:
        for index in windows:
            self._compare([pair], prefilled(runner, index, self.windows[index], self.room.piece_tokens))
            self._tick(pair.candidate, 1.5 / len(self.windows))
            release_to_system()

    def _cache(self, target: Target, folder: Path) -> str:
        """The key in `caches` of what this target's KV cache does. Fixed scales are read from the written file."""
        backend = get_backend(target.key)
        scales = backend.cache_scales(folder / backend.folder)
        if not scales:
            return target.kv_cache
        name = f"{target.kv_cache} ({backend.name})"
        self.caches[name] = fixed_scale_cache(scales)
        return name

    def _variants(self, targets: Sequence[Target]) -> list[Variant]:
        """The rounding models that some runtime is compared with, each followed by its disturbed twin.

        Without targets, the one that rounds activations, so that a quantisation can be judged by itself.
        """
        wanted: dict[Variant, None] = {}
        if not targets and self.rounds:
            wanted[Variant(rounds=True)] = None
        for target in targets:
            rounds = self.rounds and not get_backend(target.key).float_activations
            if target.kv_cache != "float32":
                wanted[Variant(rounds)] = None  # what the cache costs is told against the same without it
            wanted[Variant(rounds, self.cache_of[target.key])] = None
        wanted.pop(Variant(), None)
        return [v for one in wanted for v in (one, replace(one, disturbed=True))]

    def _collect(self, reference: Reference, variant: Variant | None) -> None:
        name = variant.name if variant else FLOAT_MODEL
        disturbed = variant is not None and variant.disturbed
        windows = self.windows[: len(self.few)] if disturbed else self.windows
        before = 0
        for done in reference.collect(variant, windows):
            self._tick(name, 3 * (done - before) / len(windows))
            before = done

    def _compare_references(self) -> None:
        """The rungs between PyTorch models, in one walk over the text so that each row is made once."""
        pairs: list[tuple[_Pair, Variant]] = []

        def add(name: str, reference: Variant | None, candidate: Variant, kind: RungKind) -> None:
            acts: RungActivations = "quantised" if candidate.rounds else "float"
            pairs.append((self._pair(name, reference, candidate.name, kind, acts), candidate))

        add("quantisation", None, Variant(), "quantisation")
        for variant in self.variants:
            if variant.disturbed:
                add(f"noise floor of {_rounding(variant.calm)}", variant.calm, variant, "lowering")
            elif variant.cache != "float32":
                add(f"KV cache in {variant.cache}", Variant(variant.rounds), variant, "quantisation")
            else:
                add(f"quantisation with {_rounding(variant)}", None, variant, "quantisation")
        for window, rows in self._blocks():
            wanted = [item for item in pairs if window in self.few or not item[1].disturbed]
            made: dict[Variant | None, Logits] = {}
            for index, (pair, candidate) in enumerate(wanted):
                for one in (pair.reference, candidate):
                    if one not in made:
                        made[one] = self._logits(one, window, rows)
                targets = np.array(self.windows[window].targets)[rows]
                pair.comparison.update(made[pair.reference], made[candidate], targets)
                later = {one for other, last in wanted[index + 1 :] for one in (other.reference, last)}
                made = {one: logits for one, logits in made.items() if one in later}
        for pair, candidate in pairs:
            self._close([pair])
            if candidate.disturbed:
                self.floors[candidate.calm] = self.rungs[-1].result.kl_mean

    def _blocks(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """(window, scored rows), as many rows at once as `room` has place for."""
        for index, window in enumerate(self.windows):
            release_to_system()  # what the window before has left in pieces
            rows = np.arange(len(window.targets))
            for start in range(0, len(rows), self.room.block_rows):
                yield index, rows[start : start + self.room.block_rows]

    def _logits(self, variant: Variant | None, window: int, rows: NDArray[np.int64]) -> Logits:
        reference = self.float_model if variant is None else self.dequantized
        return reference.logits(variant, window, rows)

    def _compare(self, pairs: Sequence[_Pair], found: Rows, stride: int = 1) -> None:
        """Hold a runtime's rows to the references of `pairs`; `stride` positions lie between two rows."""
        for window, start, rows in found:
            targets = np.array(self.windows[window].targets)
            positions = start + stride * np.arange(len(rows))
            for first in range(0, len(rows), self.room.block_rows):
                at = positions[first : first + self.room.block_rows]
                part = rows[first : first + self.room.block_rows]
                for pair in pairs:
                    wanted = at % pair.every == 0
                    if wanted.any():
                        expected = self._logits(pair.reference, window, at[wanted])
                        taken = part if wanted.all() else part[wanted]  # which copies
                        pair.comparison.update(expected, taken, targets[at[wanted]])
                        del expected, taken

    def _pair(
        self, name: str, reference: Variant | None, candidate: str, kind: RungKind, acts: RungActivations
    ) -> _Pair:
        return _Pair(name, reference, candidate, kind, acts, LogitComparison())

    def _close(self, pairs: Sequence[_Pair]) -> None:
        """Turn finished comparisons into rungs; one that no row reached (a text of a few words) is none."""
        for pair in pairs:
            result = pair.comparison.result()
            if result.positions or result.invalid != "no logits were compared":
                self.rungs.append(
                    Rung(
                        pair.name,
                        pair.reference_name,
                        pair.candidate,
                        pair.kind,
                        pair.acts,
                        result,
                        self._limits(pair),
                    )
                )

    def _limits(self, pair: _Pair) -> Limits:
        """The recipe's; for a lowering beside a model that rounds, what the noise floor allows.

        Rounding is a step function: a difference in the last bit of a float moves some codes by one, and
        the layers behind amplify it. How far that goes is measured on the reference itself, its
        embeddings disturbed by 1e-6; a sound lowering lies about as near, a wrong one does not.
        """
        if pair.kind != "lowering" or pair.reference is None or pair.reference.exact:
            return self.limits
        floor = self.floors.get(pair.reference)
        if floor is None:  # the floor itself is being measured
            return Limits()
        return Limits(max_noise_kl=max(_FLOOR_FACTOR * floor, _LEAST_NOISE))

    def report(self) -> ParityReport:
        """Everything measured."""
        samples = tuple(
            GreedySample(prompt, DEQUANTIZED, continuations)
            for (prompt, _), continuations in zip(self.material.prompts, self.greedy, strict=True)
        )
        return ParityReport(tuple(self.rungs), samples, self.layers)

    def greedy_of(self, name: str) -> list[Tokens]:
        """What that model wrote, by prompt."""
        return [found[name].token_ids for found in self.greedy]

    def _continue_together(self, name: str, reference: Reference) -> None:
        prompts = [ids for _, ids in self.material.prompts]
        if prompts:
            self._keep(name, greedy_together(reference.model, prompts, GREEDY_TOKENS, self.ends))

    def _continue(self, name: str, runner: TextRunner, drafts: Sequence[Tokens]) -> None:
        found = [
            greedy(runner, prompt, GREEDY_TOKENS, self.ends, draft)
            for (_, prompt), draft in zip(self.material.prompts, drafts, strict=True)
        ]
        self._keep(name, found)

    def _keep(self, name: str, found: Sequence[tuple[Tokens, Logits]]) -> None:
        """Greedy continuations for the report; the first logits of each become golden vectors."""
        for (tokens, first), texts, golden in zip(found, self.greedy, self.golden, strict=True):
            texts[name] = Continuation(self.decode(list(tokens)), tokens)
            top = np.argsort(-first, kind="stable")[:_GOLDEN_TOP]
            golden["models"][name] = {
                "greedy": list(tokens),
                "top_ids": top.tolist(),
                "top_logits": [round(float(first[index]), 4) for index in top],
            }

    def _tick(self, doing: str, share: float) -> None:
        """A share of a pass over the text is done, of about as many as every model and runtime takes."""
        self._done += share
        self.progress(doing, min(0.99, self._done / self._passes))


def _rounding(variant: Variant) -> str:
    return variant.name.removeprefix(f"{DEQUANTIZED}, ")
