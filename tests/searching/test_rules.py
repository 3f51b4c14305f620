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
    gains = {unit.name: (0.01, 0.5) for unit in UNITS}
    rules = [(parse_pattern(rule.match), rule.scheme) for rule in rules_for(UNITS, choice, gains, "searched")]
    for unit in UNITS:
        for layer in unit.owners:
            decided = next(scheme for pattern, scheme in rules if pattern.matches(layer))
            assert decided == choice[unit.name]
    assert len(rules) <= 5  # one for each kind of unit, the table, and the rest


def test_rules_say_what_they_gain():
    choice = {unit.name: "w4" for unit in UNITS} | {UNITS[n].name: "w8" for n in (1, 4, 7, 10, 25)}
    gains = {unit.name: (0.01, 0.5) for unit in UNITS}
    first, rest = rules_for(UNITS, choice, gains, "searched")
    assert first.match == "model.layers.{0..3,8}.self_attn.{q_proj,k_proj,v_proj}"
    assert first.because == "searched: takes 0.0500 nats off the KL divergence for 2.50 MB"
    assert (rest.match, rest.scheme) == ("**", "w4")
