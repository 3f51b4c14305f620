"""The demo's engine for ExecuTorch on tiny models, and what it says where a file is not the bundle's."""

import hashlib
import json
import os
import shutil
import subprocess

import pytest
from android_java import bundled, java_command, run_java
from tiny_jobs import ended, started, write_recipe

from exporter.backends import get_backend

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

TARGETS = "[{backend: executorch, delegate: xnnpack, max_context: 4096}]"
STEPS = 12
LINES = ("Hello", "Wie spät ist es?", "猫が座っている", "x" * 700)  # the last one is longer than a call takes


@pytest.fixture(scope="module")
def java(tmp_path_factory):
    return java_command(tmp_path_factory.mktemp("build"), executorch=True)


@pytest.fixture(scope="module")
def floats(tiny_checkpoint, tmp_path_factory):
    """A float model's artifact, for a long context: sums in another order move no token of it."""
    place = tmp_path_factory.mktemp("floats")
    checkpoint = shutil.copytree(tiny_checkpoint, place / "checkpoint")
    config = json.loads((checkpoint / "config.json").read_text("utf-8"))
    (checkpoint / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}), "utf-8")
    recipe = write_recipe(place, checkpoint, rules='  - {match: "**", scheme: float}', targets=TARGETS)
    done = ended(started("--recipe", recipe, "--out", place / "out", cache=place / "cache"))
    assert done.code == 0, done.err
    return place / "out"


@pytest.fixture(scope="module")
def whole(floats, tmp_path_factory):
    """Its bundle."""
    return bundled(floats, tmp_path_factory.mktemp("bundle") / "app", "executorch")


@pytest.fixture
def changed(whole, tmp_path):
    """A function that copies the bundle, with another program and other values in its text section."""

    def write(program=None, **values):
        folder = shutil.copytree(whole, tmp_path / "changed")
        about = json.loads((folder / "bundle.json").read_text("utf-8"))
        about["text"].update(values)
        if program is not None:
            (folder / "model.pte").write_bytes(program)
            (entry,) = [file for file in about["files"] if file["path"] == "model.pte"]
            entry.update(bytes=len(program), sha256=hashlib.sha256(program).hexdigest())
        (folder / "bundle.json").write_text(json.dumps(about), "utf-8")
        return folder

    return write


def refused(java, folder):
    """The last line of what chat says to the bundle."""
    done = run_java(java, "chat", folder, STEPS, given="Hello\n")
    assert (done.returncode, done.stdout) == (2, b""), done.stderr
    return done.stderr.decode().splitlines()[-1]


def test_tokens_are_pythons(java, floats, changed):
    """Greedy, a prompt of several parts among them, in 64 MB of heap."""
    done = run_java(java, "chat", changed(stop_ids=[]), STEPS, given="".join(f"{line}\n" for line in LINES))
    assert done.returncode == 0, done.stderr
    assert b"WARNING" not in done.stdout + done.stderr  # of -Xcheck:jni
    runner = get_backend("executorch").open_text(floats / "executorch")
    answers = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert len(answers) == len(LINES) and len(answers[-1]["prompt"]) > 2 * 256
    for answer in answers:
        runner.reset()
        row, expected = runner.forward(answer["prompt"])[-1], []
        for _ in range(STEPS):
            expected.append(int(row.argmax()))
            row = runner.forward(expected[-1:])[-1]
        assert answer["answer"] == expected


