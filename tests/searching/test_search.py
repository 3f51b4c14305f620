"""`qexport search` on a tiny model: what it writes is a recipe that holds what was asked for."""

import json

import pytest
import tiny_jobs
from click.testing import CliRunner

from exporter.cli import cli
from exporter.errors import PlanError
from exporter.layers import LayerInfo
from exporter.pipeline import plan_recipe
from exporter.recipe import load_recipe
from exporter.schemes import QuantScheme
from exporter.searching import curve_picture
from exporter.searching.searching import _allowed

RULES = '  - {match: "**", scheme: w4}\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, text, a recipe, and a cache of its own."""
    place = tmp_path_factory.mktemp("search")
    tiny_jobs.write_calibration(place)
    text = tiny_jobs.recipe_text("m", rules=RULES).replace(
        "targets:", "calibration: {text: [cal.jsonl]}\ntargets:"
    )
    (place / "r.yaml").write_text(text)
    return place


@pytest.fixture(autouse=True)
def own_cache(folder, monkeypatch):
    monkeypatch.setenv("QEXPORT_CACHE", str(folder / "cache"))


def search(folder, *options):
    return CliRunner().invoke(
        cli, ["search", "--recipe", str(folder / "r.yaml"), *options], catch_exceptions=True
    )


def megabytes(path):
    _, plan = plan_recipe(load_recipe(path))
    return max(forecast.megabytes for forecast in plan.forecasts), plan.bits_per_weight


def test_a_budget_is_kept_and_used(folder):
    low, _ = megabytes(folder / "r.yaml")
    found = search(folder, "--target-mb", f"{low * 1.15:.4f}", "--out", str(folder / "a.yaml"), "--json")
    assert found.exit_code == 0, found.output
    data = json.loads(found.stdout)
    size, bits = megabytes(folder / "a.yaml")
    assert low < size <= low * 1.15
    assert size == pytest.approx(max(data["megabytes"].values()), rel=1e-6)
    assert bits == pytest.approx(data["bits_per_weight"], rel=1e-6)
    all_w4 = sum(s["loss"] for s in [{"loss": data["uniform"]["w4"][1]}])
    assert data["loss"] < all_w4
    assert data["scores"]["correlations"][data["scores"]["best"]] > 0.5
    assert "<svg" in (folder / "a.svg").read_text()


def test_peers_stand_in_the_picture(folder):
    recipe = load_recipe(folder / "r.yaml")
    model, _ = plan_recipe(recipe)
    (own,) = model.identity()["weights_sha256"].values()
    row = {"who": "llama.cpp", "format": "Q4_0", "bytes": 150_000, "kl_mean": 0.01, "reference_sha256": own}
    (folder / "rows.json").write_text(
        json.dumps({"rows": [row, {**row, "who": "qexport", "format": "ours"}]})
    )
    beside = ("--beside", str(folder / "rows.json"))
    found = search(folder, "--target-bpw", "6", "--out", str(folder / "p.yaml"), *beside)
    assert found.exit_code == 0, found.output
    picture = (folder / "p.svg").read_text()
    assert "llama.cpp Q4_0" in picture and "ours" not in picture
    (folder / "rows.json").write_text(json.dumps({"rows": [{**row, "reference_sha256": "0"}]}))
    found = search(folder, "--target-bpw", "6", "--out", str(folder / "q.yaml"), *beside)
    assert str(found.exception) == (
        f"{folder / 'rows.json'}: holds no peer's row about these weights; scripts/quality.py measures them"
    )
    assert not (folder / "q.yaml").exists()


def test_a_second_budget_reads_the_scores(folder):
    search(folder, "--target-bpw", "6", "--out", str(folder / "b.yaml"))
    scores = next((folder / "cache" / "search").glob("*/scores.json"))
    before = scores.stat().st_mtime_ns
    found = search(folder, "--target-bpw", "5", "--out", str(folder / "c.yaml"))
    assert found.exit_code == 0 and scores.stat().st_mtime_ns == before
    assert megabytes(folder / "c.yaml")[1] <= 5 < megabytes(folder / "b.yaml")[1] <= 6
    assert "rank correlation with the true KL of" in found.stdout


def test_a_check_measures_the_mix_and_the_rules_that_were_written(folder):
    rules = '  - {match: "**.down_proj", scheme: w8}\n' + RULES
    text = (folder / "r.yaml").read_text().replace(RULES, rules)
    (folder / "own.yaml").write_text(text)
    size, _ = megabytes(folder / "own.yaml")
    options = ["--target-mb", f"{size:.5f}", "--out", str(folder / "h.yaml"), "--check"]
    found = CliRunner().invoke(cli, ["search", "--recipe", str(folder / "own.yaml"), *options, "--json"])
    assert found.exit_code == 0, found.output
    data = json.loads(found.stdout)
    mix, own = data["checked"]["this mix"], data["checked"]["the recipe's own rules"]
    assert own[0] == pytest.approx(size) and mix[0] <= size
    uniform = {name: true for name, (_, _, true) in data["uniform"].items()}
    assert uniform["w8"] < mix[1] < own[1] < uniform["w4"]
    options[options.index("--out") + 1] = str(folder / "i.yaml")
    shown = CliRunner().invoke(cli, ["search", "--recipe", str(folder / "own.yaml"), *options]).stdout
    assert f"the recipe's own rules │ {own[0]:.1f}" in shown and f"{mix[1]:.4f}" in shown


