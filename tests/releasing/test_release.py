"""A recipe with an envelope on a tiny model: down the ladder, or nothing; and work that outlives a kill."""

import io
import os
import signal
import time

import pytest
import tiny_jobs
from rich.console import Console

from exporter.artifacts import read_manifest
from exporter.errors import GateFailed, QexportError, RecipeError
from exporter.pipeline import plan_recipe
from exporter.progress import Stages
from exporter.recipe import load_recipe
from exporter.releasing import release
from exporter.workplace import workplace

ORT = "[{backend: onnxruntime, max_context: 256}]"
CALIBRATION = "calibration: {text: [cal.jsonl]}\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, text, and a cache of its own."""
    place = tmp_path_factory.mktemp("release")
    tiny_jobs.write_calibration(place)
    return place


@pytest.fixture(autouse=True)
def own_cache(folder, monkeypatch):
    monkeypatch.setenv("QEXPORT_CACHE", str(folder / "cache"))


def written(folder, envelope, method="gptq", rest=CALIBRATION):
    """A recipe of four bits throughout."""
    text = tiny_jobs.recipe_text("m", rules='  - {match: "**", scheme: w4}\n', targets=ORT)
    text = text.replace(
        "group: 32, activations: dynamic-int8}",
        f"group: 32, activations: dynamic-int8, method: {method}, rotate: 32}}",
    )
    path = folder / f"r{abs(hash((envelope, method, rest)))}.yaml"
    path.write_text(text.replace("targets:", rest + "targets:") + f"envelope: {envelope}\n")
    return load_recipe(path)


def released(recipe, out, **options):
    """The result and what was said."""
    console = Console(record=True, width=400, file=io.StringIO())
    try:
        return release(
            recipe, out, options.pop("force", False), Stages(console), **options
        ), console.export_text()
    except GateFailed as missed:
        return missed, console.export_text()


@pytest.fixture(scope="module")
def plain(folder, tmp_path_factory):
    """What the recipe as written loses, and every layer in eight bits."""
    os.environ["QEXPORT_CACHE"], before = str(folder / "cache"), os.environ.get("QEXPORT_CACHE")
    found = {}
    for name, envelope in (
        ("w4", "{max_kl: 100, ladder: [int8]}"),
        ("int8", "{max_mb: 99, max_kl: 100, ladder: [int8]}"),
    ):
        out = tmp_path_factory.mktemp("plain") / "out"
        recipe = written(folder, envelope)
        if name == "int8":
            from exporter.releasing.steps import with_int8

            recipe = with_int8(recipe)
        result, _ = released(recipe, out)
        found[name] = result.data["envelope"]["figures"]
    os.environ.pop("QEXPORT_CACHE") if before is None else os.environ.update(QEXPORT_CACHE=before)
    return found


def test_an_envelope_that_is_met_costs_nothing(folder, tmp_path, plain):
    result, said = released(
        written(folder, f"{{max_kl: {plain['w4']['max_kl'] * 1.01:.6f}}}"), tmp_path / "out"
    )
    assert result.data["envelope"]["step"] == "as written" and result.data["envelope"]["steps"] == []
    assert "step 1 of 5: as written" in said and "step 2" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_mix_between(folder, tmp_path, plain):
    """The limit lies between four bits and eight: the mix is judged by its files and is smaller than eight bits."""
    limit = (plain["w4"]["max_kl"] + plain["int8"]["max_kl"]) / 2
    recipe = written(folder, f"{{max_kl: {limit:.6f}}}")
    result, said = released(recipe, tmp_path / "out")
    verdict = result.data["envelope"]
    assert verdict["step"].startswith("mix") and verdict["figures"]["max_kl"] <= limit
    assert plain["w4"]["max_mb"] < verdict["figures"]["max_mb"] < plain["int8"]["max_mb"]
    assert [step["step"] for step in verdict["steps"]][:2] == ["as written", "method"]
    assert f"the envelope allows {limit:.6g}" in said
    assert (
        "no candidate: every scheme of four bits has a calibrated method already, and what can be is rotated"
        in said
    )
    assert "released: mix" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]  # no OUT.failed, no OUT.work
    page = (tmp_path / "out" / "report.html").read_text()
    assert 'id="envelope"' in page and 'id="methods"' in page
    again, _ = released(recipe, tmp_path / "out")
    assert again.reused


