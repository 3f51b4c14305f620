"""Metrics against closed forms, properties, and logits that no working model gives."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from exporter.parity import ComparisonResult, LogitComparison, invalid_logits
from exporter.parity.metrics import paired_half_width, student_t_97_5

# float64 sums over at most a few thousand terms: relative rounding stays under n * 2^-53 ~ 1e-12.
# Inputs are float32 numbers, so a log-probability put in as logit is off by 2^-24 of its size.
FLOAT32 = 2.0**-24


def compare(reference, candidate, targets=None) -> ComparisonResult:
    comparison = LogitComparison()
    comparison.update(np.asarray(reference, np.float32), np.asarray(candidate, np.float32), targets)
    return comparison.result()


def two_token_rows(probabilities) -> np.ndarray:
    """(n, 2) logits whose softmax is (p, 1 - p)."""
    p = np.asarray(probabilities, np.float64)
    return np.stack([np.log(p), np.log1p(-p)], axis=1).astype(np.float32)


def test_kl_of_two_known_distributions():
    p, q = np.array([0.6, 0.9]), np.array([0.25, 0.8])
    expected = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    result = compare(two_token_rows(p), two_token_rows(q))
    # |d KL| <= sum |d logit| for each side; four logits of size <= 2.4 rounded to float32
    assert result.kl_mean == pytest.approx(expected.mean(), abs=8 * 2.4 * FLOAT32)
    assert result.kl_p99 == pytest.approx(np.quantile(expected, 0.99), abs=8 * 2.4 * FLOAT32)


def test_kl_of_each_position_in_order():
    p, q = two_token_rows([0.6, 0.9, 0.3]), two_token_rows([0.25, 0.8, 0.3])
    comparison = LogitComparison()
    assert comparison.kl.shape == (0,)
    comparison.update(p[:2], q[:2])
    comparison.update(p[2:], q[2:])
    assert comparison.kl.tolist() == [
        pytest.approx(compare(p[i : i + 1], q[i : i + 1]).kl_mean) for i in range(3)
    ]


def test_perplexity_of_known_probabilities():
    # the next token has probability 1/4 and 1/16: perplexity is the geometric mean, 8
    reference = two_token_rows([1 / 4, 1 / 16])
    candidate = two_token_rows([1 / 8, 1 / 32])
    result = compare(reference, candidate, np.array([0, 0]))
    assert result.scored == 2
    assert result.reference_ppl == pytest.approx(8, rel=1e-6)
    assert result.candidate_ppl == pytest.approx(16, rel=1e-6)
    assert result.ppl_ratio == pytest.approx(2, rel=1e-6)
    assert result.ppl_ratio_ci is None  # two positions say nothing of their spread


def test_errors_are_relative_to_the_centred_reference():
    # rows 1, -1 around means 7 and 3: centred RMS is 1, whatever the means
    reference = [[8, 6], [2, 4]]
    candidate = [[8.5, 6.0], [2.0, 4.0]]
    result = compare(reference, candidate)
    assert result.max_abs == 0.5
    assert result.max_rel == pytest.approx(0.25)  # half of 0.5 is the row's mean and moves nothing
    # errors +-0.25 in one row, 0 in the other: RMS = 0.25 / sqrt(2)
    assert result.rms_rel == pytest.approx(0.25 / math.sqrt(2))
    assert result.sqnr_db == pytest.approx(-20 * math.log10(0.25 / math.sqrt(2)))
    assert result.same_top1 == 1.0


def test_same_top1_counts_positions():
    reference = [[3, 1, 2], [1, 3, 2], [1, 2, 3], [3, 2, 1]]
    candidate = [[3, 1, 2], [1, 3, 2], [3, 2, 1], [3, 2, 1]]
    assert compare(reference, candidate).same_top1 == 0.75


def test_identical_logits():
    logits = np.random.default_rng(0).normal(size=(40, 50)).astype(np.float32)
    targets = np.arange(40)
    result = compare(logits, logits, targets)
    assert (result.max_abs, result.max_rel, result.rms_rel, result.kl_mean, result.kl_p99) == (0, 0, 0, 0, 0)
    assert result.sqnr_db == math.inf
    assert result.ppl_ratio == 1.0
    assert result.ppl_ratio_ci == (1.0, 1.0)


# multiples of 1/256 below 2^6: adding a small integer to one is exact in float32
logits_of = st.integers(-40 * 256, 40 * 256).map(lambda n: n / 256)
logit_pairs = st.tuples(st.integers(1, 12), st.integers(2, 20)).flatmap(
    lambda shape: st.tuples(
        *[hnp.arrays(np.float32, shape, elements=logits_of).filter(lambda a: invalid_logits(a) is None)] * 2
    )
)


@given(logit_pairs)
def test_kl_is_not_negative_and_zero_only_for_equal_distributions(pair):
    reference, candidate = pair
    result = compare(reference, candidate)
    assert result.kl_mean >= 0
    assert compare(reference, reference).kl_mean == 0
    centred = [a.astype(np.float64) - a.mean(axis=1, keepdims=True, dtype=np.float64) for a in pair]
    # Pinsker: KL >= 2 (largest difference of a probability)^2
    p, q = (np.exp(c) / np.exp(c).sum(axis=1, keepdims=True) for c in centred)
    apart = np.abs(p - q).max(axis=1)
    assert result.kl_mean * len(reference) >= 2 * (apart**2).sum() - 1e-12


@given(logit_pairs, st.integers(-8, 8), st.integers(-8, 8))
def test_a_constant_per_row_changes_nothing_but_max_abs(pair, first, second):
    reference, candidate = pair
    targets = np.zeros(len(reference), np.int64)
    plain = compare(reference, candidate, targets)
    moved = compare(reference + np.float32(first), candidate + np.float32(second), targets)
    assert moved.same_top1 == plain.same_top1
    for name in ("max_rel", "rms_rel", "kl_mean", "kl_p99", "reference_ppl", "candidate_ppl", "ppl_ratio"):
        # float32: logits and differences under 2^7 are centred and shifted with three roundings of 2^-18 at
        # most; the softmax weights that come of it are off by 2^-16, and so is a sum weighted by them
        assert getattr(moved, name) == pytest.approx(getattr(plain, name), rel=2.0**-15, abs=1e-7), name


@given(logit_pairs, st.integers(1, 5))
def test_the_result_does_not_depend_on_how_updates_are_cut(pair, step):
    reference, candidate = pair
    targets = np.arange(len(reference)) % reference.shape[1]
    parts = LogitComparison()
    for start in range(0, len(reference), step):
        rows = slice(start, start + step)
        if any(invalid_logits(a[rows]) for a in pair):
            return  # a cut that leaves only equal rows is judged invalid, see below
        parts.update(reference[rows], candidate[rows], targets[rows])
    whole, cut = compare(reference, candidate, targets), parts.result()
    assert cut.positions == whole.positions
    assert cut.same_top1 == whole.same_top1
    for name in ("max_abs", "max_rel", "rms_rel", "kl_mean", "kl_p99", "reference_ppl", "ppl_ratio"):
        # a row is worked on by itself, so only the order of float32 instructions can differ
        assert getattr(cut, name) == pytest.approx(getattr(whole, name), rel=1e-6, abs=1e-12), name
    assert (cut.ppl_ratio_ci is None) == (whole.ppl_ratio_ci is None)


def test_chunks_inside_an_update_add_up(monkeypatch):
    rng = np.random.default_rng(1)
    reference = rng.normal(size=(37, 11)).astype(np.float32)
    candidate = (reference + rng.normal(scale=0.1, size=reference.shape)).astype(np.float32)
    targets = rng.integers(0, 11, 37)
    whole = compare(reference, candidate, targets)
    monkeypatch.setattr("exporter.parity.metrics._CHUNK_ELEMENTS", 25)  # two rows at a time
    cut = compare(reference, candidate, targets)
    assert cut.kl_mean == pytest.approx(whole.kl_mean, rel=1e-12)
    assert cut.sqnr_db == pytest.approx(whole.sqnr_db, rel=1e-12)
    assert cut.ppl_ratio_ci == pytest.approx(whole.ppl_ratio_ci, rel=1e-12)


@given(st.integers(0, 2**32 - 1), st.integers(5, 400), st.floats(0, 2))
def test_the_interval_contains_the_ratio(seed, n, noise):
    rng = np.random.default_rng(seed)
    reference = rng.normal(size=(n, 7)).astype(np.float32)
    candidate = (reference + rng.normal(scale=noise, size=reference.shape)).astype(np.float32)
    result = compare(reference, candidate, rng.integers(0, 7, n))
    low, high = result.ppl_ratio_ci
    assert low <= result.ppl_ratio <= high


@given(st.integers(0, 2**32 - 1))
def test_pairing_narrows_the_interval_when_both_models_find_the_same_text_hard(seed):
    rng = np.random.default_rng(seed)
    hard = rng.normal(scale=2.0, size=512)  # how hard each position is, shared by both models
    first, second = (hard + rng.normal(scale=0.2, size=512) for _ in range(2))
    paired = paired_half_width(second - first)
    unpaired = math.hypot(paired_half_width(first), paired_half_width(second))
    # standard deviations 0.28 and 2.84: a tenth; a factor of 3 leaves room for chance
    assert paired < unpaired / 3


def test_the_interval_covers_the_truth_19_times_in_20():
    # correlated differences: blocks of 16 positions share half of their variance; true mean 0
    rng = np.random.default_rng(2)
    trials, hits = 1000, 0
    for _ in range(trials):
        d = np.repeat(rng.normal(size=64), 16) + rng.normal(size=1024)
        hits += abs(d.mean()) <= paired_half_width(d)
    # binomial(1000, 0.95) has a standard deviation of 0.7 %; 3 of them
    assert hits / trials == pytest.approx(0.95, abs=0.021)


@pytest.mark.parametrize(("freedom", "expected"), [(4, 2.776), (7, 2.365), (10, 2.228), (30, 2.042)])
def test_student_t_against_printed_tables(freedom, expected):
    assert student_t_97_5(freedom) == pytest.approx(expected, rel=3e-3)


@pytest.mark.parametrize(
    ("logits", "reason"),
    [
        (np.zeros((0, 9)), "no logits, the shape is (0, 9)"),
        (np.zeros(4), "logits of shape (4,) are not (positions, vocabulary)"),
        (
            [[1, 2, 3], [4, np.nan, np.inf]],
            "2 of 6 logits are not finite; the first is nan at position 1, token 1",
        ),
        ([[1, 2], [5, 5]], "position 1 has the same logit 5.0 for every token"),
        ([[1, 2], [1, 2], [1, 2]], "all 3 positions have the same logits"),
        ([[1, 2], [1, 2.5]], None),
        ([[1, 2]], None),
    ],
)
def test_invalid_logits(logits, reason):
    assert invalid_logits(np.asarray(logits, np.float32)) == reason


def test_a_nan_in_one_window_makes_the_whole_result_invalid():
    comparison = LogitComparison()
    good = np.array([[1, 2], [2, 1]], np.float32)
    bad = np.array([[1, np.nan], [2, 1]], np.float32)
    comparison.update(good, good)
    comparison.update(good, bad)
    comparison.update(good, good)
    result = comparison.result()
    assert result.invalid == (
        "candidate: 1 of 4 logits are not finite; the first is nan at position 0, token 1"
    )
    assert result.positions == 4


def test_a_decoder_stuck_on_one_row_is_seen_across_updates():
    comparison = LogitComparison()
    stuck = np.array([[1, 2, 3]], np.float32)
    for step in range(3):
        comparison.update(np.array([[step, 1, 5]], np.float32), stuck)
    assert comparison.result().invalid == "candidate: all 3 positions have the same logits"


def test_nothing_compared_is_invalid():
    result = LogitComparison().result()
    assert result.invalid == "no logits were compared"
    assert result.positions == 0
    assert math.isnan(result.kl_mean)


def test_shapes_and_targets_are_checked():
    comparison = LogitComparison()
    logits = np.array([[1, 2], [2, 1]], np.float32)
    with pytest.raises(ValueError, match=r"^reference logits are \(2, 2\), the candidate's \(1, 2\)$"):
        comparison.update(logits, logits[:1])
    with pytest.raises(ValueError, match=r"^targets are \(1,\) for 2 positions$"):
        comparison.update(logits, logits, np.array([0]))
    with pytest.raises(ValueError, match=r"^a target lies outside the vocabulary of 2 tokens$"):
        comparison.update(logits, logits, np.array([0, 2]))


def test_a_large_vocabulary_needs_no_copy_of_its_size():
    import tracemalloc

    rng = np.random.default_rng(3)
    reference = rng.normal(size=(64, 100_000)).astype(np.float32)  # 26 MB
    comparison = LogitComparison()
    tracemalloc.start()
    try:
        comparison.update(reference, reference + np.float32(0.5))
        _, peak = tracemalloc.get_traced_memory()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # the candidate 26 MB, a few arrays of 2^21 float64 (16 MB); float64 copies of both alone are 102 MB
    assert peak < 170e6
    assert kept < 28e6
