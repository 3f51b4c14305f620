"""Golden replay without a runtime: its rule, columns of another processor, and what is refused before anything runs."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from exporter.artifacts import write_json
from exporter.bundling.artifact import open_artifact
from exporter.bundling.columns import column_path, write_column
from exporter.bundling.golden import golden
from exporter.errors import FetchError
from exporter.fetching import Package, fetch
from exporter.replay.arm64 import PARTS, archives, folder
from exporter.replay.examples import forced, with_own
from exporter.replay.judging import judge_logits, judge_prompt, judge_vector

GOLDEN = {"greedy": [2, 0], "top_ids": [2, 1], "top_logits": [3.0, 1.0]}


def rows(*values):
    return [np.asarray(row, np.float32) for row in values]


def test_a_near_tie_passes_and_the_column_ends_with_the_other_token():
    found = judge_prompt(GOLDEN, 0.5, rows([0, 1.4, 3.0], [1, 2, 0.5]))
    assert (found.failure, found.same, found.tokens) == (None, 1, 2)
    assert found.distance == pytest.approx(0.4)
    assert found.values == {"greedy": [2, 1], "top_ids": [2, 1, 0], "top_logits": [3.0, 1.4, 0.0]}


def test_a_column_has_no_token_that_other_tokens_led_to():
    values = {**GOLDEN, "greedy": [2, 0, 1]}
    found = judge_prompt(values, 0.5, rows([0, 1, 3], [1, 1.5, 0], [0, 1, 0]))
    assert (found.same, found.values["greedy"]) == (2, [2, 1])


class Sums:
    """A language model whose next token is the sum of all before it and one, modulo ten."""

    def reset(self):
        self.tokens = []

    def feed(self, tokens):
        self.tokens += tokens
        row = np.zeros(10, np.float32)
        row[(sum(self.tokens) + 1) % 10] = 1
        return row


@pytest.mark.parametrize("golden", [[4, 8, 6, 2, 4], [4, 9, 0, 0, 0], [5, 0, 0, 0, 0]])
def test_a_column_has_the_processors_own_answer(golden):
    values = {"greedy": golden, "top_ids": [4], "top_logits": [1.0]}
    found = with_own(judge_prompt(values, 1, forced(Sums(), [3], golden)), "greedy", Sums(), [3], 5)
    assert found.values["greedy"] == [4, 8, 6, 2, 4]


def test_a_token_too_far_behind():
    found = judge_prompt(GOLDEN, 0.5, rows([0, 1, 3], [1, 2.25, 0]))
    assert found.failure == "token 2 of the answer is 1, golden is 0, 1.2500 behind; at most 1.0000"


@pytest.mark.parametrize("wrong", [1.75, np.nan])
def test_a_logit_too_far_away(wrong):
    found = judge_prompt(GOLDEN, 0.5, rows([0, wrong, 3]))
    assert found.failure == f"token 1 has logit {wrong:.4f}, golden is 1.0000; at most 0.5000 apart"
    assert found.distance == (np.inf if np.isnan(wrong) else 0.75)


def test_vectors_and_rows_of_logits():
    near = judge_vector({"vector": [1, 0]}, 0.9, np.asarray([1, 0.1], np.float32))
    assert near.failure is None and near.values["vector"] == pytest.approx([1, 0.1])
    far = judge_vector({"vector": [1, 0]}, 0.9, np.asarray([1, 1], np.float32))
    assert far.failure == "the vector's cosine is 0.7071; at least 0.9000"
    expected = {"rows": [4, 7], "classes": [[1, 0], [0, 1]], "logits": [[2, 1], [5, 1]]}
    found = judge_logits(expected, 0.1, np.asarray([[1, 2], [5, 1.05]], np.float32))
    assert (found.failure, found.same, found.tokens) == (None, 2, 2)
    found = judge_logits(expected, 0.1, np.asarray([[1, 2], [4, 5]], np.float32))
    assert found.failure == "token 0 has logit 4.0000, golden is 5.0000; at most 0.1000 apart"


# --- columns


@pytest.fixture
def artifact(tiny_job, tmp_path) -> Path:
    return shutil.copytree(tiny_job[1], tmp_path / "tiny")


@pytest.fixture
def column(artifact):
    """Written for ONNX Runtime with values that can be told from this host's."""
    opened = open_artifact(artifact, "onnxruntime")
    entries = json.loads((artifact / "golden" / "vectors.json").read_text())["prompts"]
    values = [{"greedy": [1], "top_ids": [1], "top_logits": [0.5]} for _ in entries]
    return write_column("arm64-v8a", {"on": "a test"}, [(opened, values)])


