"""Gates, sentences, the layer where the error rises, and the JSON form."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.parity import (
    ComparisonResult,
    Continuation,
    GreedySample,
    LayerError,
    Limits,
    LogitComparison,
    ParityReport,
    Rise,
    Rung,
    failures,
    find_rise,
    first_rise,
)

LIMITS = Limits(max_rel=1e-3, max_kl=0.15, min_top1=0.75, max_ppl_ratio=1.1)
GOOD = ComparisonResult(
    positions=100, max_abs=0.01, max_rel=5e-4, rms_rel=1e-4, sqnr_db=80.0, kl_mean=0.1, kl_p99=0.5,
    same_top1=0.9, scored=100, reference_ppl=10.0, candidate_ppl=10.5, ppl_ratio=1.05,
    ppl_ratio_ci=(1.03, 1.07),
)  # fmt: skip


def rung(kind="quantisation", activations="float", **changes) -> Rung:
    return Rung(
        name=kind, reference="PyTorch", candidate="the runtime", kind=kind, activations=activations,
        result=replace(GOOD, **changes), limits=LIMITS,
    )  # fmt: skip


def test_within_every_limit():
    assert failures(rung()) == []
    assert failures(rung(kind="lowering")) == []


def test_a_value_on_its_limit_passes():
    assert failures(rung(kl_mean=0.15, same_top1=0.75, ppl_ratio=1.1)) == []
    assert failures(rung(kind="lowering", max_rel=1e-3)) == []


@pytest.mark.parametrize("activations", ["float", "quantised"])
def test_a_lowering_that_rounds_on_the_way_is_held_to_the_noise_floor(activations):
    """Activations in int8, or a KV cache: numerical noise is no measure there, whatever max_rel is."""
    found = replace(
        rung(kind="lowering", activations=activations, max_rel=0.9), limits=Limits(max_noise_kl=0.08)
    )
    assert found.gates == ("max_noise_kl",)
    assert failures(replace(found, limits=Limits(max_noise_kl=0.1))) == []
    assert failures(found) == [
        "lowering: the mean KL divergence is 0.1 nats, over the 0.08 that the measured noise floor allows. "
        "the runtime does not compute what PyTorch computes from the same integers. Do not ship these files"
    ]


def test_each_missed_gate_is_a_sentence():
    assert failures(rung(kl_mean=0.2134, same_top1=0.7012, ppl_ratio=1.234)) == [
        "quantisation: the mean KL divergence is 0.213 nats, over the limit 0.15 "
        "(parity.quantisation.max_kl). Give the layers with the lowest SQNR 8 bits, "
        "or raise the limit in the recipe",
        "quantisation: the most likely token is the same at 70.1 % of the positions, under the limit 75 % "
        "(parity.quantisation.min_top1). Give the layers with the lowest SQNR 8 bits, "
        "or raise the limit in the recipe",
        "quantisation: perplexity is 1.234 times the reference's (95 % interval 1.030 to 1.070), "
        "over the limit 1.1 (parity.quantisation.max_ppl_ratio). Give the layers with the lowest SQNR 8 bits, "
        "or raise the limit in the recipe",
    ]
    assert failures(rung(kind="lowering", max_rel=0.0214)) == [
        "lowering: the largest relative error is 0.0214, over the limit 0.001 (parity.lowering.max_rel). "
        "the runtime does not compute what PyTorch computes from the same integers; "
        "`qexport verify --layers` shows where it begins"
    ]


def test_a_float_lowering_is_judged_by_numbers_and_a_quantised_one_by_its_tokens():
    assert rung(kind="lowering", activations="float").gates == ("max_rel",)
    assert "max_rel" not in rung(kind="lowering", activations="quantised").gates
    assert failures(rung(kind="lowering", activations="quantised", max_rel=1.0)) == []
    assert len(failures(rung(kind="lowering", activations="quantised", kl_mean=1.0))) == 1
    assert len(failures(rung(kind="shipped", activations="quantised", kl_mean=1.0))) == 1


def test_no_limit_no_gate():
    assert failures(replace(rung(kl_mean=9.0), limits=Limits())) == []


def test_invalid_logits_fail_whatever_the_limits():
    broken = replace(rung(invalid="candidate: all 3 positions have the same logits"), limits=Limits())
    assert failures(broken) == [
        "quantisation: the logits cannot be judged. candidate: all 3 positions have the same logits. "
        "Do not ship these files"
    ]
    empty = replace(rung(), result=LogitComparison().result())
    assert failures(empty) == [
        "quantisation: the logits cannot be judged. no logits were compared. Do not ship these files"
    ]


@pytest.mark.parametrize("name", ["kl_mean", "same_top1", "ppl_ratio"])
def test_not_a_number_never_passes(name):
    assert len(failures(rung(**{name: math.nan}))) == 1
    assert len(failures(rung(kind="lowering", max_rel=math.nan))) == 1


def layer(name, weight, output, bits=4) -> LayerError:
    return LayerError(name=name, bits=bits, weight_sqnr_db=weight, output_sqnr_db=output)


def test_first_rise_is_the_layer_that_its_weights_do_not_explain():
    layers = [
        layer("a", 40, 40, 8),
        layer("b", 20, 19.5),
        layer("c", 20, 17),
        layer("d", 20, 4),
        layer("e", 20, 3),
    ]
    assert first_rise(layers) == "d"


def test_a_drop_from_8_to_4_bits_is_explained():
    assert first_rise([layer("a", 45, 44, 8), layer("b", 20, 19), layer("c", 45, 18, 8)]) is None


def test_slow_growth_over_a_deep_model_is_no_rise():
    # equal uncorrelated errors: the sum after k layers lies 10 log10(k) dB lower
    layers = [layer(str(k), 20, 20 - 10 * math.log10(k)) for k in range(1, 200)]
    assert first_rise(layers) is None


def test_first_rise_in_the_first_layer_and_in_a_float_layer():
    assert first_rise([layer("a", 40, 3, 8)]) == "a"
    assert first_rise([layer("f", math.inf, math.inf, 32), layer("g", math.inf, 60, 32)]) == "g"


def test_first_rise_judges_a_layer_without_output_by_its_weights():
    sound = [layer(name, 20, 19) for name in "abc"]
    assert first_rise([*sound, layer("d", 15, None)]) is None
    assert first_rise([*sound, layer("d", 3, None)]) == "d"
    assert find_rise([*sound, layer("d", 3, None)]).reason == (
        "its weights lose over 6 dB more than those of other 4-bit layers"
    )
    # eight bits are no measure for four
    assert first_rise([*(layer(name, 41, 40, 8) for name in "abc"), layer("d", 20, 19)]) is None


def test_scrambled_weights_are_found_where_their_own_sqnr_would_explain_the_output():
    layers = [layer("a", 20, 19), layer("b", 20, 18), layer("c", -3, -4), layer("d", 20, 5)]
    assert first_rise(layers) == "c"


def test_no_layers_no_rise():
    assert first_rise([]) is None
    assert first_rise([layer("a", 20, math.nan)]) == "a"


def test_a_missed_limit_names_the_steepest_fall_where_no_layer_stands_out():
    layers = (layer("a", 20, 20), layer("b", 20, 19), layer("c", 20, 15), layer("d", 20, 14))
    assert first_rise(layers) is None
    assert ParityReport(rungs=(rung(),), layers=layers).first_layer is None
    missed = ParityReport(rungs=(rung(kl_mean=1.0),), layers=layers)
    assert missed.rise == Rise(
        "c", "no layer stands out for its bits, and here the outputs' SQNR falls most (4.0 dB)"
    )
    assert ParityReport(rungs=(rung(kl_mean=1.0),)).rise is None


def test_the_verdict_is_one_sentence_with_its_grounds():
    assert ParityReport(rungs=(rung(), rung(kind="lowering"))).verdict == (
        "PASSED: every limit held (4 judged, in 2 comparisons)."
    )
    unjudged = replace(rung(), limits=Limits())
    assert ParityReport(rungs=(unjudged,)).verdict == (
        "PASSED: the recipe sets no limits, so nothing was judged."
    )
    missed = ParityReport(rungs=(rung(), rung(kl_mean=1.0, same_top1=0.1)))
    assert missed.verdict == f"FAILED: {missed.failures[0]}. And 1 more."


def test_shipped_prefers_the_targets_own_rung():
    own = replace(rung(kind="shipped", activations="quantised"), name="executorch as shipped (decode)")
    report = ParityReport(rungs=(rung(), own))
    assert report.shipped("executorch") is own
    assert report.shipped("onnxruntime") is report.rungs[0]
    assert ParityReport(rungs=()).shipped("executorch") is None


SAMPLE = GreedySample(
    prompt="What is the capital of France?",
    reference="float",
    continuations={
        "float": Continuation("Paris is", (5, 6, 7)),
        "onnxruntime": Continuation("Paris was", (5, 6, 9)),
        "short": Continuation("Paris", (5,)),
    },
)


def test_steps_same():
    assert [SAMPLE.steps_same(m) for m in ("float", "onnxruntime", "short")] == [3, 2, 1]


def test_a_sample_without_its_reference_is_not_buildable():
    with pytest.raises(ValueError, match=r"^reference 'b' is none of the continuations: a$"):
        GreedySample("p", "b", {"a": Continuation("", ())})


def test_report_without_rungs_has_proven_nothing():
    report = ParityReport(rungs=())
    assert not report.passed
    assert report.failures == ("parity: nothing was compared",)


def test_other_failures_fail_the_report():
    report = ParityReport(rungs=(rung(),), other_failures=("golden: 3 of 32 tokens differ",))
    assert report.failures == ("golden: 3 of 32 tokens differ",)


def test_json_round_trip_is_strict_json():
    report = ParityReport(
        rungs=(rung(), rung(kind="lowering", sqnr_db=math.inf, max_rel=0.0), rung(kl_mean=1.0)),
        greedy=(SAMPLE,),
        layers=(layer("a", math.inf, math.inf, 32), layer("b", 20.5, 1.25), layer("c", 20.5, None)),
    )
    text = json.dumps(report.to_json(), allow_nan=False)
    again = ParityReport.from_json(json.loads(text))
    assert again == report
    data = json.loads(text)
    assert data["passed"] is False
    assert data["first_layer"] == "b"
    assert data["failures"] == list(report.failures)
    assert data["greedy"][0]["continuations"]["onnxruntime"]["steps_same"] == 2
    assert data["rungs"][1]["result"]["sqnr_db"] == "inf"


def test_an_invalid_result_survives_json():
    report = ParityReport(rungs=(replace(rung(), result=LogitComparison().result()),))
    again = ParityReport.from_json(json.loads(json.dumps(report.to_json(), allow_nan=False)))
    assert math.isnan(again.rungs[0].result.kl_mean)
    assert again.failures == report.failures


@given(st.integers(0, 2**32 - 1))
def test_measured_results_round_trip(seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(12, 9)).astype(np.float32)
    comparison = LogitComparison()
    comparison.update(logits, logits + rng.normal(size=logits.shape).astype(np.float32), np.arange(12) % 9)
    report = ParityReport(rungs=(replace(rung(), result=comparison.result()),))
    assert ParityReport.from_json(json.loads(json.dumps(report.to_json(), allow_nan=False))) == report
