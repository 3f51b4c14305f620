"""`qexport evaluate`: files, messages, exit codes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from evaluation_data import write_sets

from exporter.cli import cli
from exporter.evaluation.rendering import render_page
from exporter.evaluation.scorecard import Scorecard


@pytest.fixture
def sets(own_cache):
    write_sets(Path(os.environ["QEXPORT_CACHE"]) / "data")


def test_it_writes_a_scorecard_and_a_page(sliding_job, sets, tmp_path):
    out = tmp_path / "cards" / "card.json"
    out.parent.mkdir()
    arguments = [
        "evaluate",
        str(sliding_job[1]),
        "--suites",
        "code,long-context",
        "--items",
        "6",
        "--context",
        "256",
    ]
    done = CliRunner().invoke(cli, [*arguments, "--out", str(out), "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    card = Scorecard.from_json(json.loads(done.stdout))
    assert json.loads(out.read_text()) == card.to_json()
    assert card.settings["items"] == {"code": 6, "long-context": 2}
    assert "code: executorch" in done.stderr
    page = out.with_suffix(".html").read_text()
    assert page == render_page(card)
    for words in (
        "HumanEval",
        "6 items are too few for an interval, 20 are the fewest",
        "drift of KL",
        "<polyline",
    ):
        assert words in page
    assert "energy" in page and "ESTIMATE, not measured" in page
    assert str(tmp_path) not in page  # no path of this machine


def test_the_default_place_is_beside_the_folder_and_the_table_is_for_a_person(sliding_job, sets):
    done = CliRunner().invoke(
        cli, ["evaluate", str(sliding_job[1]), "--suites", "code", "--items", "2"], catch_exceptions=False
    )
    beside = Path(f"{sliding_job[1]}.evaluation.json")
    assert beside.is_file() and beside.with_suffix(".html").is_file()
    assert "bits per byte (HumanEval)" in done.stdout
    assert "onnxruntime" in done.stdout and "executorch" in done.stdout


def test_speed_is_measured_in_processes_of_its_own(sliding_job, sets, tmp_path, monkeypatch):
    monkeypatch.setattr("exporter.evaluation.speed._REPEATS", 1)  # shows that it works, not how fast
    monkeypatch.setattr("exporter.evaluation.speed._STARTS", 1)
    arguments = [
        "evaluate",
        str(sliding_job[1]),
        "--suites",
        "speed",
        "--out",
        str(tmp_path / "c.json"),
        "--json",
    ]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    card = Scorecard.from_json(json.loads(done.stdout))
    for name in ("onnxruntime", "executorch"):
        for figure in ("decode", "prefill", "first token", "peak memory"):
            assert card.find(name, figure).value > 0
        assert card.find(name, "decode").unit == "tokens/s"


def test_bad_input_is_answered_in_one_line(sliding_job, qexport):
    done = qexport("evaluate", sliding_job[1], "--suites", "saftey")
    assert done.code == 2
    assert "suite 'saftey' is not known; did you mean 'safety'?" in done.err
    done = qexport("evaluate", sliding_job[1], "--suites", "speed", "--no-speed")
    assert (done.code, "no suite is asked for" in done.err) == (2, True)
    done = qexport("evaluate", "nowhere")
    assert (done.code, "nowhere: there is no such folder" in done.err) == (2, True)
    done = qexport("evaluate", sliding_job[1], "--suites", "text")
    assert done.code == 2
    assert "`python scripts/fetch_data.py wikipedia` fetches it" in done.err
