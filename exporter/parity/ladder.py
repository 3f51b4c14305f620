"""The parity ladder: each rung compares two neighbours, so that quantisation and lowering errors
stay apart. Gates, the per-layer error, and the report's plain-data form.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import median_low
from typing import Any, Literal

from exporter.parity.metrics import ComparisonResult

RungKind = Literal["lowering", "quantisation", "shipped"]
RungActivations = Literal["float", "quantised"]

# One bit of precision: the error's amplitude doubles.
RISE_DB = 6.0


@dataclass(frozen=True)
class Limits:
    """The recipe's `parity` section; None: that gate is not asked for."""

    max_rel: float | None = None  # parity.lowering.max_rel
    max_kl: float | None = None  # parity.quantisation.max_kl, nats
    max_noise_kl: float | None = None  # nats, measured: what rounding on the way leaves room for
    min_top1: float | None = None  # parity.quantisation.min_top1, share
    max_ppl_ratio: float | None = None  # parity.quantisation.max_ppl_ratio
    min_cosine: float | None = None  # parity.quantisation.min_cosine, mean over examples
    min_group_cosine: float | None = None  # parity.quantisation.min_language_cosine, of the worst language
    max_noise_distance: float | None = None  # 1 - mean cosine, measured: as max_noise_kl
    min_noise_db: float | None = (
        None  # SQNR, measured: as max_noise_kl, of a program whose every value is a code
    )


@dataclass(frozen=True)
class Rung:
    """Two models compared on the same inputs."""

    name: str  # e.g. "onnxruntime lowering (prefill)"
    reference: str  # e.g. "dequantised weights in PyTorch"
    candidate: str  # e.g. "onnxruntime, float activations"
    kind: RungKind
    activations: RungActivations  # of the candidate
    result: ComparisonResult
    limits: Limits = Limits()

    @property
    def gates(self) -> tuple[str, ...]:
        """Which limits judge this rung.

        Activations or a KV cache that are rounded turn a last-bit difference into a whole step, so such
        a lowering is held to the noise floor where one was measured. A lowering without does the
        reference's own arithmetic in another order, so it is held to a numerical bound. Everything else
        is held to what the user would notice: the distribution of the next token.
        """
        if self.kind == "lowering" and self.limits.min_noise_db is not None:
            return ("min_noise_db",)
        if self.kind == "lowering" and self.limits.max_noise_kl is not None:
            return ("max_noise_kl",)
        if self.kind == "lowering" and self.limits.max_noise_distance is not None:
            return ("max_noise_distance",)
        if self.kind == "lowering" and self.activations == "float":
            return ("max_rel",)
        if self.result.cosine_mean is not None:
            return ("min_cosine", "min_group_cosine")
        return ("max_kl", "min_top1", "max_ppl_ratio")


@dataclass(frozen=True)
class Continuation:
    """What one model wrote after a prompt, always taking the most likely token."""

    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class GreedySample:
    """One prompt, continued by several models."""

    prompt: str
    reference: str  # the key in `continuations` that the others are compared with
    continuations: dict[str, Continuation]

    def __post_init__(self) -> None:
        if self.reference not in self.continuations:
            names = ", ".join(self.continuations) or "none"
            raise ValueError(f"reference {self.reference!r} is none of the continuations: {names}")

    def steps_same(self, model: str) -> int:
        """Leading tokens that are the same as the reference's."""
        reference = self.continuations[self.reference].token_ids
        tokens = self.continuations[model].token_ids
        same = 0
        while same < min(len(reference), len(tokens)) and reference[same] == tokens[same]:
            same += 1
        return same


@dataclass(frozen=True)
class LayerError:
    """One layer's error, in network order in the report."""

    name: str
    bits: int
    weight_sqnr_db: float  # of the dequantised weight; infinite for a float layer
    output_sqnr_db: float | None = None  # of the layer's output inside the whole model; None: not measured


@dataclass(frozen=True)
class Rise:
    """A layer where the error rises, and how that is seen, as the end of a sentence."""

    layer: str
    reason: str


