"""The recipe reader: every mistake has a place, all at once, and whole messages are asserted."""

# ruff: noqa: E501  (a message stands in one line, as a person sees it)

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.errors import RecipeError
from exporter.recipe import DataSource, Recipe, load_recipe, parse_recipe, recipe_json_schema
from exporter.schemes import FLOAT, GROUP_SIZES, QuantScheme
from exporter.targets import Target

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "recipes").glob("*.yaml"))

GOOD = """\
schema: 1
name: demo
model: {source: some/folder, task: text-generation}
schemes:
  w4: {weights: int4, group: 32, activations: dynamic-int8}
  w8: {weights: int8}
rules:
  - {match: "**.v_proj", scheme: w8, because: outliers}
  - {kind: linear, shape: ["*", 576], scheme: w4}
  - {match: "**", scheme: float}
targets:
  - {backend: onnxruntime, min_runtime: "1.23", ep: cpu}
  - {backend: executorch, max_context: 512}
parity: {lowering: {max_rel: 1e-3}, prompts: ["Hello"]}
"""


def refused(text: str | bytes) -> list[str]:
    """Lines of the error that this recipe gives, the file being r.yaml."""
    content = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(RecipeError) as caught:
        parse_recipe(content, Path("r.yaml"))
    assert caught.value.exit_code == 2
    return str(caught.value).splitlines()