def test_golden_has_the_column_of_the_runtime_that_was_measured(artifact, column):
    found = golden(open_artifact(artifact, "onnxruntime"))
    assert found["columns"] == ["x86_64", "arm64-v8a"]
    for prompt in found["prompts"]:
        assert prompt["values"]["arm64-v8a"] == {"greedy": [1], "top_ids": [1], "top_logits": [0.5]}
        assert prompt["values"]["x86_64"]["greedy"] != [1]
    other = golden(open_artifact(artifact, "executorch"))
    assert other["columns"] == ["x86_64"]
    assert column == column_path(artifact, "arm64-v8a")
    assert [path.name for path in column.parent.iterdir() if path.name.startswith(".")] == []


def test_a_column_keeps_what_was_measured_of_other_runtimes(artifact, column):
    opened = open_artifact(artifact, "executorch")
    values = [{"greedy": [2], "top_ids": [2], "top_logits": [0.25]} for _ in golden(opened)["prompts"]]
    write_column("arm64-v8a", {"on": "another test"}, [(opened, values)])
    for runtime, token in (("onnxruntime", 1), ("executorch", 2)):
        (prompt, *_) = golden(open_artifact(artifact, runtime))["prompts"]
        assert prompt["values"]["arm64-v8a"]["greedy"] == [token]


def stale(artifact, qexport, tmp_path):
    """What `qexport bundle` says."""
    app = tmp_path / "app"
    (app / "app").mkdir(parents=True)
    root = Path(__file__).parent.parent
    shutil.copy(root / "android_demo/app/runtimes.json", app / "app")
    (tmp_path / "terms.txt").write_text("Do as you like.\n")
    done = qexport("bundle", artifact, "--app", app, "--license", tmp_path / "terms.txt")
    assert done.code == 2
    return done.err.removeprefix("check …\n")


def test_a_column_of_another_model(artifact, column, qexport, tmp_path):
    data = json.loads(column.read_text())
    data["runtimes"]["onnxruntime"]["files"]["onnxruntime/model.onnx"] = "0" * 64
    write_json(column, data)
    assert stale(artifact, qexport, tmp_path) == (
        f"error: {column}: was measured with another onnxruntime/model.onnx than the artifact holds; run "
        f"`qexport verify {artifact} --abi arm64` again, or delete arm64-v8a.json\n"
    )


def test_a_column_of_a_newer_qexport(artifact, column, qexport, tmp_path):
    write_json(column, {**json.loads(column.read_text()), "format": 2})
    assert stale(artifact, qexport, tmp_path) == (
        f"error: {column}: format 2, this qexport reads 1; run `qexport verify {artifact} --abi arm64` again, or "
        "delete arm64-v8a.json\n"
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [("{", "JSONDecodeError: Expecting property name"), ("[]", "TypeError: "), ("{}", "KeyError: 'format'")],
)
def test_a_damaged_column(artifact, column, qexport, tmp_path, text, why):
    column.write_text(text)
    said = stale(artifact, qexport, tmp_path)
    assert said.startswith(f"error: {column}: damaged ({why}")
    assert said.endswith(f"run `qexport verify {artifact} --abi arm64` again, or delete arm64-v8a.json\n")


# --- before anything runs