def first_rise(layers: Sequence[LayerError], rise_db: float = RISE_DB) -> str | None:
    """Name of the first layer that stands out, see find_rise, or None."""
    found = find_rise(layers, rise_db)
    return found.layer if found else None


def find_rise(layers: Sequence[LayerError], rise_db: float = RISE_DB) -> Rise | None:
    """The first layer, in network order, worse than its bits or the error that reaches it explain.

    Its weights stand out when their SQNR lies more than `rise_db` below the median of the layers with
    as many bits. Its output stands out when it lies that far below what independent rounding gives:
    errors add as powers, so with `level` the lowest output SQNR of the layers before and `own` the
    layer's weight SQNR, -10 log10(10^(-level / 10) + 10^(-own / 10)). Layers whose output was not
    measured are judged by their weights.

    On a 30-block language model at int4, int8 and mixed, sound layers stay within 3.3 dB.
    """
    level = math.inf
    usual = _usual_weight_sqnr(layers)
    for layer in layers:
        if not layer.weight_sqnr_db >= usual[layer.bits] - rise_db:
            return Rise(
                layer.name,
                f"its weights lose over {rise_db:g} dB more than those of other {layer.bits}-bit layers",
            )
        if layer.output_sqnr_db is None:
            continue
        noise = 10 ** (-level / 10) + 10 ** (-layer.weight_sqnr_db / 10)
        expected = -10 * math.log10(noise) if noise > 0 else math.inf
        if not layer.output_sqnr_db >= expected - rise_db:
            reason = f"its output is over {rise_db:g} dB worse than what came in and its own weights explain"
            return Rise(layer.name, reason)
        level = min(level, layer.output_sqnr_db)
    return None


def _usual_weight_sqnr(layers: Sequence[LayerError]) -> dict[int, float]:
    """Median weight SQNR by bits, dB; minus infinity where fewer than three layers give no usage."""
    by_bits: dict[int, list[float]] = {}
    for layer in layers:
        by_bits.setdefault(layer.bits, []).append(layer.weight_sqnr_db)
    return {bits: median_low(v) if len(v) > 2 else -math.inf for bits, v in by_bits.items()}


def _steepest_fall(layers: Sequence[LayerError]) -> Rise | None:
    """Where the lowest output SQNR so far falls most: the best guess when no layer stands out."""
    level, best, deepest = math.inf, None, 0.0
    for layer in layers:
        if layer.output_sqnr_db is None or math.isinf(layer.output_sqnr_db):
            continue
        fall = 0.0 if math.isinf(level) else level - layer.output_sqnr_db
        if best is None or fall > deepest:
            best, deepest = layer, fall
        level = min(level, layer.output_sqnr_db)
    if best is None:
        return None
    reason = "no layer stands out for its bits, and here the outputs' SQNR falls most"
    return Rise(best.name, f"{reason} ({deepest:.1f} dB)")


