"""The main job on models of other kinds, as a person runs it: sliding windows, norms on queries and keys and a
vocabulary of 262,144 words; biases and an output layer apart from the embedding."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import fetch
from tiny_jobs import QEXPORT, ROOT

# two processors take four minutes for a job; the download and the first conversion come on top
pytestmark = [pytest.mark.real, pytest.mark.timeout(2400)]

# recipe -> scripts/fetch_models.py's name, quantised layers: embedding, 7 a block, output layer
MODELS = {
    "gemma3_270m_mixed_int4": ("gemma3-270m", 1 + 18 * 7 + 1),
    "qwen25_05b_mixed_int4": ("qwen2.5-coder-0.5b", 1 + 24 * 7 + 1),
}
GB = 10**9

# Peak memory of a command, by the process that has no other child: a large parent's own memory counts for the child
# until it becomes another program, so the tests' process cannot ask for it.
MEASURED = """\
import resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
unit = 1 if sys.platform == "darwin" else 1024
open(sys.argv[1], "w").write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit))
sys.exit(code)
"""


class Job(NamedTuple):
    """A finished job."""

    out: Path
    layers: int  # that it should have quantised
    peak: int  # bytes
    ended: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module", params=MODELS)
def job(request, tmp_path_factory) -> Job:
    model, layers = MODELS[request.param]
    fetch("scripts/fetch_models.py", model)
    place = tmp_path_factory.mktemp(request.param)
    command = [QEXPORT, "--recipe", f"recipes/{request.param}.yaml", "--out", place / "out"]
    ended = subprocess.run(
        [sys.executable, "-c", MEASURED, place / "peak", *command], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    return Job(place / "out", layers, int((place / "peak").read_text()), ended)


def test_every_gate_holds(job):
    assert "PASSED: every limit held" in job.ended.stdout
    assert "Warning" not in job.ended.stderr and "Traceback" not in job.ended.stderr
    parity = json.loads((job.out / "manifest.json").read_text())["summary"]["parity"]
    assert parity["passed"] and not any(rung["failures"] for rung in parity["rungs"])
    shipped = {rung["name"].split()[0] for rung in parity["rungs"] if rung["kind"] == "shipped"}
    assert shipped == {"onnxruntime", "executorch"}


def test_both_files_hold_the_same_integers(job):
    inspected = subprocess.run(
        [QEXPORT, "inspect", job.out, "--json"], capture_output=True, text=True, check=True
    )
    found = json.loads(inspected.stdout)
    ort, executorch = found["onnxruntime"]["layers"], found["executorch"]["layers"]
    assert len(ort) == job.layers and ort.keys() == executorch.keys()
    for name in ort:
        for key in ("bits", "group", "integers", "scales"):
            assert ort[name][key] == executorch[name][key], (name, key)


def test_files_are_as_large_as_the_plan_said(job):
    targets = json.loads((job.out / "manifest.json").read_text())["summary"]["targets"]
    for target in targets.values():
        assert abs(target["forecast_bytes"] / target["model_bytes"] - 1) < 0.02


def test_memory_stays_under_the_forecast_and_near_it(job):
    """Of the whole process. Tenths of a GB are printed, so half of one is rounding."""
    line = next(
        line for line in job.ended.stderr.splitlines() if line.startswith("memory needed, forecast: ")
    )
    forecast = max(float(size) for size in re.findall(r" (\d+\.\d)(?:,| GB)", line)) * GB
    assert job.peak < 3 * GB
    assert job.peak < forecast + 0.05 * GB
    assert forecast - 0.05 * GB < 1.25 * job.peak