def test_one_more_scheme_costs_its_own_integers_only(folder):
    search(folder, "--target-bpw", "6", "--out", str(folder / "f.yaml"))
    kept = folder / "cache" / "search"
    before = {path: path.stat().st_mtime_ns for path in kept.glob("integers-*/*.npy")}
    scored = set(kept.glob("*/scores.json"))
    text = (folder / "r.yaml").read_text().replace("w8:", "other_name:")
    more = "  w4_64: {weights: int4, group: 64, activations: dynamic-int8}\nrules:"
    (folder / "more.yaml").write_text(text.replace("rules:", more))
    recipe = str(folder / "more.yaml")
    found = CliRunner().invoke(
        cli, ["search", "--recipe", recipe, "--target-bpw", "5", "--out", str(folder / "g.yaml")]
    )
    assert found.exit_code == 0, found.output
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert len(set(kept.glob("*/scores.json")) - scored) == 1
    assert len(set(kept.glob("integers-*/*.npy")) - set(before)) == len(before) / 2


def test_the_smallest_for_a_loss(folder):
    search(folder, "--target-bpw", "6", "--out", str(folder / "d.yaml"), "--force")
    found = search(folder, "--max-kl", "0.5", "--out", str(folder / "e.yaml"), "--json")
    data = json.loads(found.stdout)
    assert data["loss"] <= 0.5
    curve = [loss for size, loss in data["curve"] if size < max(data["megabytes"].values()) * 0.97]
    assert all(loss > 0.5 for loss in curve)  # nothing smaller does


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--target-mb", "0.01"), "--target-mb 0.01: with the schemes of this recipe the least is 0."),
        (
            ("--target-bpw", "3"),
            "--target-bpw 3: with the schemes of this recipe the least is 4.500 bits a weight;",
        ),
        (("--max-kl", "0"), "--max-kl 0: with the schemes of this recipe the least predicted is 0."),
        (
            ("--target-mb", "500"),
            "MB, which fits as it is; use `scheme: float` for every layer, or ask for less",
        ),
        ((), "give one of --target-mb, --target-bpw, --max-kl"),
        (("--target-mb", "1", "--max-kl", "1"), "give one of --target-mb, --target-bpw, --max-kl"),
    ],
)
def test_what_cannot_be(folder, options, message):
    found = search(folder, *options, "--out", str(folder / "never.yaml"))
    assert found.exit_code != 0
    assert message in (str(found.exception) + found.output).replace("\n", " ")
    assert not (folder / "never.yaml").exists()


def test_a_recipe_that_is_there_stays(folder):
    (folder / "mine.yaml").write_text("mine")
    found = search(folder, "--target-bpw", "5", "--out", str(folder / "mine.yaml"))
    assert (
        found.exit_code == 2
        and "is there already; name another with --out, or replace it with --force" in found.output
    )
    assert (folder / "mine.yaml").read_text() == "mine"


def test_schemes_that_do_not_divide_a_row_are_no_candidates_of_its_layer(folder):
    recipe = load_recipe(folder / "r.yaml")
    plain, turned = QuantScheme("plain", "int8"), QuantScheme("turned", "int8", rotate=64)
    odd, even = LayerInfo("odd", "linear", (8, 96)), LayerInfo("even", "linear", (8, 128))
    found = _allowed(recipe, (odd, even), {"plain": plain, "turned": turned})
    assert found == {"odd": ["plain"], "even": ["plain", "turned"]}
    with pytest.raises(PlanError) as caught:
        _allowed(recipe, (odd,), {"turned": turned, "groups": QuantScheme("groups", "int4", 64)})
    assert str(caught.value) == (
        "layer odd: no scheme of the recipe fits it. turned: rotate 64 does not divide the 96 input features; groups: "
        "group 64 does not divide the 96 input features. Add a scheme that does, or a rule that keeps it float"
    )


def test_names_end_within_the_picture():
    from xml.etree import ElementTree

    points = {"a peer with a rather long name": (100.0, 0.1), "another": (10.0, 0.3)}
    picture = ElementTree.fromstring(curve_picture([(10.0, 0.2), (90.0, 0.05)], points, None))
    labels = {e.text: float(e.get("x")) for e in picture if e.get("text-anchor") == "start"}
    assert labels["a peer with a rather long name"] + 6.5 * 30 < float(picture.get("width"))
    dots = [float(e.get("cx")) for e in picture if e.get("fill") == "#D55E00"]
    assert labels["a peer with a rather long name"] < max(dots) and labels["another"] > min(dots)