def failures(rung: Rung) -> list[str]:
    """Each gate that the rung misses, as a sentence: rung, value, limit, way out."""
    result, limits = rung.result, rung.limits
    if result.invalid is not None:
        what = "logits" if result.cosine_mean is None else "vectors"
        return [f"{rung.name}: the {what} cannot be judged. {result.invalid}. Do not ship these files"]
    found = _vector_failures(rung)
    least = limits.min_noise_db
    if "min_noise_db" in rung.gates and least is not None and not result.sqnr_db >= least:
        found.append(
            f"{rung.name}: the outputs' SQNR is {result.sqnr_db:.1f} dB, under the {least:.1f} dB that the measured "
            f"noise floor allows. {rung.candidate} does not compute what {rung.reference} computes from the same "
            "integers. Do not ship these files"
        )
    if "max_rel" in rung.gates and limits.max_rel is not None and not result.max_rel <= limits.max_rel:
        found.append(
            f"{rung.name}: the largest relative error is {result.max_rel:.3g}, over the limit "
            f"{limits.max_rel:g} (parity.lowering.max_rel). {rung.candidate} does not compute what "
            f"{rung.reference} computes from the same integers; "
            "`qexport verify --layers` shows where it begins"
        )
    noise = limits.max_noise_kl
    if "max_noise_kl" in rung.gates and noise is not None and not result.kl_mean <= noise:
        found.append(
            f"{rung.name}: the mean KL divergence is {result.kl_mean:.3g} nats, over the {noise:.3g} that the "
            f"measured noise floor allows. {rung.candidate} does not compute what {rung.reference} computes "
            "from the same integers. Do not ship these files"
        )
    if "max_kl" in rung.gates and limits.max_kl is not None and not result.kl_mean <= limits.max_kl:
        found.append(
            f"{rung.name}: the mean KL divergence is {result.kl_mean:.3g} nats, over the limit "
            f"{limits.max_kl:g} (parity.quantisation.max_kl). {_MORE_BITS}"
        )
    if "min_top1" in rung.gates and limits.min_top1 is not None and not result.same_top1 >= limits.min_top1:
        found.append(
            f"{rung.name}: the most likely token is the same at {100 * result.same_top1:.1f} % of the "
            f"positions, under the limit {100 * limits.min_top1:g} % (parity.quantisation.min_top1). "
            f"{_MORE_BITS}"
        )
    ratio, most = result.ppl_ratio, limits.max_ppl_ratio
    if "max_ppl_ratio" in rung.gates and most is not None and ratio is not None and not ratio <= most:
        interval = ""
        if result.ppl_ratio_ci is not None:
            interval = " (95 % interval {:.3f} to {:.3f})".format(*result.ppl_ratio_ci)
        found.append(
            f"{rung.name}: perplexity is {ratio:.3f} times the reference's{interval}, over the limit "
            f"{most:g} (parity.quantisation.max_ppl_ratio). {_MORE_BITS}"
        )
    return found


def _vector_failures(rung: Rung) -> list[str]:
    """Those of the gates for vectors that the rung misses."""
    result, limits, found = rung.result, rung.limits, []
    cosine, noise = result.cosine_mean, limits.max_noise_distance
    if cosine is None:
        return []
    if "max_noise_distance" in rung.gates and noise is not None and not 1 - cosine <= noise:
        found.append(
            f"{rung.name}: the mean cosine is {cosine:.6f}, further from 1 than the {noise:.3g} that the measured "
            f"noise floor allows. {rung.candidate} does not compute what {rung.reference} computes from the same "
            "integers. Do not ship these files"
        )
    if "min_cosine" in rung.gates and limits.min_cosine is not None and not cosine >= limits.min_cosine:
        found.append(
            f"{rung.name}: the mean cosine to the float model's vectors is {cosine:.4f}, under the limit "
            f"{limits.min_cosine:g} (parity.quantisation.min_cosine). {_MORE_BITS}"
        )
    lowest, least = result.worst_group_cosine, limits.min_group_cosine
    if "min_group_cosine" in rung.gates and least is not None and lowest is not None and not lowest >= least:
        found.append(
            f"{rung.name}: the mean cosine of texts in {result.worst_group} is {lowest:.4f}, under the limit "
            f"{least:g} (parity.quantisation.min_language_cosine). {_MORE_BITS}"
        )
    return found


_MORE_BITS = "Give the layers with the lowest SQNR 8 bits, or raise the limit in the recipe"


