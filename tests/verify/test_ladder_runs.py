"""`qexport verify` on written files: what it says of good ones, and that bad ones do not pass."""

import json
import shutil

import onnx
import pytest
from onnx import numpy_helper
from tiny_jobs import RULES, write_recipe

ERROR = "error: "


@pytest.fixture
def recipe(tiny_job):
    return tiny_job[0]


@pytest.fixture
def copied(tiny_job, tmp_path):
    """The finished folder, to do harm to."""
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_job[1], folder)
    return folder


def test_finds_what_the_job_found(tiny_job, recipe, qexport):
    folder = tiny_job[1]
    done = qexport("verify", folder, "--recipe", recipe, "--json")
    assert done.code == 0, done.err
    kept = json.loads((folder / "manifest.json").read_text())["summary"]["parity"]
    assert json.loads(done.out) == kept
    assert "changed" not in done.err


def test_the_recipe_of_the_manifest(tiny_job, recipe, qexport, monkeypatch):
    monkeypatch.chdir(recipe.parent)  # its text file is named relative to it
    done = qexport("verify", tiny_job[1], "--layers")
    assert done.code == 0, done.err
    assert "PASSED: every limit held" in done.out
    for words in ("onnxruntime lowering (prefill)", "executorch lowering (decode)", "noise floor"):
        assert words in done.out
    rows = [line.split() for line in done.out.splitlines() if line.strip().startswith(("model.", "lm_head"))]
    assert len(rows) == 16  # embedding, 2 blocks of 7, output layer
    assert all(row[1] in ("4", "8") and float(row[2]) > 5 and float(row[3]) > 5 for row in rows)


def test_stricter_gates_fail(tiny_checkpoint, tiny_job, tmp_path, qexport):
    strict = write_recipe(
        tmp_path,
        tiny_checkpoint,
        parity='{quantisation: {max_kl: 0.00001}, text: [text.txt], prompts: ["Hi"]}',
    )
    done = qexport("verify", tiny_job[1], "--recipe", strict, "--json")
    assert done.code == 1
    parity = json.loads(done.out)
    assert not parity["passed"] and parity["first_layer"]
    message = done.err[done.err.index(ERROR) :].splitlines()
    assert message[0] == "error: parity failed:"
    assert message[1:] == [f"  - {sentence}" for sentence in parity["failures"]]
    assert "over the limit 1e-05 (parity.quantisation.max_kl)" in message[1]


def test_a_pte_with_other_integers(tiny_job, recipe, copied, other_integers, qexport):
    """One layer by another method, in the same scheme: every gate would hold."""
    path = copied / "executorch" / "model.pte"
    shutil.copyfile(other_integers / "executorch" / "model.pte", path)
    done = qexport("verify", copied, "--recipe", recipe)
    assert (done.code, done.out) == (1, "")
    lines = done.err.splitlines()
    assert f"{path}: changed since the export; verified as it is now" in lines
    assert lines[-1].startswith(
        f"error: {copied / 'executorch'}: does not hold the integers of {copied / 'onnxruntime'}. "
        "layer model.layers.1.mlp.down_proj: "
    )
    assert lines[-1].endswith("of 8,192 integers differ; export again with --force")


def test_a_recipe_with_other_schemes(tiny_checkpoint, tiny_job, tmp_path, qexport):
    folder = tiny_job[1]
    other = write_recipe(tmp_path, tiny_checkpoint, rules=RULES.replace("layers.0.**", "layers.1.**"))
    done = qexport("verify", folder, "--recipe", other)
    assert done == (
        2,
        "",
        f"read back …\nerror: {folder / 'onnxruntime'}: layer model.layers.0.self_attn.q_proj: has 8 bits, the plan "
        "says int4 g32 sym a8; name the recipe that these files were made of\n",
    )