def test_without_permission_it_says_what_to_type(artifact, qexport):
    done = qexport("verify", artifact, "--abi", "arm64")
    assert (done.code, done.out) == (2, "")
    lines = done.err.splitlines()[2:]  # behind what was checked
    assert "\n".join(lines) == (
        f"error: {archives()}: the ARM64 side is not there (emulator, python, compiler, onnxruntime, executorch): "
        "186 MB in 27 packages of Debian and PyPI, pinned by sha256, and some 20 MB of Debian's lists. To fetch them "
        f"once, type\n  qexport verify {artifact} --abi arm64 --download"
    )
    assert not archives().exists()


def test_an_archive_that_is_not_the_pinned_one(artifact, qexport):
    archives().mkdir(parents=True)
    bad = archives() / "qemu-user_1%3a10.0.13+ds-0+deb13u1_amd64.deb"
    bad.write_bytes(b"something else")
    done = qexport("verify", artifact, "--abi", "arm64", "--download")
    assert done.code == 2
    found = hashlib.sha256(b"something else").hexdigest()
    assert done.err.endswith(
        f"error: {bad}: sha256 {found}, pinned is ca6ede739327a20ae5a3498230c8a3a9a072c586e131bc6bcc1201eb1725e336; it "
        "has been deleted, so run this again, and if the same happens, look at what changed before you pin the new "
        "one\n"
    )
    assert not bad.exists() and not any(folder(part).exists() for parts in PARTS.values() for part in parts)


def test_a_package_that_cannot_be_had(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    package = Package("sh", "deb", "1", "sh_1_all.deb", 1, "0" * 64, "part", "why", "none", "trixie", "all")
    with pytest.raises(FetchError) as caught:
        fetch([package], tmp_path / "cache", lambda line: None)
    assert str(caught.value) == (
        f"apt-get is not on this machine; use Debian, or put sh_1_all.deb into {tmp_path / 'cache'} by hand"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cpu", "max"], "--cpu needs --abi arm64"),
        (["--runtime", "executorch"], "--runtime needs --abi arm64"),
        (["--download"], "--download needs --abi arm64"),
        (["--abi", "x86_64", "--cpu", "max"], "--cpu has no effect with --abi x86_64, which is this host"),
        (["--abi", "arm64", "--layers"], "--layers has no effect with --abi, which replays golden values"),
    ],
)
def test_options_without_effect(artifact, qexport, options, message):
    done = qexport("verify", artifact, *options)
    assert done.code == 2 and done.err.splitlines()[-1] == f"Error: {message}"


def test_a_changed_file(artifact, qexport):
    with (artifact / "executorch" / "model.pte").open("ab") as file:
        file.write(b"x")
    done = qexport("verify", artifact, "--abi", "x86_64")
    assert done.code == 2
    assert done.err.removeprefix("check …\n") == (
        f"error: {artifact}: executorch/model.pte: missing, or not as written (manifest.json has another sha256); "
        "export again with --force\n"
    )


def test_a_cache_that_the_runner_cannot_attend_to(artifact, qexport):
    path = artifact / "manifest.json"
    data = json.loads(path.read_text())
    for entry in data["summary"]["plan"]["targets"]:
        entry["target"]["kv_cache"] = "int8"
    path.write_text(json.dumps(data))
    done = qexport("verify", artifact, "--abi", "x86_64")
    assert done.code == 2
    assert done.err.removeprefix("check …\n") == (
        f"error: {artifact}: its .pte keeps keys and values as int8, the runner of golden values attends to float32 "
        "only; export with kv_cache: float32, or pass --runtime onnxruntime for the other file\n"
    )
    assert qexport("verify", artifact, "--abi", "x86_64", "--runtime", "onnxruntime").code == 0


def test_a_task_that_is_not_replayed(artifact, qexport):
    path = artifact / "manifest.json"
    data = json.loads(path.read_text())
    data["summary"]["model"]["task"] = "module"
    path.write_text(json.dumps(data))
    done = qexport("verify", artifact, "--abi", "arm64")
    assert done.code == 2
    assert done.err.removeprefix("check …\n") == (
        f"error: {artifact}: golden values of task module are not replayed; `qexport verify` without --abi runs its "
        "whole ladder on this host\n"
    )
