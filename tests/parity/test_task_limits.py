"""parity.tasks: what a figure outside its limit, and a limit without a figure, say."""

import numpy as np
import pytest

from exporter.parity.task_limits import missed
from exporter.parity.tasks import TaskComparison, TaskReport, classification, transcription
from exporter.recipe import TaskGate


def report(metrics, task="image-classification", data="20 pictures of photos"):
    return TaskReport((TaskComparison("onnxruntime", "float", task, data, metrics),))


def right(count, of=20):
    """Logits of a model that is right `count` times, the label being 0."""
    logits = np.zeros((of, 3), np.float32)
    logits[:count, 0] = logits[count:, 1] = 1
    return logits


@pytest.mark.parametrize(("ours", "held"), [(17, True), (16, False)])
def test_a_limit_is_held_to_the_last_example(ours, held):
    found = report(classification(right(18), right(ours), np.zeros(20, np.int64)))
    sentences = missed(TaskGate(max_accuracy_loss=0.05), found)
    assert sentences == (
        ()
        if held
        else (
            "onnxruntime: top-1 on 20 pictures of photos is 0.8000, float 0.9000 (16 of 20 right, float 18), "
            "parity.tasks.max_accuracy_loss is 0.05",
        )
    )


def test_agreement_and_words():
    found = report(classification(right(20), right(18)))
    assert missed(TaskGate(min_agreement=0.9), found) == ()
    assert missed(TaskGate(min_agreement=0.95), found) == (
        "onnxruntime: agreement on 20 pictures of photos is 0.9000 (18 of 20), parity.tasks.min_agreement is 0.95",
    )
    speech = report(
        transcription(["a b c d"], ["a b x d"], ["a b c d"]), "automatic-speech-recognition", "1 clips"
    )
    assert missed(TaskGate(max_word_error_rise=0.25), speech) == ()
    assert missed(TaskGate(max_word_error_rise=0.2), speech) == (
        "onnxruntime: word error rate on 1 clips is 0.2500, float 0.0000 (1 of 4 words, float 0), "
        "parity.tasks.max_word_error_rise is 0.2",
    )


def test_a_limit_that_judges_nothing_is_missed():
    for nothing in (None, report(classification(right(20), right(20)))):
        assert missed(TaskGate(max_word_error_rise=0), nothing) == (
            "parity.tasks.max_word_error_rise: nothing was measured that it judges (word error rate); give parity.data "
            "with labels or transcripts, or take the limit out",
        )
    assert missed(TaskGate(), None) == ()
