"""How far two models' logits lie apart.

Definitions (a is the reference's logits, b the candidate's; both (positions, vocabulary))
- Softmax ignores a constant added to a row, so every relative measure first removes each row's mean
  from a and from b. Only max_abs is taken from the raw logits.
- max_rel  = max |b - a| / RMS(a), over all positions and tokens.
- rms_rel  = RMS(b - a) / RMS(a);  sqnr_db = -20 log10(rms_rel).
- KL(a || b) = sum softmax(a) (log softmax(a) - log softmax(b)) in nats, per position.
- perplexity = exp(mean negative log likelihood of the text's own next token).
- ppl_ratio = exp(mean(d)), d the differences of the two models' negative log likelihoods at the same
  position. Its 95 % interval is paired: the variance of d, not of the perplexities, which share the
  text's own spread. Neighbouring positions are correlated, so the standard error is clustered over
  blocks of consecutive positions (Miller 2024, "Adding Error Bars to Evals", arXiv:2411.00640,
  section 2.2 and, for paired differences, 4.2), with Student's t for the number of blocks.

Arithmetic: element by element in float32, in place and on every core (a vocabulary of 262,144 makes
float64 the slowest part of a proof); every sum in float64. What float32 rounds is chosen so that it
stays small against the result. With d = b - a, shifted by its mean under p = softmax(a),

    KL(a || b) = log sum p exp(d) - sum p d = log(1 + sum p (expm1(d) - d))

holds up to the product of two rounding errors, has no cancellation between large numbers, and needs
p to a relative 2^-22 only: KL is good to about 1e-6 of itself, or 1e-7 |d| where d is tiny. A row
with |d| > 30, where exp could overflow, is summed in float64 from the definition.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

FloatArray = NDArray[np.float32]
Float64Array = NDArray[np.float64]

_CHUNK_ELEMENTS = 1 << 19  # float32 arrays of 2 MB, which a processor's caches hold, whatever the vocabulary
_LARGEST_SHIFT = 30.0  # of a logit from one model to the other, for the formula in float32
_BLOCK_POSITIONS = 32  # longest run of positions treated as one observation
_FEWEST_BLOCKS = 8  # a short text is cut into shorter blocks instead of fewer
_NORMAL_97_5 = 1.959963984540054  # 97.5 % point of the standard normal


@dataclass(frozen=True)
class ComparisonResult:
    """What a LogitComparison measured. Not-a-number where nothing valid was compared."""

    positions: int  # rows of logits compared
    max_abs: float  # of the raw logits
    max_rel: float
    rms_rel: float
    sqnr_db: float  # infinite when both are the same
    kl_mean: float  # nats
    kl_p99: float  # nats, 99th percentile over positions
    same_top1: float  # share of positions whose most likely token is the same, 0..1
    scored: int = 0  # positions whose next token is known; the four below are None without any
    reference_ppl: float | None = None
    candidate_ppl: float | None = None
    ppl_ratio: float | None = None  # candidate / reference
    ppl_ratio_ci: tuple[float, float] | None = None  # 95 %; None below 5 scored positions
    invalid: str | None = None  # why these logits cannot be judged (NaN, constant, none)
    # Of vectors (parity.vectors), which have no distribution: KL and top-1 are then not-a-number.
    cosine_mean: float | None = None  # over examples
    cosine_min: float | None = None  # of the worst example
    worst_group: str | None = None  # the language with the lowest mean, where there are several
    worst_group_cosine: float | None = None


class LogitComparison:
    """Accumulates over windows of logits; keeps a few numbers per position, never the logits."""

    def __init__(self) -> None:
        self._max_abs = 0.0
        self._max_centred = 0.0
        self._error_power = 0.0
        self._reference_power = 0.0
        self._elements = 0
        self._kl: list[Float64Array] = []
        self._same: list[NDArray[np.bool_]] = []
        self._reference_nll: list[Float64Array] = []
        self._candidate_nll: list[Float64Array] = []
        self._first_rows: tuple[FloatArray, FloatArray] | None = None
        self._varied = [False, False]  # has a row unlike the first been seen: reference, candidate
        self._invalid: str | None = None

    def update(
        self, reference: FloatArray, candidate: FloatArray, targets: NDArray[np.int64] | None = None
    ) -> None:
        """Compare (n, vocabulary) logits; `targets` (n,) are the text's next tokens.

        Logits that are not finite, constant or missing are left out and make the result invalid.
        Raises ValueError where shapes differ or a target lies outside the vocabulary.
        """
        if reference.shape != candidate.shape:
            raise ValueError(f"reference logits are {reference.shape}, the candidate's {candidate.shape}")
        for who, logits in (("reference", reference), ("candidate", candidate)):
            reason = invalid_logits(logits)
            if reason is not None:
                self._invalid = self._invalid or f"{who}: {reason}"
                return
        n, vocabulary = reference.shape
        if targets is not None:
            targets = np.asarray(targets, np.int64)
            if targets.shape != (n,):
                raise ValueError(f"targets are {targets.shape} for {n} positions")
            if n and not 0 <= int(targets.min()) <= int(targets.max()) < vocabulary:
                raise ValueError(f"a target lies outside the vocabulary of {vocabulary} tokens")
        self._watch_variation(reference, candidate)
        # one array for all chunks: small ones that stay, between large ones that go, would tear the heap to pieces
        kl, same, losses = np.empty(n), np.empty(n, np.bool_), np.empty((2, n))
        step = max(1, _CHUNK_ELEMENTS // vocabulary)
        for start in range(0, n, step):
            rows = slice(start, start + step)
            own = None if targets is None else targets[rows]
            kl[rows], same[rows], losses[:, rows] = self._add(reference[rows], candidate[rows], own)
        self._kl.append(kl)
        self._same.append(same)
        if targets is not None:
            self._reference_nll.append(losses[0])
            self._candidate_nll.append(losses[1])

    def _watch_variation(self, reference: FloatArray, candidate: FloatArray) -> None:
        """Decoding comes a row at a time, so a model stuck on one row only shows across updates."""
        if self._first_rows is None:
            self._first_rows = reference[0].copy(), candidate[0].copy()
        for who, logits in enumerate((reference, candidate)):
            if not self._varied[who]:
                self._varied[who] = bool((logits != self._first_rows[who]).any())

    def _stuck(self, positions: int) -> str | None:
        """A reason where one of the models gave the same row each time."""
        for who, varied in zip(("reference", "candidate"), self._varied, strict=True):
            if positions > 1 and not varied:
                return f"{who}: all {positions} positions have the same logits"
        return None

    def _add(
        self, reference: FloatArray, candidate: FloatArray, targets: NDArray[np.int64] | None
    ) -> tuple[Float64Array, NDArray[np.bool_], Float64Array]:
        """One chunk of valid logits, (n, vocabulary) each -> by position: KL, same top token, and both negative
        log likelihoods of the targets (2, n), zero without any."""
        import torch

        wide = torch.float64
        a = torch.from_numpy(np.array(reference, np.float32))  # copies: worked on in place
        d = torch.from_numpy(np.array(candidate, np.float32)).sub_(a)
        self._max_abs = max(self._max_abs, float(d.abs().max()))
        same = reference.argmax(axis=1) == candidate.argmax(axis=1)
        mean_a = a.mean(dim=1, keepdim=True, dtype=wide)  # (n, 1)
        shift = d.mean(dim=1, keepdim=True, dtype=wide)
        a.sub_(mean_a.float())
        d.sub_(shift.float())
        largest = d.abs().amax(dim=1)  # (n,)
        self._max_centred = max(self._max_centred, float(largest.max()))
        self._error_power += float(d.square().sum(dtype=wide))
        self._reference_power += float(a.square().sum(dtype=wide))
        self._elements += a.numel()
        log_p = None if targets is None else a.numpy()[np.arange(len(targets)), targets]  # (n,), unnormalised
        far = (largest > _LARGEST_SHIFT).nonzero()[:, 0]
        exact = _kl_float64(a[far], d[far]) if len(far) else None
        kl, log_a, log_ratio = _kl_float32(a, d)
        if exact is not None:
            for found, rows in zip((kl, log_a, log_ratio), exact, strict=True):
                found[far.numpy()] = rows
        losses = np.zeros((2, len(kl)))
        if targets is not None and log_p is not None:  # log p of token t: x[t] - log sum exp(x)
            at = np.arange(len(targets)), targets
            moved = candidate[at].astype(np.float64) - reference[at] - shift.numpy()[:, 0]
            losses[0] = log_a - log_p
            losses[1] = losses[0] - moved + log_ratio
        return kl, same, losses

    @property
    def kl(self) -> Float64Array:
        """(positions,) KL in nats, in the order of the updates, of what was valid."""
        return np.concatenate([np.empty(0), *self._kl])

    def result(self) -> ComparisonResult:
        """The measures over everything seen so far. It does not depend on how updates were cut."""
        if not self._kl:
            nan = math.nan
            reason = self._invalid or "no logits were compared"
            return ComparisonResult(0, nan, nan, nan, nan, nan, nan, nan, invalid=reason)
        kl, same = np.concatenate(self._kl), np.concatenate(self._same)
        reference_rms = math.sqrt(self._reference_power / self._elements)
        rms_rel = math.sqrt(self._error_power / self._elements) / reference_rms
        scored, ppl_a, ppl_b, ratio, interval = self._perplexities()
        return ComparisonResult(
            positions=len(kl),
            max_abs=self._max_abs,
            max_rel=self._max_centred / reference_rms,
            rms_rel=rms_rel,
            sqnr_db=-20.0 * math.log10(rms_rel) if rms_rel > 0 else math.inf,
            kl_mean=float(kl.mean()),
            kl_p99=float(np.quantile(kl, 0.99)),
            same_top1=float(same.mean()),
            scored=scored,
            reference_ppl=ppl_a,
            candidate_ppl=ppl_b,
            ppl_ratio=ratio,
            ppl_ratio_ci=interval,
            invalid=self._invalid or self._stuck(len(kl)),
        )

    def _perplexities(
        self,
    ) -> tuple[int, float | None, float | None, float | None, tuple[float, float] | None]:
        """Scored positions, both perplexities, their ratio and its interval."""
        if not self._reference_nll:
            return 0, None, None, None, None
        reference, candidate = np.concatenate(self._reference_nll), np.concatenate(self._candidate_nll)
        difference = candidate - reference
        mean = float(difference.mean())
        half = paired_half_width(difference)
        interval = None if half is None else (_exp(mean - half), _exp(mean + half))
        return (
            len(difference),
            _exp(float(reference.mean())),
            _exp(float(candidate.mean())),
            _exp(mean),
            interval,
        )


def invalid_logits(logits: FloatArray) -> str | None:
    """Why (n, vocabulary) logits cannot come from a working model, or None."""
    if logits.ndim != 2:
        return f"logits of shape {logits.shape} are not (positions, vocabulary)"
    if logits.size == 0:
        return f"no logits, the shape is {logits.shape}"
    highest, lowest = logits.max(axis=1), logits.min(axis=1)  # not finite where one of the row is not
    if not (np.isfinite(highest) & np.isfinite(lowest)).all():
        finite = np.isfinite(logits)
        bad = int(logits.size - np.count_nonzero(finite))
        row, token = divmod(int(finite.argmin()), logits.shape[1])
        where = f"the first is {logits[row, token]} at position {row}, token {token}"
        return f"{bad} of {logits.size} logits are not finite; {where}"
    flat = highest == lowest
    if flat.any():
        row = int(flat.argmax())
        return f"position {row} has the same logit {logits[row, 0]} for every token"
    if len(logits) > 1 and (highest == highest[0]).all() and (logits == logits[:1]).all():
        return f"all {len(logits)} positions have the same logits"
    return None


def paired_half_width(difference: Float64Array) -> float | None:
    """Half the 95 % interval of the mean of (n,) differences, clustered over consecutive positions.

    SE^2 = C / (C - 1) * sum over blocks (sum over the block of (d - mean))^2 / n^2, C blocks (Miller
    2024, section 2.2, with the usual correction for few clusters). None below 5 positions.
    """
    n = len(difference)
    length = min(max(n // _FEWEST_BLOCKS, 1), _BLOCK_POSITIONS)
    starts = np.arange(0, n, length)
    blocks = len(starts)
    if blocks < 5:
        return None
    sums = np.add.reduceat(difference - difference.mean(), starts)  # (n,) -> (blocks,)
    variance = blocks / (blocks - 1) * float(sums @ sums) / n**2
    return student_t_97_5(blocks - 1) * math.sqrt(variance)


def student_t_97_5(freedom: int) -> float:
    """97.5 % point of Student's t, by the expansion in 1 / freedom of Abramowitz and Stegun 26.7.5.

    Within 0.3 % from 4 degrees of freedom on.
    """
    z, v = _NORMAL_97_5, float(freedom)
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4)
    )


def _kl_float32(a: torch.Tensor, d: torch.Tensor) -> tuple[Float64Array, Float64Array, Float64Array]:
    """(n, vocabulary) reference logits and differences, overwritten -> per row: KL, log sum exp(a), and
    log sum softmax(a) exp(d). The formula of this module's head."""
    import torch

    wide = torch.float64
    largest = a.amax(dim=1, keepdim=True)
    weight = torch.sub(a, largest).exp_()  # softmax up to a factor
    total = weight.sum(dim=1, keepdim=True, dtype=wide)
    mean = torch.mul(weight, d).sum(dim=1, keepdim=True, dtype=wide) / total
    d.sub_(mean.float())
    excess = torch.expm1(d).sub_(d).mul_(weight).sum(dim=1, keepdim=True, dtype=wide) / total
    kl = torch.log1p(excess).clamp_(min=0.0)  # rounding can leave -1e-12, KL is never negative
    log_ratio = mean.float().double() + kl
    log_a = largest.double() + total.log()
    return kl[:, 0].numpy(), log_a[:, 0].numpy(), log_ratio[:, 0].numpy()


def _kl_float64(a: torch.Tensor, d: torch.Tensor) -> tuple[Float64Array, Float64Array, Float64Array]:
    """As _kl_float32, by the definition; for models that lie far apart."""
    import torch

    wide_a = a.double()
    wide_b = wide_a + d.double()
    log_a, log_b = torch.logsumexp(wide_a, dim=1), torch.logsumexp(wide_b, dim=1)
    wide_a -= log_a[:, None]
    wide_b -= log_b[:, None]
    kl = (wide_a.exp() * (wide_a - wide_b)).sum(dim=1).clamp_(min=0.0)
    return kl.numpy(), log_a.numpy(), (log_b - log_a).numpy()


def _exp(x: float) -> float:
    """exp, infinite instead of OverflowError: a broken model's perplexity may exceed a float."""
    return math.exp(x) if x < 709.0 else math.inf
