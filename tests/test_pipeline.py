"""The whole job on a tiny model: what it writes, that it writes the same twice, and what stops it."""

import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
from collections import namedtuple

import pytest
from tiny_jobs import contents, ended, started, write_recipe

from exporter.artifacts import changed_files, read_manifest
from exporter.pipeline import plan_recipe
from exporter.plan import QuantPlan
from exporter.recipe import load_recipe

EXPECTED = {
    "manifest.json",
    "plan.json",
    "report.html",
    "golden/vectors.json",
    "onnxruntime/model.onnx",
    "onnxruntime/model.onnx.data",
    "onnxruntime/genai_config.json",
    "onnxruntime/tokenizer.json",
    "executorch/model.pte",
    "executorch/tokenizer.json",
}
ORT_ONLY = "[{backend: onnxruntime}]"
Usage = namedtuple("Usage", "total used free")


def names(folder):
    """Everything in the folder, hidden or not."""
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def copied(tiny_job, tmp_path):
    """The finished folder, to do harm to."""
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_job[1], folder)
    return folder


def test_the_job_writes_everything(tiny_job):
    _, folder, job = tiny_job
    assert job.code == 0, job.err
    assert contents(folder).keys() >= EXPECTED
    assert names(folder.parent) == ["tiny"]
    assert changed_files(folder, read_manifest(folder)) == []


def test_it_says_what_it_did(tiny_job):
    _, folder, job = tiny_job
    assert "PASSED: every limit held" in job.out
    assert f"qexport inspect {folder}" in job.out.replace("\n", "")
    stages = [line.split(" ")[1:-2] for line in job.err.splitlines() if line.startswith("✓")]
    assert [" ".join(words) for words in stages] == [
        "plan", "quantise", "lower to onnxruntime", "lower to executorch", "verify", "report",
    ]  # fmt: skip
    # a log's every line is ours
    ours = [line for line in job.err.splitlines() if line.startswith("✓") or line.endswith(" …")]
    (memory,) = [line for line in job.err.splitlines() if line not in ours]
    assert re.fullmatch(
        r"memory needed, forecast: quantise [\d.]+, lower to onnxruntime [\d.]+, lower to executorch [\d.]+, "
        r"verify [\d.]+ GB",
        memory,
    )


def test_too_little_memory_is_said_before_any_work(tiny_job, tmp_path, qexport):
    recipe, _, _ = tiny_job
    done = qexport("--recipe", recipe, "--out", tmp_path / "out", "--max-memory", "100MB")
    assert (done.code, done.out) == (2, "")
    assert re.fullmatch(
        r"error: verify: this model needs about [\d.]+ GB of memory, --max-memory allows 0\.1 GB; "
        r"allow more, or export one target at a time",
        done.err.splitlines()[-1],
    )
    assert "quantise" not in done.err and names(tmp_path) == []


def test_the_files_explain_themselves(tiny_job):
    recipe, folder, _ = tiny_job
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["summary"]["recipe"]["text"] == recipe.read_text()
    assert {entry["path"] for entry in manifest["files"]} == contents(folder).keys() - {"manifest.json"}
    plan = QuantPlan.from_json(json.loads((folder / "plan.json").read_text()))
    assert plan.to_json() == manifest["summary"]["plan"]
    golden = json.loads((folder / "golden" / "vectors.json").read_text())
    assert {"float", "onnxruntime", "executorch"} <= golden["prompts"][0]["models"].keys()
    report = (folder / "report.html").read_text()
    assert "http://" not in report.replace("http://www.w3.org", "") and "<script src" not in report


