"""The page is self-contained, escaped, deterministic, and says what the data says."""

import html
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from report_sample import sample_coverage, sample_data, sample_plan, sample_tasks

from exporter.parity import LayerError, ParityReport
from exporter.parity.tasks import TaskReport
from exporter.pictures import SizeBar, bits_heat_map, block_of, error_chart, size_bars
from exporter.plan import QuantPlan
from exporter.report import render_report, write_report

VOID = {"meta", "br", "wbr", "link", "img", "input", "hr"}
SELF_CLOSED = {"rect", "circle", "line", "path"}


class Page(HTMLParser):
    """Checks that tags nest, and collects ids, links, texts and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, key, value) for key, value in attrs]
        self.ids += [value for key, value in attrs if key == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in SELF_CLOSED | VOID
        self.tags.append(tag)
        self.attributes += [(tag, key, value) for key, value in attrs]

    def handle_endtag(self, tag):
        if self.open[-1] in {"tr", "td", "th", "li"} and tag != self.open[-1]:
            raise AssertionError(f"</{tag}> closes <{self.open[-1]}>")
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.texts))


@pytest.fixture(scope="module")
def page() -> str:
    return render_report(sample_data())


def test_tags_nest_and_links_lead_somewhere(page):
    parsed = Page(page)
    targets = [value for tag, key, value in parsed.attributes if (tag, key) == ("a", "href")]
    assert targets
    assert {target.removeprefix("#") for target in targets} <= set(parsed.ids)
    assert len(parsed.ids) == len(set(parsed.ids))


def test_self_contained(page):
    parsed = Page(page)
    assert not {"script", "link", "img", "iframe", "object"} & set(parsed.tags)
    assert not [a for a in parsed.attributes if a[1] in {"src", "srcset", "data", "xlink:href"}]
    assert "url(" not in page and "@import" not in page
    assert set(re.findall(r"https?://[^\s\"'<]*", page)) == {
        "http://www.w3.org/2000/svg"
    }  # a name, not fetched


def test_same_data_same_bytes(tmp_path):
    for name in ("a.html", "b.html"):
        write_report(tmp_path / name, sample_data())
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_the_figures_are_those_of_the_data(page):
    text = Page(page).text
    assert "PASSED: every limit held (16 judged, in 6 comparisons)." in text
    data = sample_data()
    for target in data["targets"].values():
        assert f"{target['model_bytes'] / 1e6:.1f}" in text
        for file in target["files"]:
            assert file["sha256"] in text
    assert "1.028 to 1.054" in text
    assert "86.1 %" in text
    assert "first 12 of 16 tokens the same, then token 7 instead of token 112" in text
    assert "first 6 of 16 tokens the same, then the end instead of token 106" in text
    assert "<mark>nearly</mark>" in page
    assert "Needs onnxruntime 1.23 or later." in text
    for layer in data["plan"]["layers"]:
        assert layer["name"] in text


def test_a_missed_limit_stands_at_the_top():
    parsed = Page(render_report(sample_data(kl=0.3)))
    assert (
        "FAILED: quantisation: the mean KL divergence is 0.27 nats, over the limit 0.15 "
        "(parity.quantisation.max_kl). Give the layers with the lowest SQNR 8 bits, or raise the limit in "
        "the recipe. And 3 more." in parsed.text
    )
    assert "✗ KL ≤ 0.15" in parsed.text
    assert ("div", "class", "verdict failed") in parsed.attributes


def test_everything_is_escaped():
    data = sample_data(blocks=4)
    evil = '<script>alert("x")</script>&'
    data["recipe"]["name"] = data["recipe"]["text"] = evil
    data["model"]["source"] = data["versions"]["torch"] = evil
    data["targets"]["onnxruntime"]["files"][0]["path"] = evil
    data["targets"]["onnxruntime"]["opset"] = evil
    data["parity"]["greedy"][0]["prompt"] = evil
    data["parity"]["greedy"][0]["continuations"]["onnxruntime"]["text"] = evil
    data["parity"]["layers"][0]["name"] = evil
    data["parity"]["rungs"][0]["name"] = evil
    data["plan"]["notes"] = [evil]
    for layer in data["plan"]["layers"]:
        layer["rule"].update(text=evil, because=evil)
    page = render_report(data)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 12
    Page(page)


def test_a_plan_alone_still_makes_a_page():
    data = sample_data(blocks=2)
    data["parity"] = ParityReport(rungs=()).to_json()
    data["targets"] = {}
    text = Page(render_report(data)).text
    assert "FAILED: parity: nothing was compared." in text
    assert "Not measured." in text


def test_optional_parts():
    data = sample_data(blocks=2) | {"timings": {"quantise": 12.34}, "next_command": "qexport inspect out/x"}
    text = Page(render_report(data)).text
    assert "12.3 s" in text
    assert "Next: qexport inspect out/x" in text


def test_parts_without_data_show_nothing():
    text = Page(render_report(sample_data(blocks=2))).text
    assert "Calibration data" not in text and "McNemar" not in text
    empty = sample_data(blocks=2) | {"coverage": None, "tasks": TaskReport().to_json()}
    assert Page(render_report(empty)).text == text


def test_calibration_data_and_the_task():
    more = {"coverage": sample_coverage().to_json(), "tasks": sample_tasks().to_json()}
    page = render_report(sample_data(blocks=2) | more)
    parsed = Page(page)
    links = {value.removeprefix("#") for tag, key, value in parsed.attributes if (tag, key) == ("a", "href")}
    assert {"coverage", "tasks"} <= links <= set(parsed.ids)
    cells = " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())
    for words in (
        "What the calibration sample covers: 128 samples, lengths in tokens.",
        "Warning: fi is not there.",
        "Note: 12 samples are copies & <so> left out.",
        "language de 26 20.3 % 20.0 % 11,440 124 498 512 512 1.6 % 25 0 1 greek",
        "top-1 all 20 0.9000 0.8500 -0.0500 -0.1500 to +0.0000 1 17 of 20 right, float 18",
        "agreement all 20 0.9500 0.8500 to 1.0000 19 of 20",
        "word error rate de 40 0.0800 0.1200 +0.0400 +0.0100 to +0.0700 12 of 100 words, float 8 worse",
        "photo_<07>.jpg tabby tiger cat tabby",
        "executorch against float",
    ):
        assert words in cells, words


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.layers.3.mlp.up_proj", ("model.layers", 3, "mlp.up_proj")),
        ("encoder.11.conv.0", ("encoder", 11, "conv.0")),
        ("0", ("", 0, "")),
        ("lm_head", None),
    ],
)
def test_block_of(name, expected):
    assert block_of(name) == expected


def svgs(markup) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(part) for part in re.findall(r"<svg.*?</svg>", str(markup), re.DOTALL)]


SVG = "{http://www.w3.org/2000/svg}"


def test_the_heat_map_has_a_cell_for_every_layer():
    plan = sample_plan()
    loose, blocks = svgs(bits_heat_map(plan.layers))
    titles = [g.find(f"{SVG}title").text for picture in (loose, blocks) for g in picture.iter(f"{SVG}g")]
    assert sorted(t.splitlines()[0] for t in titles) == sorted(layer.name for layer in plan.layers)
    rows = {g.find(f"{SVG}rect").get("y") for g in blocks.iter(f"{SVG}g")}
    columns = {g.find(f"{SVG}rect").get("x") for g in blocks.iter(f"{SVG}g")}
    assert (len(rows), len(columns)) == (30, 7)
    first = next(blocks.iter(f"{SVG}g"))
    assert first.find(f"{SVG}title").text.splitlines() == [
        "model.layers.0.self_attn.q_proj",
        "w8: int8 channel sym a8",
        "rule in line 4: model.layers.{0,1,28,29}.**",
        "first & last blocks <feel> it most",
    ]
    assert (first.get("class"), first.find(f"{SVG}text").text) == ("b8", "8")


def test_blocks_that_lack_a_layer_leave_a_gap():
    layers = [layer for layer in sample_plan(4).layers if layer.name != "model.layers.1.self_attn.k_proj"]
    _, blocks = svgs(bits_heat_map(layers))
    assert len(list(blocks.iter(f"{SVG}g"))) == 4 * 7 - 1


def test_bars_are_in_proportion():
    (picture,) = svgs(
        size_bars([SizeBar("a", 400, "before"), SizeBar("b", 100, "after"), SizeBar("c", 0, "after")])
    )
    lengths = [float(rect.get("width")) for rect in picture.iter(f"{SVG}rect")]
    assert lengths[0] == pytest.approx(4 * lengths[1], rel=1e-3)
    assert lengths[2] == 1.0  # a hair, so that an empty file is still seen


def test_the_error_chart_marks_only_what_was_measured():
    errors = [
        LayerError("m.0.a", 32, float("inf"), float("inf")),
        LayerError("m.0.b", 4, 20.0, 19.0),
        LayerError("m.1.a", 4, 21.0, None),
        LayerError("m.1.b", 8, 41.0, 2.0),
    ]
    (picture,) = svgs(error_chart(errors, "m.1.b"))
    assert len(list(picture.iter(f"{SVG}circle"))) == 2
    assert len([r for r in picture.iter(f"{SVG}rect") if r.get("class") == "weight"]) == 3
    texts = [t.text for t in picture.iter(f"{SVG}text")]
    assert "rises at m.1.b" in texts
    assert "SQNR in dB, higher is better" in texts
    ys = {
        c.find(f"{SVG}title").text.splitlines()[0]: float(c.get("cy")) for c in picture.iter(f"{SVG}circle")
    }
    assert ys["m.1.b"] > ys["m.0.b"]  # lower on the page is worse


def test_a_float_model_has_no_chart():
    chart = str(error_chart([LayerError("a", 32, float("inf"), float("inf"))], None))
    assert chart == "<p>No layer has a finite error: the weights are the float model's own.</p>"


def test_a_one_layer_model():
    (picture,) = svgs(error_chart([LayerError("0", 4, 20.0, 20.0)], None))
    assert len(list(picture.iter(f"{SVG}circle"))) == 1


def test_plan_survives_its_json():
    plan = sample_plan()
    assert QuantPlan.from_json(plan.to_json()) == plan