def test_a_wrong_norm_is_a_lowering_error(recipe, copied, qexport):
    """Nothing that is quantised changed, so only running the file can tell."""
    path = copied / "onnxruntime" / "model.onnx"
    model = onnx.load(path)  # with its data, so that the norm can be edited wherever it lies
    (norm, *_) = [t for t in model.graph.initializer if list(t.dims) == [64]]
    norm.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(norm) * 1.01, norm.name))
    (copied / "onnxruntime" / "model.onnx.data").unlink()
    onnx.save(model, path, save_as_external_data=True, location="model.onnx.data")
    done = qexport("verify", copied, "--recipe", recipe)
    assert done.code == 1
    message = done.err[done.err.index(ERROR) :]
    assert "onnxruntime lowering (prefill): the largest relative error is" in message
    assert "over the limit 0.001 (parity.lowering.max_rel)" in message
    assert "executorch" not in message


@pytest.mark.parametrize("name", ["onnxruntime/model.onnx", "executorch/model.pte"])
def test_a_missing_file(recipe, copied, qexport, name):
    (copied / name).unlink()
    done = qexport("verify", copied, "--recipe", recipe)
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[-1].startswith(f"error: {copied / name}: cannot be read (")
    assert f"{copied / name}: changed since the export; verified as it is now" in done.err.splitlines()


def test_not_ours(qexport, tmp_path):
    assert qexport("verify", tmp_path) == (
        2, "", f"error: {tmp_path}: has no manifest.json, so it is not a folder that qexport wrote\n",
    )  # fmt: skip
    assert qexport("verify", tmp_path / "no") == (
        2,
        "",
        f"error: {tmp_path / 'no'}: there is no such folder; make one with `qexport --recipe R --out "
        f"{tmp_path / 'no'}`\n",
    )
    manifest = tmp_path / "manifest.json"
    for text, reason in (
        ("{", "damaged (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))"),
        ("[]", "damaged (it lists no files)"),
        ('{"format": 9, "files": []}', "format 9, this qexport reads 1"),
    ):
        manifest.write_text(text)
        assert qexport("verify", tmp_path) == (
            2,
            "",
            f"error: {manifest}: {reason}; export again with --force\n",
        )


def test_what_an_int8_kv_cache_costs_is_a_rung_of_its_own(tiny_job, recipe, monkeypatch):
    """PyTorch with such a cache, against the same without; the program is held to what rounding leaves room for."""
    from dataclasses import replace

    from exporter.pipeline import plan_recipe
    from exporter.recipe import load_recipe
    from exporter.verify import verify_model
    from exporter.verify.integers import integers_of

    loaded = load_recipe(recipe)
    model, plan = plan_recipe(loaded)
    schemes = {layer.name: layer.scheme for layer in plan.layers}
    skeleton = model.skeleton(schemes, integers_of(tiny_job[1], loaded.targets, schemes))
    cached = replace(loaded, targets=(replace(loaded.targets[1], kv_cache="int8"),))
    rungs = {
        rung.name: rung
        for rung in verify_model(model, skeleton, tiny_job[1], cached, lambda what, share: None).parity.rungs
    }
    assert list(rungs) == [
        "quantisation",
        "quantisation with int8 activations",
        "noise floor of int8 activations",
        "KV cache in int8",
        "noise floor of int8 activations, int8 KV cache",
        "executorch lowering (decode)",
        "executorch lowering (prefill)",
        "executorch as shipped (decode)",
    ]
    cost = rungs["KV cache in int8"]
    assert (cost.reference, cost.candidate) == (
        "dequantised, int8 activations",
        "dequantised, int8 activations, int8 KV cache",
    )
    assert 0 < cost.result.kl_mean < rungs["quantisation"].result.kl_mean
    lowering = rungs["executorch lowering (decode)"]
    assert lowering.reference == cost.candidate and lowering.gates == ("max_noise_kl",)
    floor = rungs["noise floor of int8 activations, int8 KV cache"].result.kl_mean
    assert lowering.limits.max_noise_kl == max(3 * floor, 1e-3)
