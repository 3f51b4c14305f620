"""Rules that a search writes decide what was chosen, and nothing else."""

from hypothesis import given
from hypothesis import strategies as st

from exporter.layers import LayerInfo
from exporter.recipe import parse_pattern
from exporter.searching.rules import rules_for
from exporter.searching.units import joined, units_of

NAMES = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
)
LAYERS = [
    LayerInfo("model.embed_tokens", "embedding", (100, 8)),
    *(LayerInfo(f"model.layers.{n}.{name}", "linear", (8, 8)) for n in range(12) for name in NAMES),
    LayerInfo("lm_head", "linear", (100, 8), tied_to="model.embed_tokens"),
]
INPUTS = {
    f"model.layers.{n}.{name}": f"model.layers.{n}.{first}"
    for n in range(12)
    for name, first in zip(NAMES, (*[NAMES[0]] * 3, NAMES[3], *[NAMES[4]] * 2), strict=True)
}
UNITS = units_of(LAYERS, INPUTS)
COSTS = {unit.name: {"w4": (0.012, 0.5), "w8": (0.002, 1.0)} for unit in UNITS}


def test_units():
    assert UNITS[0].layers == ("model.embed_tokens", "lm_head")
    assert UNITS[0].owners == ("model.embed_tokens",) and UNITS[0].parameters == 800
    assert UNITS[0].name == "model.embed_tokens"
    assert UNITS[1].name == "model.layers.0.self_attn.{q_proj,k_proj,v_proj}"
    assert len(UNITS) == 1 + 3 * 12
    assert joined(["a.b.c", "a.d.e"]) == "a.{b.c,d.e}"


@given(st.lists(st.sampled_from(["w4", "w8"]), min_size=len(UNITS), max_size=len(UNITS)))
def test_each_layer_has_the_scheme_that_was_chosen(schemes):
    choice = {unit.name: scheme for unit, scheme in zip(UNITS, schemes, strict=True)}
    rules = [(parse_pattern(rule.match), rule.scheme) for rule in rules_for(UNITS, choice, COSTS, "searched")]
    for unit in UNITS:
        for layer in unit.owners:
            decided = next(scheme for pattern, scheme in rules if pattern.matches(layer))
            assert decided == choice[unit.name]
    assert len(rules) <= 5  # one for each kind of unit, the table, and the rest


def test_rules_say_what_they_gain():
    choice = {unit.name: "w4" for unit in UNITS} | {UNITS[n].name: "w8" for n in (1, 4, 7, 10, 25)}
    first, rest = rules_for(UNITS, choice, COSTS, "searched")
    assert first.match == "model.layers.{0..3,8}.self_attn.{q_proj,k_proj,v_proj}"
    assert first.because == "searched: takes 0.0500 nats off the KL divergence for 2.50 MB"
    assert (rest.match, rest.scheme) == ("**", "w4")


def test_rules_say_what_they_save_where_most_weights_have_more_bits():
    choice = {unit.name: "w8" for unit in UNITS} | {UNITS[n].name: "w4" for n in (1, 4)}
    first, rest = rules_for(UNITS, choice, COSTS, "searched")
    assert (first.match, first.scheme) == ("model.layers.{0,1}.self_attn.{q_proj,k_proj,v_proj}", "w4")
    assert first.because == "searched: saves 1.00 MB for 0.0200 nats of KL divergence"
    assert (rest.match, rest.scheme) == ("**", "w8")


def test_a_unit_that_the_scheme_of_the_rest_does_not_fit():
    only = {**COSTS, UNITS[1].name: {"w8": (0.002, 1.0), "x": (0.1, 0.25)}}
    choice = {unit.name: "w4" for unit in UNITS} | {UNITS[1].name: "w8"}
    first, _ = rules_for(UNITS, choice, only, "searched")
    assert first.because == "searched: takes 0.0980 nats off the KL divergence for 0.75 MB"