def test_a_good_recipe() -> None:
    recipe = parse_recipe(GOOD.encode(), Path("r.yaml"))
    assert recipe.schemes["w4"].scheme == QuantScheme("w4", "int4", 32, True, "dynamic-int8", "mse")
    assert str(recipe.schemes["w4"].group_place) == "r.yaml:5:30"
    assert [rule.scheme.name for rule in recipe.rules] == ["w8", "w4", "float"]
    assert recipe.rules[2].scheme is FLOAT
    assert [rule.text for rule in recipe.rules] == ["**.v_proj", "kind linear + shape [*, 576]", "**"]
    assert recipe.rules[1].label == "rule 2 (kind linear + shape [*, 576], line 9)"
    assert recipe.targets == (
        Target("onnxruntime", min_runtime="1.23"),
        Target("executorch", max_context=512),
    )
    assert (recipe.parity.lowering.max_rel, recipe.parity.quantisation.max_kl) == (0.001, None)
    assert recipe.parity.prompts == ("Hello",)
    assert (recipe.on_unsupported, recipe.calibration, recipe.text) == ("error", None, GOOD)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "group: 32",
            "grup: 32",
            "r.yaml:5:23: unknown key 'grup' in schemes.w4; allowed: weights, group, symmetric, activations, "
            "method, observer, rotate; did you mean 'group'?",
        ),
        (
            "group: 32",
            "group: 33",
            "r.yaml:5:30: schemes.w4.group is number 33; allowed: 16, 32, 64, 128, channel, tensor",
        ),
        (
            "group: 32",
            "group: chanel",
            "r.yaml:5:30: schemes.w4.group is text 'chanel'; allowed: 16, 32, 64, 128, channel, tensor; "
            "did you mean 'channel'?",
        ),
        ("schema: 1", "schema: true", "r.yaml:1:9: schema is true; allowed: 1"),
        ("name: demo\n", "", "r.yaml:1:1: missing key 'name' in the recipe: names the output folder"),
        (
            "name: demo",
            "name: ../demo",
            "r.yaml:2:7: name is text '../demo'; expected a name of letters, digits, '.', '_' and '-'",
        ),
        ("{weights: int8}", "{weights: [int8]}", "r.yaml:6:17: schemes.w8.weights is a list; allowed: int4, int8, float"),
        ("{weights: int8}", "int8", "r.yaml:6:7: schemes.w8 is text 'int8'; expected a mapping with weights, group, symmetric, activations, method, observer, rotate"),
        ("{weights: int8}", "{weights: int8, symmetric: yes}", "r.yaml:6:34: schemes.w8.symmetric is text 'yes'; expected true or false"),
        ("{weights: int8}", "{weights: float, activations: dynamic-int8}", "r.yaml:6:7: schemes.w8: float weights take float activations"),
        ("{weights: int8}", "{weights: float, group: 32}", "r.yaml:6:7: schemes.w8: float weights have no group"),
        ("{weights: int8}", "{weights: int8, observer: mse}", "r.yaml:6:7: schemes.w8: an observer measures ranges of static activations; these are float"),
        ("{weights: int8}", "{weights: int8, activations: static-int8, method: auto}", "r.yaml:6:7: schemes.w8: method auto is built for weights of float or dynamic activations; these are static-int8. Take method: gptq or mse"),
        ("{weights: int8}", "{weights: int8, group: tensor, method: hqq}", "r.yaml:6:7: schemes.w8: method hqq fits a scale for each group or channel; set group: channel, or method: mse"),
        ("  w8: {", "  w8: {weights: int8}\n  float: {", "r.yaml:7:3: schemes: the name 'float' is taken by the format itself"),
        ("scheme: w4}", "scheme: w5}", "r.yaml:9:47: unknown scheme 'w5'; allowed: w4, w8, float"),
        ("scheme: w4}", "scheme: }", "r.yaml:9:47: rules[1].scheme is empty; allowed: w4, w8, float"),
        ('{match: "**", ', "{", "r.yaml:10:5: rules[2]: a rule needs at least one of match, kind, shape"),
        ("kind: linear", "kind: linaer", "r.yaml:9:12: rules[1].kind is text 'linaer'; allowed: linear, embedding, conv; did you mean 'linear'?"),
        ('["*", 576]', '["*", .nan]', "r.yaml:9:33: rules[1].shape[1] is number nan; expected a size or \"*\""),
        ('["*", 576]', "[]", "r.yaml:9:27: rules[1].shape has 0 entries; expected at least 1"),
        ('"**.v_proj"', '"**.{v_proj"', "r.yaml:8:17: rules[0].match '**.{v_proj': '{' is never closed; a '}' is missing (at character 4)"),
        ('"**.v_proj"', "7", "r.yaml:8:13: rules[0].match is number 7; expected a pattern over module paths; put it in quotes"),
        ("backend: onnxruntime", "backend: onnx", "r.yaml:12:15: targets[0].backend is text 'onnx'; allowed: onnxruntime, executorch"),
        ("backend: onnxruntime, ", "", "r.yaml:12:5: missing key 'backend' in targets[0]: one of onnxruntime, executorch"),
        ("ep: cpu", "delegate: xnnpack", "r.yaml:12:49: unknown key 'delegate' in targets[0]; allowed: backend, min_runtime, abi, max_context, kv_cache, ep, soc, length, prefill, ort_format"),
        ('"1.23"', "1.23", "r.yaml:12:41: targets[0].min_runtime is number 1.23; expected a version such as \"1.23\"; put it in quotes"),
        ("max_context: 512", "ort_format: true", "r.yaml:13:27: unknown key 'ort_format' in targets[1]; allowed: backend, min_runtime, abi, max_context, kv_cache, delegate, soc, variant, length, prefill"),
        ("{backend: executorch, max_context: 512}", "{backend: onnxruntime}", "r.yaml:13:5: targets: backend 'onnxruntime' again; it is first given in line 12, and each backend writes one folder"),
        ("1e-3", ".inf", "r.yaml:14:30: parity.lowering.max_rel is number inf; expected a number from 0 to 1"),
        ("1e-3", "1" + "0" * 30, "r.yaml:14:30: parity.lowering.max_rel is number 1e+30; expected a number from 0 to 1"),
        ('["Hello"]', "[]", "r.yaml:14:46: parity.prompts has 0 entries; expected at least 1"),
        ("name: demo", "name: demo\nname: other", "r.yaml:3:1: duplicate key 'name'; it is first given in line 2"),
        ("some/folder", "&a some/folder", "r.yaml:3:17: anchor '&a': anchors are not part of a recipe"),
        ("some/folder", "*a", "r.yaml:3:17: alias '*a': aliases are not part of a recipe; repeat the value"),
        ("some/folder", "!!python/name:os.system x", "r.yaml:3:17: tag 'tag:yaml.org,2002:python/name:os.system': tags are not part of a recipe"),
        ("name: demo", "[1]: demo", "r.yaml:2:1: a key must be a word, not a list or a mapping"),
        ("name: demo", "name: demo\n---\n", "r.yaml:3:1: a second YAML document begins here; a recipe is one document"),
        ("name: demo", "name: " + "[" * 20, "r.yaml:2:18: nested deeper than 12 levels"),
        ("name: demo", "name: de\x07mo", "r.yaml:2:9: character U+0007 is not allowed in YAML"),
    ],
)  # fmt: skip
def test_one_mistake_one_line(old: str, new: str, message: str) -> None:
    assert old in GOOD
    assert refused(GOOD.replace(old, new, 1)) == [message]


def test_a_yaml_mistake_keeps_its_place() -> None:
    (line,) = refused(GOOD.replace("{weights: int8}", "{weights: int8"))
    # libyaml's own words; PyYAML's own parser words it differently, at the same place
    assert line.startswith(
        "r.yaml:7:6: not YAML: did not find expected ',' or '}' while parsing a flow mapping"
    )


def test_all_problems_at_once_in_the_order_of_the_file() -> None:
    text = (
        GOOD.replace("group: 32", "grup: 32")
        .replace("scheme: float", "scheme: flaot")
        .replace("schema: 1", "schema: 2")
    )
    assert [line.split(": ")[0] for line in refused(text)] == ["r.yaml:1:9", "r.yaml:5:23", "r.yaml:10:27"]


