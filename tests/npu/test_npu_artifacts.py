"""Files that were changed after they were compiled: for another chip, with a node on the CPU, damaged."""

from __future__ import annotations

import shutil

import onnx
import pytest
from nets import entries_recipe

BOTH = "{backend: onnxruntime, ep: qnn, soc: [SM8750, SM8650]}, {backend: executorch, delegate: qualcomm, soc: SM8750}"


@pytest.fixture
def made(tmp_path, monkeypatch, qexport):
    recipe = entries_recipe(tmp_path, monkeypatch, "static-int16", BOTH)
    done = qexport("--recipe", recipe, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    return tmp_path / "out"


@pytest.mark.npu
def test_what_is_refused(made, qexport):
    assert qexport("verify", made).code == 0
    done = qexport("inspect", made)
    assert done.code == 0
    assert "executorch-qualcomm: Qualcomm's compiled form is its own" in " ".join(done.out.split())
    assert "conv_int4_channel" in done.out
    done = qexport("bench", made)
    assert done.code == 2
    assert "what simulates them here says nothing of their speed; measure it on the phone" in done.err
    htp = made / "onnxruntime-qnn"
    right, other = htp / "model.SM8750.onnx", htp / "model.SM8650.onnx"
    kept = right.read_bytes()

    shutil.copyfile(other, right)
    done = qexport("verify", made)
    assert done.code == 2
    assert (
        f"{right}: is compiled for SM8650 (v75), and the recipe asks for SM8750 (v79); export again for the chip of "
        "the phone"
    ) in done.err

    model = onnx.load_from_string(kept)
    model.graph.node.append(onnx.helper.make_node("Identity", ["output"], ["copy"]))
    onnx.save(model, right)
    done = qexport("verify", made)
    assert done.code == 2
    assert f"{right}: 1 nodes are not on the NPU (Identity); a phone would run them on its CPU" in done.err
    right.write_bytes(kept)

    program = made / "executorch-qualcomm" / "model.SM8750.pte"
    program.write_bytes(program.read_bytes()[:1000])
    done = qexport("verify", made)
    assert done.code == 2
    assert f"{program}: is no ExecuTorch program, or was damaged; export again" in done.err
    program.unlink()
    done = qexport("verify", made)
    assert done.code == 2
    assert f"{program}: is missing; export again" in done.err
