"""What the written files hold is the recipe's integers: the same in both, element by element."""

import json
import shutil

import numpy as np
import pytest

from exporter.backends import get_backend
from exporter.numerics import canonical_granularity, quantize, sha256_of
from exporter.pipeline import plan_recipe
from exporter.recipe import load_recipe

RUNTIMES = ("onnxruntime", "executorch")


@pytest.fixture
def folder(tiny_job):
    return tiny_job[1]


def test_json_is_what_others_rely_on(folder, tiny_job, qexport):
    done = qexport("inspect", folder, "--json")
    assert done.code == 0 and done.err == ""
    found = json.loads(done.out)
    assert list(found) == list(RUNTIMES)
    model, plan = plan_recipe(load_recipe(tiny_job[0]))
    for runtime in RUNTIMES:
        assert list(found[runtime]) == ["layers"]
        layers = found[runtime]["layers"]
        assert layers.keys() == {layer.name for layer in plan.layers}
        for layer in plan.layers:
            expected = quantize(model.weight(layer.info), layer.scheme)
            scales, _, group = canonical_granularity(expected.scales, None, expected.values.shape[1])
            entry = dict(layers[layer.name])
            size = entry.pop("bytes")
            assert entry == {
                "bits": layer.scheme.bits,
                "group": group,
                "integers": sha256_of(expected.values),
                "scales": sha256_of(scales),
            }
            assert size >= 0 and isinstance(size, int)
        assert layers["lm_head"]["integers"] == layers["model.embed_tokens"]["integers"]
        tied = sorted(layers[name]["bytes"] for name in ("lm_head", "model.embed_tokens"))
        assert tied[0] == 0 or runtime == "executorch"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_element_is_the_recipes(folder, tiny_job, runtime):
    model, plan = plan_recipe(load_recipe(tiny_job[0]))
    found = get_backend(runtime).read_back(folder / runtime)
    for layer in plan.layers:
        expected = quantize(model.weight(layer.info), layer.scheme)
        assert np.array_equal(found[layer.name].values, expected.values), layer.name
        assert np.array_equal(found[layer.name].scales, expected.scales), layer.name


def test_the_table_says_that_both_agree(folder, qexport):
    done = qexport("inspect", folder)
    assert done.code == 0 and done.err == ""
    assert "16 of 16 layers hold the same integers and scales in every file" in done.out
    assert "NO" not in done.out and "missing" not in done.out


@pytest.mark.parametrize(
    "name", ["onnxruntime/model.onnx", "executorch/model.pte", "onnxruntime", "executorch"]
)
def test_one_file_or_its_folder(folder, qexport, name):
    whole = json.loads(qexport("inspect", folder, "--json").out)
    done = qexport("inspect", folder / name, "--json")
    runtime = name.partition("/")[0]
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out) == {runtime: whole[runtime]}


def test_a_difference_is_shown(folder, other_integers, qexport, tmp_path):
    mixed = tmp_path / "mixed"
    shutil.copytree(folder, mixed)
    shutil.copyfile(other_integers / "executorch" / "model.pte", mixed / "executorch" / "model.pte")
    done = qexport("inspect", mixed)
    assert done.code == 0
    assert "15 of 16 layers hold the same integers and scales in every file" in done.out
    (row,) = [line for line in done.out.splitlines() if line.rstrip().endswith("NO")]
    assert row.strip().startswith("model.layers.1.mlp.down_proj")


@pytest.mark.parametrize(
    "name", ["executorch/model.pte", "onnxruntime/model.onnx", "onnxruntime/model.onnx.data"]
)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_truncated(folder, qexport, tmp_path, name, share):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    data = (broken / name).read_bytes()
    (broken / name).write_bytes(data[: int(share * len(data))])
    done = qexport("inspect", broken)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: {broken / name}: ")
    assert done.err.count("\n") == 1 and "should not have happened" not in done.err


@pytest.mark.parametrize("name", ["executorch/model.pte", "onnxruntime/model.onnx"])
def test_damaged(folder, qexport, tmp_path, name):
    """Noise of a page in the front, where the structure lies: a message or other integers, no crash."""
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    data = bytearray((broken / name).read_bytes())
    rng = np.random.default_rng(0)
    data[64:1088] = rng.bytes(1024)
    (broken / name).write_bytes(data)
    done = qexport("inspect", broken)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: {broken / name}: ")
    assert done.err.count("\n") == 1 and "should not have happened" not in done.err


def test_a_changed_weight_in_the_pte_is_noticed(folder, qexport, tmp_path):
    """The keys of the delegate's constants carry the hash of their bytes."""
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    path = broken / "executorch" / "model.pte"
    values = get_backend("executorch").read_back(path.parent)["model.layers.0.mlp.up_proj"].values
    data = path.read_bytes()
    at = data.index(values.tobytes())
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    assert qexport("inspect", path) == (
        2,
        "",
        f"error: {path}: the bytes of the weight of model.layers.0.mlp.gate_proj and model.layers.0.mlp.up_proj "
        "are not those that were written; run the recipe again\n",
    )


def test_nothing_to_inspect(qexport, tmp_path):
    assert qexport("inspect", tmp_path / "no") == (
        2, "", f"error: {tmp_path / 'no'}: there is no such file or folder\n",
    )  # fmt: skip
    assert qexport("inspect", tmp_path) == (
        2, "", f"error: {tmp_path}: holds no onnxruntime/ or executorch/, so there is nothing to inspect\n",
    )  # fmt: skip
    (tmp_path / "notes.txt").write_text("")
    assert qexport("inspect", tmp_path / "notes.txt") == (
        2, "", f"error: {tmp_path / 'notes.txt'}: name a folder that qexport wrote, a model.onnx or a model.pte\n",
    )  # fmt: skip