@dataclass(frozen=True)
class ParityReport:
    """Everything measured. Passed, failures and the first layer follow from it and cannot disagree."""

    rungs: tuple[Rung, ...]
    greedy: tuple[GreedySample, ...] = ()
    layers: tuple[LayerError, ...] = ()  # network order
    other_failures: tuple[str, ...] = ()  # of gates that are not a rung's, as sentences

    @property
    def failures(self) -> tuple[str, ...]:
        """Every missed gate. A ladder without rungs has proven nothing and fails."""
        found = [sentence for rung in self.rungs for sentence in failures(rung)]
        if not self.rungs:
            found.append("parity: nothing was compared")
        return (*found, *self.other_failures)

    @property
    def passed(self) -> bool:
        """True where no gate was missed."""
        return not self.failures

    @property
    def rise(self) -> Rise | None:
        """The first layer that stands out; where a limit was missed and none does, the steepest fall."""
        found = find_rise(self.layers)
        return found if found or self.passed else _steepest_fall(self.layers)

    @property
    def first_layer(self) -> str | None:
        """Name of the layer in `rise`."""
        return self.rise.layer if self.rise else None

    @property
    def verdict(self) -> str:
        """One sentence: passed or failed, and on what grounds."""
        found = self.failures
        if found:
            more = f" And {len(found) - 1} more." if len(found) > 1 else ""
            return f"FAILED: {found[0]}.{more}"
        judged = sum(getattr(rung.limits, gate) is not None for rung in self.rungs for gate in rung.gates)
        if not judged:
            return "PASSED: the recipe sets no limits, so nothing was judged."
        return f"PASSED: every limit held ({judged} judged, in {len(self.rungs)} comparisons)."

    def shipped(self, target: str) -> Rung | None:
        """The rung that says what a user of this runtime gets, against the float model.

        Where the ladder has none, the quantisation's own, which is the same but for the lowering.
        """
        own = [rung for rung in self.rungs if rung.kind == "shipped" and rung.name.startswith(f"{target} ")]
        return next(iter(own or [rung for rung in self.rungs if rung.kind == "quantisation"]), None)

    def to_json(self) -> dict[str, Any]:
        """Plain data for json.dumps; numbers that JSON lacks become "inf", "-inf" or "nan"."""
        greedy = []
        for sample in self.greedy:
            entry = asdict(sample)
            for model, continuation in entry["continuations"].items():
                continuation["steps_same"] = sample.steps_same(model)
            greedy.append(entry)
        rungs = [{**asdict(r), "gates": list(r.gates), "failures": failures(r)} for r in self.rungs]
        data = {
            "passed": self.passed,
            "failures": list(self.failures),
            "other_failures": list(self.other_failures),
            "first_layer": self.first_layer,
            "first_layer_reason": self.rise.reason if self.rise else None,
            "rungs": rungs,
            "greedy": greedy,
            "layers": [asdict(layer) for layer in self.layers],
        }
        plain: dict[str, Any] = _plain(data)
        return plain

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ParityReport:
        """Inverse of to_json; what follows from the rest is worked out again.

        Raises KeyError, TypeError or ValueError for data that to_json did not write.
        """
        return cls(
            rungs=tuple(_rung(entry) for entry in data["rungs"]),
            greedy=tuple(_greedy(entry) for entry in data["greedy"]),
            layers=tuple(
                LayerError(
                    name=entry["name"],
                    bits=entry["bits"],
                    weight_sqnr_db=float(entry["weight_sqnr_db"]),
                    output_sqnr_db=_optional(entry["output_sqnr_db"]),
                )
                for entry in data["layers"]
            ),
            other_failures=tuple(data["other_failures"]),
        )


def _plain(value: Any) -> Any:
    """Tuples to lists, and floats that JSON cannot hold to strings that float() reads again."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _optional(value: float | str | None) -> float | None:
    return None if value is None else float(value)


_NUMBERS = {field.name for field in fields(ComparisonResult)} - {"invalid", "ppl_ratio_ci", "worst_group"}


def _rung(entry: Mapping[str, Any]) -> Rung:
    """One rung from its JSON form."""
    result: dict[str, Any] = {
        key: float(v) if isinstance(v, str) and key in _NUMBERS else v for key, v in entry["result"].items()
    }
    if result["ppl_ratio_ci"] is not None:
        low, high = result["ppl_ratio_ci"]
        result["ppl_ratio_ci"] = (float(low), float(high))
    return Rung(
        name=entry["name"],
        reference=entry["reference"],
        candidate=entry["candidate"],
        kind=entry["kind"],
        activations=entry["activations"],
        result=ComparisonResult(**result),
        limits=Limits(**entry["limits"]),
    )


def _greedy(entry: Mapping[str, Any]) -> GreedySample:
    """One greedy sample from its JSON form."""
    continuations = {
        model: Continuation(text=item["text"], token_ids=tuple(item["token_ids"]))
        for model, item in entry["continuations"].items()
    }
    return GreedySample(entry["prompt"], entry["reference"], continuations)