def test_more_than_twenty_problems_are_counted() -> None:
    text = GOOD.replace("rules:", "rules:\n" + "  - {match: '**', scheme: nope}\n" * 30)
    lines = refused(text)
    assert len(lines) == 21
    assert lines[0] == "r.yaml:8:27: unknown scheme 'nope'; allowed: w4, w8, float"
    assert lines[-1] == "and 10 more"


def test_not_utf8_names_the_byte() -> None:
    assert refused(b"schema: 1\nname: d\xe9mo\n") == [
        "r.yaml:2:8: not UTF-8: byte 0xe9 at offset 17; save the file as UTF-8"
    ]
    parse_recipe(b"\xef\xbb\xbf" + GOOD.encode(), Path("r.yaml"))  # a byte order mark is harmless


@pytest.mark.parametrize("content", ["", "# only a comment\n", "\n\n"])
def test_an_empty_recipe(content: str) -> None:
    assert refused(content) == ["r.yaml: the file holds no recipe (it is empty, or only comments)"]


def test_not_a_mapping() -> None:
    (line,) = refused("- 1\n")
    assert line.startswith("r.yaml:1:1: the recipe is a list; expected a mapping with schema, name, model")


def test_a_yaml_bomb_is_refused_at_once() -> None:
    bomb = "a: &a [x, x]\n" + "".join(f"b{i}: &b{i} [{'*a, ' * 9}*a]\n" for i in range(1000))
    started = time.monotonic()
    assert refused(bomb) == ["r.yaml:1:4: anchor '&a': anchors are not part of a recipe"]
    assert time.monotonic() - started < 1  # it stops at the first anchor; expanding would take for ever


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "int4.yaml").write_text(GOOD)
    (tmp_path / "big.yaml").write_bytes(b"#" * (2**20 + 1))
    os.mkfifo(tmp_path / "pipe")

    def message(path: Path) -> str:
        with pytest.raises(RecipeError) as caught:
            load_recipe(path)
        return str(caught.value).replace(str(tmp_path), "DIR")

    assert message(tmp_path) == "DIR: this is a folder, not a recipe file"
    assert message(tmp_path / "int5.yaml") == (
        "DIR/int5.yaml: there is no such file; beside it: big.yaml, int4.yaml; did you mean 'int4.yaml'?"
    )
    assert message(tmp_path / "no" / "int4.yaml") == "DIR/no/int4.yaml: there is no such file"
    assert message(tmp_path / "pipe") == "DIR/pipe: this is not a regular file"
    assert (
        message(tmp_path / "big.yaml")
        == "DIR/big.yaml: the file has 1,048,577 bytes; a recipe has at most 1,048,576"
    )


def test_text_files_exist_and_hold_text(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "good.txt").write_text("Once upon a time.")
    path = tmp_path / "r.yaml"

    path.write_text(GOOD + "calibration: {text: [good.txt], samples: 4}\n")
    calibration = load_recipe(path).calibration
    assert calibration is not None
    assert calibration.text == (DataSource(tmp_path / "good.txt"),)
    assert (calibration.samples, calibration.seed) == (4, 0)

    path.write_text(GOOD + "calibration: {text: [empty.txt, none.txt, latin.txt], samples: 0}\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert str(caught.value).replace(str(tmp_path), "DIR").splitlines() == [
        "DIR/r.yaml:15:22: calibration.text[0]: the file DIR/empty.txt is empty; it must hold text",
        "DIR/r.yaml:15:33: calibration.text[1]: there is no file DIR/none.txt",
        "DIR/r.yaml:15:43: calibration.text[2]: DIR/latin.txt cannot be read as text: 'utf-8' codec can't "
        "decode byte 0xe9 in position 3: unexpected end of data",
        "DIR/r.yaml:15:64: calibration.samples is number 0; expected a whole number from 1 to 100000",
    ]


# --- the schema, and what is shipped ------------------------------------------------------------------


