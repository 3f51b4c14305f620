"""The whole job on tiny models of other tasks: an encoder and a language model, in every simulator."""

from __future__ import annotations

import pytest
from encoder_checkpoints import write, write_stages
from tiny_jobs import write_recipe

from exporter.artifacts import read_manifest

HTP = (
    "[{backend: onnxruntime, ep: qnn, soc: SM8750, length: 16}, "
    "{backend: executorch, delegate: qualcomm, soc: SM8750, length: 16}]"
)
TOSA = "[{backend: executorch, delegate: tosa, length: 16}]"
SCHEMES = """\
schemes:
  w8: {weights: int8, group: channel, activations: static-int16}
  table: {weights: int8, group: tensor, activations: static-int16}
"""


def npu_recipe(folder, source, task, targets, rules):
    path = write_recipe(folder, source, task=task, rules=rules, targets=targets, parity="{}")
    text = path.read_text()
    path.write_text(text[: text.index("schemes:")] + SCHEMES + text[text.index("rules:") :])
    return path


@pytest.mark.npu
@pytest.mark.parametrize("targets", [HTP, TOSA], ids=["htp", "tosa"])
def test_an_encoder(tmp_path, qexport, targets):
    folder = write("sentence", tmp_path / "model")
    write_stages(folder)
    rules = (
        '  - {match: "**.word_embeddings", scheme: table}\n'
        "  - {kind: embedding, scheme: float, because: few weights}\n"
        '  - {match: "**", scheme: w8}\n'
    )
    recipe = npu_recipe(tmp_path, folder, "feature-extraction", targets, rules)
    done = qexport("--recipe", recipe, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    for name, facts in read_manifest(tmp_path / "out")["summary"]["targets"].items():
        assert facts["on_npu"] == "100 %"
        held = {path.name for path in (tmp_path / "out" / name).iterdir()}
        assert {"tokenizer.json", "preprocessing.json"} <= held
    assert qexport("verify", tmp_path / "out", "--recipe", recipe).code == 0


@pytest.mark.npu
@pytest.mark.parametrize("targets", [HTP, TOSA], ids=["htp", "tosa"])
def test_one_step_of_a_language_model(tiny_checkpoint, tmp_path, qexport, targets):
    rules = '  - {match: "**.{embed_tokens,lm_head}", scheme: table}\n  - {match: "**", scheme: w8}\n'
    recipe = npu_recipe(tmp_path, tiny_checkpoint, "text-generation", targets, rules)
    done = qexport("--recipe", recipe, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    summary = read_manifest(tmp_path / "out")["summary"]
    lowered = [rung for rung in summary["parity"]["rungs"] if rung["kind"] == "lowering"]
    assert all(rung["result"]["sqnr_db"] > 40 for rung in lowered)
