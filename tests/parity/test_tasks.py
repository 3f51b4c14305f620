"""Metrics of tasks, against their definitions."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from exporter.parity.tasks import (
    Disagreement,
    Metric,
    TaskComparison,
    TaskReport,
    classification,
    embeddings,
    generated,
    label_agreement,
    transcription,
)


def named(metrics):
    return {(metric.name, metric.group): metric for metric in metrics}


def logits(order, classes=8):
    """One row whose classes are ranked as in `order`, the others last."""
    row = np.full(classes, -1.0, np.float32)
    for rank, number in enumerate(order):
        row[number] = 10 - rank
    return row


# --- classification -------------------------------------------------------------------------------------


def test_top_1_top_5_and_agreement():
    reference = np.stack([logits([0, 1]), logits([1, 0]), logits([2, 3, 4, 5, 6]), logits([3])])
    candidate = np.stack([logits([0, 1]), logits([0, 1]), logits([2, 3, 4, 5, 6]), logits([3])])
    labels = np.array([0, 1, 6, 7])
    found = named(classification(reference, candidate, labels))
    top1, top5 = found["top-1", None], found["top-5", None]
    assert (top1.reference, top1.candidate, top1.difference, top1.detail) == (
        0.5,
        0.25,
        -0.25,
        "1 of 4 right, float 2",
    )
    assert (top5.reference, top5.candidate) == (0.75, 0.75)
    assert (top1.p_value, top1.interval) == (
        1.0,
        None,
    )  # one example differs; four are too few for an interval
    agreement = found["agreement", None]
    assert (agreement.candidate, agreement.reference, agreement.items) == (0.75, None, 4)
    assert ("top-1", None) not in named(classification(reference, candidate))


def test_a_loss_is_seen():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 8, 400)
    reference = np.stack([logits([label]) for label in labels])
    candidate = reference.copy()
    candidate[:40] = np.stack([logits([(label + 1) % 8]) for label in labels[:40]])
    top1 = named(classification(reference, candidate, labels))["top-1", None]
    assert top1.worse and top1.difference == pytest.approx(-0.1)
    assert top1.interval[0] < -0.1 < top1.interval[1] < 0
    assert top1.p_value == pytest.approx(2 * 0.5**40)
    better = named(classification(candidate, reference, labels))["top-1", None]
    assert not better.worse


def test_ties_fall_on_the_same_side():
    flat = np.zeros((5, 3), np.float32)
    assert named(classification(flat, flat))["agreement", None].candidate == 1.0
    assert named(classification(flat, flat, np.zeros(5, np.int64)))["top-1", None].candidate == 1.0
    assert ("top-5", None) not in named(classification(flat, flat, np.zeros(5, np.int64)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: classification(a, a[:, :2]), "the reference's values are (3, 4), the candidate's (3, 2)"),
        (lambda a: classification(a, a, np.zeros(2, np.int64)), "2 labels for 3 examples"),
        (lambda a: classification(a, a, groups=["de"]), "1 groups for 3 examples"),
        (lambda a: classification(a, a * np.inf), "candidate: example 0 has values not finite"),
        (lambda a: embeddings(a, a * 0), "vector 0 is zero and has no direction"),
        (lambda a: label_agreement(a[0], a[0][:2]), "4 labels of the reference, 2 of the candidate"),
        (lambda a: transcription(["a"], ["a"], []), "0 transcripts for 1 clips"),
    ],
)
def test_what_does_not_fit(call, message):
    with pytest.raises(ValueError) as caught:
        call(np.ones((3, 4), np.float32))
    assert str(caught.value) == message


def test_labels_by_language():
    reference, candidate = np.array([0, 1, 1, 0]), np.array([0, 1, 0, 0])
    found = named(label_agreement(reference, candidate, np.array([0, 1, 1, 1]), ["de", "de", "fr", "fr"]))
    assert list(found) == [
        ("accuracy", None), ("agreement", None), ("accuracy", "de"), ("agreement", "de"), ("accuracy", "fr"),
        ("agreement", "fr"),
    ]  # fmt: skip
    assert found["accuracy", "fr"].reference == 0.5 and found["accuracy", "fr"].candidate == 0.0
    assert found["agreement", "de"].candidate == 1.0
    one = label_agreement(reference, candidate, groups=["de", None, "de", "de"])
    assert [metric.group for metric in one] == [None]  # a single group says nothing that all does not
    assert label_agreement(np.array([]), np.array([])) == ()


# --- speech ---------------------------------------------------------------------------------------------


def test_word_error_rate():
    said = ["He was not an ill disposed young man.", "and rather selfish"]
    found = named(transcription(["he was not an ill-disposed young man", "and, rather selfish!"],
                                ["he was not a nil disposed man", "and rather selfish"], said))  # fmt: skip
    rate = found["word error rate", None]
    assert (rate.reference, rate.candidate) == (0.0, 3 / 11)
    assert (rate.detail, rate.better) == ("3 of 11 words, float 0", "lower")
    against = found["words unlike float", None]
    assert (against.candidate, against.reference, against.detail) == (3 / 11, None, "3 of 11 words")


def test_languages_without_spaces_are_counted_by_characters():
    found = named(
        transcription(["今日は天気", "a b"], ["今日も天気", "a b"], ["今日は天気", "a b"], ["ja", "en"])
    )
    assert found["word error rate", "ja"].candidate == 1 / 5
    assert found["word error rate", "en"].candidate == 0.0
    assert found["word error rate", None].detail == "1 of 7 words, float 0"


def test_nothing_said():
    found = named(transcription([""], ["word"], [""]))
    assert found["word error rate", None].candidate == math.inf
    assert TaskReport.from_json(json.loads(json.dumps(report(tuple(found.values())).to_json()))) == report(
        tuple(found.values())
    )


WORDS = st.lists(st.sampled_from(["one", "two", "three"]), max_size=6).map(" ".join)


@given(st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=12))
def test_error_rates_are_bounded_by_insertions(clips):
    reference, candidate, said = zip(*clips, strict=True)
    rate = named(transcription(reference, candidate, said))["word error rate", None]
    words = sum(len(text.split()) for text in said)
    longest = sum(max(len(a.split()), len(b.split())) for a, b in zip(candidate, said, strict=True))
    if words:
        assert 0 <= rate.candidate <= longest / words
        assert (rate.candidate == 0) == (candidate == said)


# --- vectors --------------------------------------------------------------------------------------------


def test_the_same_vectors():
    vectors = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    found = named(embeddings(vectors, 3 * vectors))  # length plays no part
    assert found["cosine", None].candidate == pytest.approx(1.0, abs=1e-12)
    assert found["recall@1", None].candidate == 1.0
    assert found["rank correlation", None].candidate == pytest.approx(1.0, abs=1e-12)


@settings(deadline=None)
@given(st.integers(3, 12), st.floats(0.0, 2.0), st.integers(0, 99))
def test_vectors_by_the_definitions(n, noise, seed):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(n, 5)).astype(np.float32)
    b = (a + rng.normal(scale=noise, size=(n, 5))).astype(np.float32)
    found = named(embeddings(a, b))
    wide = [
        v.astype(np.float64) / np.linalg.norm(v.astype(np.float64), axis=1, keepdims=True) for v in (a, b)
    ]
    cosine = (wide[0] * wide[1]).sum(axis=1)
    assert found["cosine", None].candidate == pytest.approx(cosine.mean())
    assert found["lowest cosine", None].candidate == pytest.approx(cosine.min())
    near, ranks = [], []
    for i in range(n):
        similar = [np.delete(v @ v[i], i) for v in wide]
        near.append(similar[0].argmax() == similar[1].argmax())
        ranks.append(spearmanr(*similar).statistic if n > 3 else None)
    assert found["recall@1", None].candidate == pytest.approx(np.mean(near))
    if n > 3:
        assert found["rank correlation", None].candidate == pytest.approx(np.mean(ranks))


def test_equal_similarities_share_their_rank():
    a = np.array([[1, 0], [0, 1], [0, 1], [1, 1]], np.float32)
    assert named(embeddings(a, a))["rank correlation", None].candidate == pytest.approx(1.0)


# --- generated text -------------------------------------------------------------------------------------


def test_exact_match():
    found = named(
        generated(
            ["Run tests", "Fix it", "a b c d"],
            ["Run tests ", "Fix that", "a b x"],
            ["Run tests", "Fix it", "z"],
        )
    )
    exact = found["exact match", None]
    assert (exact.reference, exact.candidate, exact.detail) == (2 / 3, 1 / 3, "1 of 3 right, float 2")
    assert found["same text as float", None].candidate == 1 / 3
    assert found["same beginning", None].candidate == pytest.approx((1 + 1 / 2 + 2 / 4) / 3)
    assert named(generated([""], [""]))["same beginning", None].candidate == 1.0


# --- the report -----------------------------------------------------------------------------------------


def report(metrics) -> TaskReport:
    part = Disagreement("a.png", "cat", "dog", "cat")
    return TaskReport(
        (TaskComparison("onnxruntime", "float", "image-classification", "20 photos", metrics, (part,)),),
        ("note",),
    )


def test_json_holds_everything():
    metrics = (
        Metric("top-1", None, 20, 0.9, 0.95, (-0.15, 0.0), 1.0, "higher", "18 of 20 right, float 19"),
        Metric("word error rate", "de", 3, math.inf, None, None, better="lower"),
    )
    whole = report(metrics)
    assert TaskReport.from_json(json.loads(json.dumps(whole.to_json()))) == whole
    assert whole.comparisons[0].find("word error rate", "de") == metrics[1]
    with pytest.raises(KeyError):
        whole.comparisons[0].find("top-1", "de")


def test_worse_is_an_interval_on_the_wrong_side():
    assert Metric("a", None, 9, 0.5, 0.6, (-0.2, -0.01)).worse
    assert not Metric("a", None, 9, 0.5, 0.6, (-0.2, 0.0)).worse
    assert Metric("a", None, 9, 0.6, 0.5, (0.01, 0.2), better="lower").worse
    assert not Metric("a", None, 9, 0.9, None, (0.8, 0.95)).worse