def test_a_third_run_finds_everything_there(tiny_job, qexport):
    recipe, folder, _ = tiny_job
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    done = qexport("--recipe", recipe, "--out", folder)
    assert done.code == 0
    assert done.err.endswith("everything is already there and right, byte for byte: nothing was done\n")
    assert "PASSED: every limit held" in done.out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_changed_byte_is_noticed_and_repaired_and_the_bytes_are_the_same_again(tiny_job, copied, qexport):
    recipe, folder, _ = tiny_job
    path = copied / "executorch" / "model.pte"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = qexport("--recipe", recipe, "--out", copied)
    assert done == (
        2,
        "",
        f"plan …\n{path}: missing, or not as it was written\n"
        f"error: {copied}: exists already; pass --force to replace it, or name another folder\n",
    )
    assert path.read_bytes() == data
    done = qexport("--recipe", recipe, "--out", copied, "--force")
    assert done.code == 0, done.err
    # Another process, another folder, another hash seed: the same bytes, manifest and report included.
    assert contents(copied) == contents(folder)
    assert names(copied.parent) == ["tiny"]


def test_another_jobs_folder_is_not_overwritten(tiny_job, tiny_checkpoint, copied, qexport, tmp_path):
    before = contents(copied)
    other = write_recipe(tmp_path, tiny_checkpoint, targets=ORT_ONLY)
    done = qexport("--recipe", other, "--out", copied)
    assert done == (
        2,
        "",
        f"plan …\nerror: {copied}: exists already; pass --force to replace it, or name another folder\n",
    )
    assert contents(copied) == before


def test_a_missed_gate_keeps_the_files_aside(tiny_checkpoint, qexport, tmp_path):
    gates = '{quantisation: {max_kl: 0.0001, min_top1: 1}, text: [text.txt], prompts: ["Hi"]}'
    recipe = write_recipe(tmp_path, tiny_checkpoint, targets=ORT_ONLY, parity=gates)
    out = tmp_path / "out"
    done = qexport("--recipe", recipe, "--out", out)
    assert (done.code, done.out) == (1, "")
    assert names(tmp_path) == ["out.failed", "recipe.yaml", "text.txt"]
    failed = tmp_path / "out.failed"
    assert changed_files(failed, read_manifest(failed)) == []
    assert (tmp_path / "out.failed").stat().st_mode & 0o777 == 0o755

    parity = json.loads((tmp_path / "out.failed" / "manifest.json").read_text())["summary"]["parity"]
    assert not parity["passed"]
    rung = next(rung for rung in parity["rungs"] if rung["name"] == "quantisation")
    message = done.err[done.err.index("error: ") :].splitlines()
    more_bits = "Give the layers with the lowest SQNR 8 bits, or raise the limit in the recipe"
    assert message[:3] == [
        "error: parity failed:",
        f"  - quantisation: the mean KL divergence is {rung['result']['kl_mean']:.3g} nats, over the limit 0.0001 "
        f"(parity.quantisation.max_kl). {more_bits}",
        f"  - quantisation: the most likely token is the same at {100 * rung['result']['same_top1']:.1f} % of the "
        f"positions, under the limit 100 % (parity.quantisation.min_top1). {more_bits}",
    ]
    assert message[-2:] == [
        f"  where it begins: {parity['first_layer']} ({parity['first_layer_reason']})",
        f"  the files are kept in {tmp_path / 'out.failed'} to look at (report.html), not to ship",
    ]
    assert parity["first_layer"].startswith(("model.", "lm_head"))

    done = qexport("verify", tmp_path / "out.failed")
    assert done == (
        2,
        "",
        f"error: {tmp_path / 'out.failed'}: its own recipe cannot be followed from this folder; pass it with "
        "--recipe R\nrecipe.yaml:12:62: parity.text[0]: there is no file text.txt\n",
    )
    done = qexport("verify", tmp_path / "out.failed", "--recipe", recipe)  # finds the same again
    assert done.code == 1
    assert f"error: parity failed:\n{message[1]}\n" in done.err


def test_nothing_of_someone_elses_is_taken_for_a_failed_job(tiny_checkpoint, qexport, tmp_path):
    (tmp_path / "out.failed").mkdir()
    done = qexport("--recipe", write_recipe(tmp_path, tiny_checkpoint), "--out", tmp_path / "out")
    assert done == (
        2,
        "",
        f"plan …\nerror: {tmp_path / 'out.failed'}: is in the way, a job whose parity fails is kept there; "
        "move it or name another --out\n",
    )