def test_the_committed_schema_is_the_generated_one() -> None:
    committed = (ROOT / "docs" / "recipe.schema.json").read_text()
    assert committed == json.dumps(recipe_json_schema(), indent=2) + "\n", "run scripts that write the schema"
    jsonschema.Draft7Validator.check_schema(recipe_json_schema())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_recipes(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert recipe.text.startswith("# yaml-language-server: $schema=../docs/recipe.schema.json\n")
    jsonschema.Draft7Validator(recipe_json_schema()).validate(yaml.safe_load(recipe.text))


def test_there_are_the_shipped_recipes() -> None:
    of_text = ["float", "int4", "int8", "mixed_int4", "gemma3_270m_mixed_int4", "qwen25_05b_mixed_int4"]
    of_other_tasks = [
        "bert_tiny_int8",
        "efficientnet_lite0_int8",
        "embeddinggemma_300m_mixed_int4",
        "flan_t5_small_int8",
        "minilm_int8",
        "whisper_base_int8",
        "whisper_tiny_en_mixed_int4",
    ]
    of_npus = [
        "efficientnet_lite0_ethos_u85",
        "efficientnet_lite0_htp",
        "minilm_htp",
        "minilm_tosa",
        "smollm2_135m_htp",
        "smollm2_135m_tosa",
    ]
    assert [path.stem for path in SHIPPED] == sorted(of_text + of_other_tasks + of_npus)


# --- round trip ---------------------------------------------------------------------------------------

_LINE = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp", "Cn", "Co"]), min_size=1
).filter(str.strip)
_SCHEME = st.fixed_dictionaries(
    {"weights": st.sampled_from(["int4", "int8"])},
    optional={
        "group": st.sampled_from([*GROUP_SIZES, "channel", "tensor"]),
        "symmetric": st.booleans(),
        "activations": st.sampled_from(["float", "dynamic-int8"]),
        "method": st.sampled_from(["rtn", "mse"]),
    },
)
_FIT = st.fixed_dictionaries(
    {"kind": st.sampled_from(["linear", "embedding", "conv"])},
    optional={
        "match": st.sampled_from(["**", "a.*.b", "{a,b}.c"]),
        "shape": st.lists(st.one_of(st.just("*"), st.integers(1, 10**9)), min_size=1, max_size=4),
        "because": _LINE,
    },
)
_DOCUMENT = st.fixed_dictionaries(
    {
        "schema": st.just(1),
        "name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
        "model": st.fixed_dictionaries({"source": _LINE, "task": st.sampled_from(["text-generation", "module"])}),
        "schemes": st.fixed_dictionaries({"a": _SCHEME, "b-2": _SCHEME}),
        "rules": st.lists(st.builds(lambda fit, s: {**fit, "scheme": s}, _FIT, st.sampled_from(["a", "b-2", "float"])), min_size=1),
        "targets": st.just([{"backend": "executorch"}]),
        "on_unsupported": st.sampled_from(["error", "float"]),
        "parity": st.fixed_dictionaries(
            {}, optional={"lowering": st.fixed_dictionaries({"max_rel": st.floats(0, 1)}), "prompts": st.lists(_LINE, min_size=1)}
        ),
    }
)  # fmt: skip


def _as_document(recipe: Recipe) -> dict[str, object]:
    def given_keys(rule: object, *keys: str) -> dict[str, object]:
        return {key: getattr(rule, key) for key in keys if getattr(rule, key) is not None}

    rules = []
    for rule in recipe.rules:
        fit = given_keys(rule, "kind", "because")
        fit |= {"match": rule.match.text} if rule.match else {}
        fit |= {"shape": list(rule.shape)} if rule.shape else {}
        rules.append({**fit, "scheme": rule.scheme.name})
    parity: dict[str, object] = {}
    if recipe.parity.lowering.max_rel is not None:
        parity["lowering"] = {"max_rel": recipe.parity.lowering.max_rel}
    if recipe.parity.prompts:
        parity["prompts"] = list(recipe.parity.prompts)
    return {
        "schema": 1,
        "name": recipe.name,
        "model": {"source": recipe.model.source, "task": recipe.model.task},
        "rules": rules,
        "targets": [{"backend": target.backend} for target in recipe.targets],
        "on_unsupported": recipe.on_unsupported,
        "parity": parity,
    }


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(_DOCUMENT, st.sampled_from([None, 0, 2]))
def test_what_goes_in_comes_out(document: dict[str, object], indent: int | None) -> None:
    # JSON is YAML. Not yaml.safe_dump: by YAML 1.1 it leaves text such as 0E0 bare, which 1.2 reads as a number.
    text = json.dumps(document, ensure_ascii=False, indent=indent)
    recipe = parse_recipe(text.encode(), Path("r.yaml"))
    expected = dict(document)
    schemes = expected.pop("schemes")
    assert _as_document(recipe) == expected
    assert isinstance(schemes, dict)
    for name, keys in schemes.items():
        assert recipe.schemes[name].scheme == QuantScheme(name, **keys)
    jsonschema.Draft7Validator(recipe_json_schema()).validate(document)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    with pytest.raises(RecipeError):
        parse_recipe(content, Path("r.yaml"))


@given(st.data())
def test_a_recipe_with_one_character_changed_is_read_or_refused(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(GOOD) - 1))
    text = GOOD[:at] + data.draw(st.characters(codec="utf-8")) + GOOD[at + 1 :]
    try:
        parse_recipe(text.encode(), Path("r.yaml"))
    except RecipeError as error:
        assert all(place.line <= text.count("\n") + 2 for place, _ in error.problems)