def test_nothing_that_misses_replaces_a_release(folder, tmp_path, plain):
    out = tmp_path / "out"
    released(written(folder, "{max_kl: 100}"), out)
    before = tiny_jobs.contents(out)
    missed, _ = released(written(folder, "{max_kl: 0.000001, ladder: [mix, int8]}"), out, force=True)
    assert isinstance(missed, GateFailed) and missed.exit_code == 1
    lines = str(missed).splitlines()
    assert lines[0] == "no step of the ladder is what the envelope asks for:"
    assert [line.split(":")[0] for line in lines[1:-1]] == ["  - as written", "  - mix", "  - int8"]
    assert lines[-1] == (
        f"  {out}: what was released before is untouched; allow more, or take a larger model"
    )
    assert tiny_jobs.contents(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.failed"]


def test_too_large_is_known_before_any_work(folder, tmp_path, plain):
    limit = plain["w4"]["max_mb"] / 2
    missed, said = released(written(folder, f"{{max_mb: {limit:.6f}, ladder: [int8]}}"), tmp_path / "out")
    assert "quantise" not in said
    assert f"({'onnxruntime'}, forecast), the envelope allows {limit:.6g}" in str(missed)
    assert "nothing was released" in str(missed)
    assert list(tmp_path.iterdir()) == []


def test_another_method_without_a_search(folder, tmp_path):
    _, said = released(written(folder, "{max_kl: 0.000001, ladder: [method]}", "mse"), tmp_path / "out")
    assert "step 2 of 2: method" in said and "no candidate" not in said


def test_the_step_rotates_what_it_can(folder):
    """Schemes that only a mix would use too, else their layers would lose in their inputs what they gain in bits."""
    from exporter.releasing.steps import with_method

    recipe = written(folder, "{max_kl: 1}", "gptq")
    path = recipe.path.with_name("plain.yaml")
    path.write_text(recipe.text.replace(", rotate: 32", ""))
    found = with_method(load_recipe(path))
    assert {name: entry.scheme.rotate for name, entry in found.schemes.items()} == {"w4": 64, "w8": 64}
    assert "# Step method: w4, w8 rotated." in found.text


def test_steps_that_cannot_be_say_why(folder, tmp_path):
    recipe = written(folder, "{max_kl: 0.000001, ladder: [method, mix, qat]}", "mse", "")
    missed, _ = released(recipe, tmp_path / "out")
    assert str(missed).count("no candidate: needs calibration: {text: [a file]}") == 3


def test_a_step_that_no_target_can_run_is_passed_over(folder, tmp_path):
    recipe = written(folder, "{max_kl: 0.000001, ladder: [int8]}", "mse")
    path = recipe.path.with_name("groups.yaml")
    path.write_text(recipe.text.replace("group: channel", "group: 128"))
    missed, _ = released(load_recipe(path), tmp_path / "out")
    last = str(missed).splitlines()[-2]
    assert last.startswith("  - int8: no candidate: ") and "group 128 of scheme w8 does not divide" in last


@pytest.mark.parametrize(
    ("envelope", "message"),
    [
        ("{}", "envelope: an envelope needs at least one limit"),
        ("{max_kl: -1}", "envelope.max_kl is number -1; expected a number from 0 to 100"),
        ("{max_lk: 1}", "ladder, items; did you mean 'max_kl'?"),
        ("{max_kl: 1, ladder: [luck]}", "envelope.ladder[0] is text 'luck'; allowed: method, mix, qat, int8"),
    ],
)
def test_envelopes_that_are_wrong(folder, envelope, message):
    with pytest.raises(RecipeError) as problem:
        written(folder, envelope)
    assert message in str(problem.value)


def test_the_plan_says_what_is_released(folder):
    _, plan = plan_recipe(written(folder, "{max_kl: 0.1, max_mb: 3, ladder: [mix]}"))
    assert "released only with max_mb 3, max_kl 0.1; tried in turn: as written, mix" in plan.notes


# -- work that outlives a kill


def test_a_killed_job_goes_on_with_the_same_bytes(folder, tmp_path):
    """SIGKILL in calibration by blocks, then --resume: the same files; the first block is not done twice."""
    recipe = written(folder, "{max_kl: 100}").path
    done = tiny_jobs.ended(
        tiny_jobs.started("--recipe", recipe, "--out", tmp_path / "a", cwd=folder, cache=folder / "cache")
    )
    assert done.code == 0, done.err
    job = tiny_jobs.started("--recipe", recipe, "--out", tmp_path / "b", cwd=folder, cache=folder / "cache")
    for line in job.stderr:
        if line.startswith("  block 2"):
            break
    job.send_signal(signal.SIGKILL)
    tiny_jobs.ended(job)
    assert (tmp_path / "b.work").is_dir() and not (tmp_path / "b").exists()
    time.sleep(0.1)
    done = tiny_jobs.ended(
        tiny_jobs.started(
            "--recipe", recipe, "--out", tmp_path / "b", "--resume", cwd=folder, cache=folder / "cache"
        )
    )
    assert done.code == 0, done.err
    assert "going on from an earlier run's work" in done.err and "  block 1 of 2" not in done.err
    assert tiny_jobs.contents(tmp_path / "b") == tiny_jobs.contents(tmp_path / "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_training_goes_on_too_and_is_not_done_twice(folder, tmp_path, monkeypatch):
    """Interrupted behind its last checkpoint and behind training itself: the same integers as without."""
    rest = CALIBRATION + "qat: {by: model, steps: 4, samples: 12, patience: 9}\n"
    recipe = written(folder, "{max_kl: 100}", rest=rest)
    whole, _ = released(recipe, tmp_path / "a")
    assert whole.data["training"]["losses"][3] > 0 and set(whole.data["training"]["held_out"]) >= {"0", "4"}
    assert 'id="methods"' in (tmp_path / "a" / "report.html").read_text()

    from exporter import pipeline
    from exporter.qat import training

    settings = training.Settings.checkpoints
    monkeypatch.setattr(training.Settings, "__init__", _with_checkpoints(training.Settings.__init__))
    for target, name in ((training.Training, "_evaluate"), (pipeline, "_lower")):
        with monkeypatch.context() as broken:
            broken.setattr(target, name, _interrupts(getattr(target, name), at=2))
            with pytest.raises(KeyboardInterrupt):
                released(recipe, tmp_path / "b", resume=True)
    result, said = released(recipe, tmp_path / "b", resume=True)
    assert settings == training.Settings.checkpoints and "going on from an earlier run's work" in said
    assert result.data["training"] == whole.data["training"]
    for path in ("onnxruntime/model.onnx.data", "golden/vectors.json"):
        assert (tmp_path / "b" / path).read_bytes() == (tmp_path / "a" / path).read_bytes()


def test_training_by_block_goes_on_with_the_block_it_was_in(folder, tmp_path, monkeypatch):
    recipe = written(folder, "{max_kl: 100}", rest=CALIBRATION + "qat: {steps: 4, samples: 12}\n")
    whole, said = released(recipe, tmp_path / "a")
    training = whole.data["training"]
    assert training["by"] == "block" and len(training["blocks"]) == 2
    assert f"nothing was trained on: {training['held_out']['before']:.4g} before training" in said
    assert "each of 2 blocks for 4 steps" in (tmp_path / "a" / "report.html").read_text()

    from exporter.qat.block_training import BlockTraining

    with monkeypatch.context() as broken:
        broken.setattr(BlockTraining, "_train", _interrupts(BlockTraining._train, at=2))
        with pytest.raises(KeyboardInterrupt):
            released(recipe, tmp_path / "b")
    result, said = released(recipe, tmp_path / "b", resume=True)
    assert result.data["training"] == training and "going on from an earlier run's work" in said
    for path in ("onnxruntime/model.onnx.data", "golden/vectors.json"):
        assert (tmp_path / "b" / path).read_bytes() == (tmp_path / "a" / path).read_bytes()


def _with_checkpoints(plain):
    """One after each step."""

    def init(self, *given, **named):
        plain(self, *given, **{**named, "checkpoints": 1})

    return init


def _interrupts(plain, at):
    """Ctrl-C at the given call, or at the first of a function that is called once."""
    calls = []

    def called(*given, **named):
        calls.append(0)
        if len(calls) == at or plain.__name__ == "_lower":
            raise KeyboardInterrupt
        return plain(*given, **named)

    return called


def test_two_jobs_of_one_folder(tmp_path):
    said = pytest.raises(QexportError, match="another qexport is at work there; wait for it, or stop it")
    with workplace(tmp_path / "out", False, print), said, workplace(tmp_path / "out", False, print):
        pass
    assert list(tmp_path.iterdir()) == []


def test_work_of_an_earlier_run_is_thrown_away_unless_asked(tmp_path):
    said = []
    with pytest.raises(KeyboardInterrupt), workplace(tmp_path / "out", False, said.append) as place:
        (place.job("abc") / "file").write_text("done")
        place.note({"x": 1})
        raise KeyboardInterrupt
    assert said == [
        f"{tmp_path}/out.work: holds what is done; the same command with --resume goes on from there"
    ]
    with pytest.raises(KeyboardInterrupt), workplace(tmp_path / "out", True, said.append) as place:
        assert (place.job("abc") / "file").read_text() == "done" and place.noted() == {"x": 1}
        raise KeyboardInterrupt
    with workplace(tmp_path / "out", False, said.append) as place:
        assert list(place.job("abc").iterdir()) == [] and place.noted() == {}
    assert said[-1].endswith("an earlier run's work was thrown away; --resume would have gone on from it")


def test_read_manifest_names_the_step(folder, tmp_path, plain):
    released(written(folder, "{max_kl: 100}"), tmp_path / "out")
    assert read_manifest(tmp_path / "out")["summary"]["envelope"]["passed"] is True