def test_places_that_cannot_be_written(tiny_checkpoint, qexport, tmp_path, monkeypatch):
    recipe = write_recipe(tmp_path, tiny_checkpoint)
    (tmp_path / "file").write_text("")
    before = names(tmp_path)

    def message(out):
        done = qexport("--recipe", recipe, "--out", out)
        assert (done.code, done.out) == (2, "")
        assert names(tmp_path) == before
        return done.err.removeprefix("plan …\n")

    file, below = tmp_path / "file", tmp_path / "file" / "out"
    assert message(file) == f"error: {file}: is a file; name a folder for --out\n"
    assert message(below) == f"error: {file}: is a file; name a folder for --out\n"
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.R_OK)  # root may write anywhere
    assert message(tmp_path / "out") == (
        f"error: {tmp_path}: is not writable; name another folder for --out or change its permissions\n"
    )


def test_too_little_room_is_seen_before_any_work(tiny_checkpoint, qexport, tmp_path, monkeypatch):
    recipe = write_recipe(tmp_path, tiny_checkpoint)
    _, plan = plan_recipe(load_recipe(recipe))
    # both runtimes' files, twice since each is rewritten once, and a byte for each weight's integer
    needed = 2 * sum(forecast.total_bytes for forecast in plan.forecasts) + plan.parameters
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 1000))
    done = qexport("--recipe", recipe, "--out", tmp_path / "out")
    assert done == (
        2,
        "",
        f"plan …\nerror: {tmp_path}: 0.00 MB free, the job needs about {needed / 1e6:.2f} MB; free some room or "
        "name a folder on another disk for --out\n",
    )
    assert names(tmp_path) == ["recipe.yaml", "text.txt"]


@pytest.mark.parametrize("kilobytes", [80, 260])  # full while quantising, and while a backend writes
def test_a_disk_that_fills_up(tiny_checkpoint, qexport, tmp_path, monkeypatch, kilobytes):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "qexport-test", disk], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 0, 10**9))  # looked like enough
        recipe = write_recipe(tmp_path, tiny_checkpoint)
        done = qexport("--recipe", recipe, "--out", disk / "out")
        assert (done.code, done.out) == (2, "")
        errors = done.err[done.err.index("error: ") :]
        assert errors.count("\n") == 1 and os.strerror(errno.ENOSPC) in errors, errors
        assert "should not have happened" not in errors
        assert names(disk) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_file_that_may_not_grow(tiny_checkpoint, qexport, tmp_path):
    """As a full disk, where none can be mounted: no file may exceed 60 kB."""
    recipe = write_recipe(tmp_path, tiny_checkpoint, targets=ORT_ONLY)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (61440, hard))
    try:
        done = qexport("--recipe", recipe, "--out", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (done.code, done.out) == (2, "")
    errors = done.err[done.err.index("error: ") :]
    assert errors.count("\n") == 1 and os.strerror(errno.EFBIG) in errors, errors
    assert names(tmp_path) == ["recipe.yaml", "text.txt"]


def test_interrupted_half_way(tiny_checkpoint, tmp_path):
    """Ctrl-C, and kill: one line, and nothing is left."""
    jobs = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        place = tmp_path / number.name
        place.mkdir()
        recipe = write_recipe(place, tiny_checkpoint)
        jobs[number] = place, started("--recipe", recipe, "--out", place / "out", cache=tmp_path / "cache")
    for number, (place, job) in jobs.items():
        for line in job.stderr:
            if line.startswith("lower to"):
                break
        drafts = [name for name in names(place) if name.startswith(".out.partial")]
        job.send_signal(number)
        done = ended(job)
        assert len(drafts) == 1
        assert done == (2, "", "\ninterrupted: nothing was written\n")  # the line break ends the bar, or ^C
        assert names(place) == ["recipe.yaml", "text.txt"]