def test_golden_replay_of_a_quantised_program(java, tiny_job, tmp_path):
    """Passes; fails where a golden logit is another one, and does not begin where a byte is."""
    _, artifact, job = tiny_job
    assert job.code == 0, job.err
    folder = bundled(artifact, tmp_path / "app", "executorch")
    done = run_java(java, "replay", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(b"Self-test passed")

    golden = json.loads((folder / "golden.json").read_text("utf-8"))
    golden["prompts"][0]["values"]["x86_64"]["top_logits"][0] += 2 * golden["tolerance"]["logits"]
    content = json.dumps(golden).encode()
    (folder / "golden.json").write_bytes(content)
    assert f"{folder.name}/golden.json: " in run_java(java, "replay", folder).stderr.decode()
    about = json.loads((folder / "bundle.json").read_text("utf-8"))
    (entry,) = [file for file in about["files"] if file["path"] == "golden.json"]
    entry.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    (folder / "bundle.json").write_text(json.dumps(about), "utf-8")
    done = run_java(java, "replay", folder)
    assert done.returncode == 1 and b"FAILED" in done.stdout


def test_what_the_engine_refuses_and_how_it_is_stopped(java, whole):
    done = run_java(java, "probe", whole)
    assert done.returncode == 0, done.stderr
    assert b"WARNING" not in done.stdout + done.stderr  # of -Xcheck:jni
    found = json.loads(done.stdout)
    vocab = json.loads((whole / "bundle.json").read_text("utf-8"))["text"]["vocab"]
    fit = "do not fit: at least 1, and at most 4096 together; shorten the text or start a new chat."
    assert found["empty"] == f"0 tokens after 0 {fit}"
    assert found["full"] == f"4094 tokens after 3 {fit}"
    assert found["room"] == f"Room for {vocab - 1} logits, the model gives {vocab}."
    assert found["token"] == (
        f"Token {vocab} is none of the model's 0 to {vocab - 1}; the tokenizer is another model's."
    )
    assert (found["past"], found["reset"]) == (3, 0)
    assert found["repeated"] == 0 and found["stepwise"] < 1e-4
    assert found["otherThreads"] == (
        "ExecuTorch computes with 2 threads for a model that is open, and 3 are asked for; close that one first, or "
        "open this one with 2."
    )
    # parts of 256 tokens: those before the end are held
    assert 0 <= found["held"] < 4096 and found["held"] % 256 == 0
    assert found["cancelled"] == f"Stopped at token {found['held']} of 4096, as asked."
    assert found["closing"].startswith("Stopped at token ")
    assert found["closed"] == "The model is closed; open it again."


def test_a_context_that_is_full(java, changed):
    assert refused(java, changed(context=30, stop_ids=[])) == (
        "1 tokens after 30 do not fit: at least 1, and at most 30 together; shorten the text or start a new chat."
    )


@pytest.mark.parametrize("kept", [0.999, 0.5, 0.001, 0])
def test_a_program_that_is_cut_off(java, whole, changed, kept):
    program = (whole / "model.pte").read_bytes()
    message = refused(java, changed(program[: int(len(program) * kept)]))
    assert message.startswith("ExecuTorch does not open the model: [ExecuTorch Error 0x")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "vocab",
            100_000,
            "The program gives {vocab} logits, the bundle says 100000; bundle the model again with",
        ),
        ("context", 5000, "The program holds 4096 tokens, the bundle says 5000; bundle the model again with"),
    ],
)
def test_another_models_bundle(java, whole, changed, key, value, message):
    text = json.loads((whole / "bundle.json").read_text("utf-8"))["text"]
    assert refused(java, changed(**{key: value})) == f"{message.format_map(text)} qexport bundle."


def test_a_program_of_another_kind(java, changed):
    import torch
    from executorch.exir import to_edge

    class Sum(torch.nn.Module):
        def forward(self, x):
            return x + x

    program = to_edge(torch.export.export(Sum(), (torch.ones(2),))).to_executorch()
    assert refused(java, changed(program.buffer)) == (
        "The program has no method get_max_context_len; it is no language model that qexport wrote."
    )


def test_an_app_without_executorch(java, whole):
    """Neither its classes nor, with these, its natives."""
    place = java.index("-cp") + 1
    entries = java[place].split(os.pathsep)
    assert entries[-1].endswith("executorch")
    for start in (
        [*java[:place], os.pathsep.join(entries[:-1]), *java[place + 1 :]],
        [word for word in java if not word.startswith("-Djava.library.path")],
    ):
        message = refused(start, whole)
        assert message.startswith("This build of the app carries no ExecuTorch for this device (java.lang.")
        assert message.endswith("); install the build that does, or bundle the model's file for onnxruntime.")


def test_a_program_that_is_gone(java, whole, tmp_path):
    """The engine itself, since a bundle's check would say it first."""
    source = tmp_path / "Gone.java"
    source.write_text(
        """
        import java.nio.file.*;
        public class Gone {
            public static void main(String[] given) throws Exception {
                String about = new String(Files.readAllBytes(Paths.get(given[0])), "UTF-8");
                qexport.core.TextModel text = qexport.core.Bundle.parse(about).text();
                try {
                    new qexport.et.EtEngine("gone.pte", text, Integer.parseInt(given[1]));
                } catch (qexport.core.EngineException problem) {
                    System.out.println(problem.getMessage());
                }
            }
        }
        """
    )
    command = [*java[:-1], str(source), str(whole / "bundle.json")]
    said = [subprocess.run([*command, n], capture_output=True, text=True).stdout for n in ("1", "0")]
    assert said[0].startswith("ExecuTorch does not open the model: Cannot load model path: ")
    assert said[1] == "Threads: 0; at least 1 is needed.\n"
