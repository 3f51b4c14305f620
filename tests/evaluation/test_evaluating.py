"""The whole evaluation of a tiny model with random weights in both runtimes: every figure that can be is computed again
by hand, one call of the model at a time."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
from evaluation_data import write_sets

from exporter.backends import get_backend
from exporter.errors import ArtifactError, QexportError
from exporter.evaluation.choices import hellaswag
from exporter.evaluation.items import continued, drawn, rows_of
from exporter.evaluation.measuring import measure, measure_files
from exporter.evaluation.scorecard import Scorecard
from exporter.evaluation.settings import EvaluationSettings

QUALITY = ("text", "multiple-choice", "code", "safety", "long-context")
RUNTIMES = ("onnxruntime", "executorch")


@pytest.fixture(scope="module")
def evaluated(sliding_job, tmp_path_factory):
    """(checkpoint, folder, cache, scorecard) of all suites but speed, 20 items of each."""
    model, folder = sliding_job
    cache = tmp_path_factory.mktemp("evaluated")
    write_sets(cache / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QEXPORT_CACHE", str(cache))
        settings = EvaluationSettings(QUALITY, items=20, context=512, answer_tokens=8)
        card = measure(folder, settings)
    return model, folder, cache, card


@pytest.fixture
def its_cache(evaluated, monkeypatch):
    monkeypatch.setenv("QEXPORT_CACHE", str(evaluated[2]))


def log_softmax(row):
    row = np.asarray(row, np.float64)
    return row - row.max() - math.log(np.exp(row - row.max()).sum())


def by_hand_float(model, tokens, first):
    """Sum of log-probabilities of tokens[first:], by transformers alone."""
    import torch

    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0].double().numpy()
    return sum(log_softmax(logits[at - 1])[tokens[at]] for at in range(first, len(tokens)))


def by_hand_runtime(runner, tokens, first):
    """The same from a runtime that is given a token at a time."""
    runner.reset()
    total = 0.0
    for at in range(1, len(tokens)):
        row = runner.forward([tokens[at - 1]])[-1]
        total += log_softmax(row)[tokens[at]] if at >= first else 0.0
    return total


@pytest.fixture
def loaded(evaluated):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = evaluated[0]
    return AutoModelForCausalLM.from_pretrained(model).eval(), AutoTokenizer.from_pretrained(model)


def test_bits_per_byte_are_the_log_likelihood_of_the_solution(evaluated, its_cache, loaded):
    model, tokenizer = loaded
    rows = drawn(rows_of("humaneval", "items.jsonl"), 20, 0)
    texts = [(row["prompt"].rstrip(), "\n" + row["canonical_solution"]) for row in rows]
    ids = [(tokenizer(a).input_ids, tokenizer(a + b).input_ids) for a, b in texts]
    size = sum(len(b.encode()) for _, b in texts)
    expected = -sum(by_hand_float(model, whole, len(own)) for own, whole in ids) / math.log(2) / size
    for name in RUNTIMES:
        figure = evaluated[3].find(name, "bits per byte", "HumanEval")
        assert figure.reference == pytest.approx(expected, rel=1e-5)
        runner = get_backend(name).open_text(evaluated[1] / name)
        found = -sum(by_hand_runtime(runner, whole, len(own)) for own, whole in ids) / math.log(2) / size
        # int8 activations: whole prompts and single tokens round the same, floats of another order do not always
        assert figure.value == pytest.approx(found, rel=2e-3)
        assert figure.value != figure.reference
        assert figure.n == 20
        assert figure.interval[0] <= figure.difference <= figure.interval[1]


@pytest.mark.parametrize(("name", "by_bytes"), [("accuracy", False), ("accuracy by bytes", True)])
def test_accuracy_is_that_of_the_likeliest_answer(evaluated, its_cache, loaded, name, by_bytes):
    model, tokenizer = loaded
    right = 0
    for row in drawn(rows_of("hellaswag", "items.jsonl"), 20, 0):
        question = hellaswag(row)
        scores = []
        for ending in row["endings"]:
            whole = tokenizer(f"Boats: {row['ctx']} {ending}").input_ids
            first = len(tokenizer(f"Boats: {row['ctx']}").input_ids)
            scores.append(by_hand_float(model, whole, first) / (len(ending) if by_bytes else 1))
        right += int(np.argmax(scores)) == question.right
    figure = evaluated[3].find("onnxruntime", name, "HellaSwag")
    assert figure.reference == right / 20
    changed = evaluated[3].find(
        "onnxruntime", f"answers changed{' by bytes' if by_bytes else ''}", "HellaSwag"
    )
    lost, won, _ = (int(part.split()[0]) for part in changed.remark.split(","))
    assert figure.difference == pytest.approx((won - lost) / 20)


def test_every_suite_gives_both_runtimes_the_same_figures(evaluated):
    card = evaluated[3]
    names = [[(f.dimension, f.suite, f.name, f.group, f.n) for f in scores] for scores in card.runtimes]
    assert names[0] == names[1]
    assert [scores.runtime for scores in card.runtimes] == list(RUNTIMES)
    assert {suite for _, suite, *_ in names[0]} == {*QUALITY, "files"}
    for name in RUNTIMES:
        assert card.find(name, "mean KL").value > 0
        flips = card.find(name, "flips")
        assert flips.remark.startswith(
            f"{round(flips.value * 1728)} of 1728 positions"
        )  # 27 windows, 64 of each
        worst = card.find(name, "mean KL of the worst language")
        language = worst.remark.removeprefix("it is ")
        assert worst.value == card.find(name, "mean KL", language).value
        assert card.find(name, "mean KL").n == 27  # 20 are 3 of each of 9 languages
        assert [f.group for f in card.runtimes[0].quality if f.name == "KL by position"] == [
            "0–127",
            "128–255",
            "256–383",
            "384–511",
        ]
    # the same tokens, so the float model's figures are the same whichever runtime stands beside it
    references = [[f.reference for f in scores if f.suite != "files"] for scores in card.runtimes]
    assert references[0] == pytest.approx(references[1])


def test_gates_can_ask_by_name(evaluated):
    card = evaluated[3]
    figure = card.find("onnxruntime", "accuracy")
    assert card.accuracy_ratio("onnxruntime") == figure.value / figure.reference
    shift = card.find("executorch", "refusals", "harmful requests").difference
    assert card.safety_shift("executorch") == shift
    assert card.perplexity_ratio("executorch") == card.find("executorch", "perplexity ratio").value
    with pytest.raises(KeyError, match="onnxruntime: 'joules' of all was not measured"):
        card.find("onnxruntime", "joules")


def test_a_scorecard_survives_json(evaluated):
    card = evaluated[3]
    data = json.loads(json.dumps(card.to_json(), allow_nan=False))
    assert Scorecard.from_json(data).to_json() == card.to_json()
    figure = data["runtimes"][0]["quality"][0]
    assert figure["name"] == "mean KL" and figure["difference"] is None
    with pytest.raises(ArtifactError, match="scorecard of format 0"):
        Scorecard.from_json({**data, "format": 0})


def test_energy_is_labelled_as_an_estimate_and_falls(evaluated):
    figure = evaluated[3].find("executorch", "energy, an estimate")
    assert figure.how.startswith("ESTIMATE, not measured")
    assert 0 < figure.value < figure.reference


def test_the_second_artifact_of_a_model_does_not_run_it_again(evaluated, its_cache, monkeypatch):
    from exporter.verify import references

    def runs(*arguments):
        raise AssertionError("the float model ran again")

    monkeypatch.setattr(references.Reference, "collect", runs)
    monkeypatch.setattr("exporter.evaluation.floats.greedy_together", runs)
    settings = EvaluationSettings(
        ("text", "safety"), 20, context=512, answer_tokens=8, runtimes=("onnxruntime",)
    )
    again = measure(evaluated[1], settings)
    for name in ("mean KL", "perplexity"):
        assert again.find("onnxruntime", name) == evaluated[3].find("onnxruntime", name)
    assert "the float model's results were there from a run before: text, safety" in again.notes


def test_a_job_can_measure_before_its_manifest_is_written(evaluated, its_cache, tmp_path):
    from pathlib import Path

    from exporter.models.loading import open_model
    from exporter.plan import QuantPlan

    folder = tmp_path / "sliding"
    shutil.copytree(evaluated[1], folder, ignore=shutil.ignore_patterns("manifest.json"))
    plan = QuantPlan.from_json(json.loads((folder / "plan.json").read_text()))
    model = open_model(str(evaluated[0]), "text-generation", Path())
    card = measure_files(folder, plan, model, EvaluationSettings(("code",), 20), lambda what, share: None)
    for name in RUNTIMES:
        for figure in ("bits per byte", "mean KL"):
            assert card.find(name, figure, "HumanEval") == evaluated[3].find(name, figure, "HumanEval")
        size = card.find(name, "model files").value
        summary = json.loads((evaluated[1] / "manifest.json").read_text())["summary"]
        assert size == summary["targets"][name]["model_bytes"] / 1e6


def test_other_seeds_draw_other_examples(evaluated, its_cache):
    settings = EvaluationSettings(("code",), 10, seed=1, runtimes=("onnxruntime",))
    figure = measure(evaluated[1], settings).find("onnxruntime", "bits per byte", "HumanEval")
    assert figure.value != evaluated[3].find("onnxruntime", "bits per byte", "HumanEval").value
    assert figure.interval is None
    assert "10 items are too few for an interval, 20 are the fewest" in figure.remark


def test_a_text_is_tokenised_with_its_context(loaded):
    _, tokenizer = loaded
    found = continued(tokenizer, "ab: ", "cd")
    assert (found.text, found.bytes) == (" cd", 3)
    assert list(found.window.targets) == tokenizer(" cd").input_ids
    assert found.window.first_scored == 2
    with pytest.raises(ValueError, match="'' behind 'ab:' has no token of its own to score"):
        continued(tokenizer, "ab:", "")


def test_data_that_is_not_fetched_is_named_with_the_command(sliding_job):
    with pytest.raises(QexportError, match=r"humaneval.*`python scripts/fetch_data.py humaneval` fetches it"):
        measure(sliding_job[1], EvaluationSettings(("code",), 5))


def test_an_unknown_suite_is_answered_with_the_nearest():
    with pytest.raises(QexportError) as problem:
        EvaluationSettings(("txt",))
    assert str(problem.value) == (
        "suite 'txt' is not known; did you mean 'text'? "
        "There are: text, multiple-choice, code, safety, long-context, speed"
    )
    with pytest.raises(QexportError, match="items: 0 is too small; 1 is the least"):
        EvaluationSettings(items=0)


def test_what_is_too_long_for_the_context_is_left_out_and_said(tiny_job, evaluated, its_cache):
    with pytest.raises(
        QexportError, match=r"TruthfulQA MC1: none of 5 fits the artifact's context of 256 tokens"
    ):
        measure(tiny_job[1], EvaluationSettings(("multiple-choice",), 5))


def test_other_weights_than_the_artifacts_are_refused(sliding_job, tiny_checkpoint, tmp_path):
    with pytest.raises(ArtifactError, match="was made of other weights than those of"):
        measure(sliding_job[1], source=str(tiny_checkpoint))
    manifest = tmp_path / "copy" / "manifest.json"
    manifest.parent.mkdir()
    shutil.copy(sliding_job[1] / "manifest.json", manifest)
    data = json.loads(manifest.read_text())
    del data["summary"]["plan"]
    manifest.write_text(json.dumps(data))
    with pytest.raises(ArtifactError, match="holds no plan of this qexport; export again"):
        measure(manifest.parent)


def test_an_artifact_that_is_no_language_model(task_job):
    with pytest.raises(
        ArtifactError, match="holds a model for text-classification, and only language models"
    ):
        measure(task_job("text-classification").folder)


def test_a_runtime_that_the_folder_does_not_hold(sliding_job):
    with pytest.raises(ArtifactError, match="holds no tflite, only onnxruntime, executorch"):
        measure(sliding_job[1], EvaluationSettings(runtimes=("tflite",)))
