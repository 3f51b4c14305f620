"""A language model's prompt as a program of its own: the same integers, each weight once, keys and values handed on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_npu_jobs import npu_recipe
from tiny_jobs import TEXT

from exporter.artifacts import read_manifest
from exporter.backends.npu import BACKENDS, qnn, sharing
from exporter.errors import LoweringError
from exporter.models.loading import open_model
from exporter.models.npu_models import FixedDecoderModel
from exporter.models.static_reference import StaticReference
from exporter.pipeline import _skeleton, plan_recipe
from exporter.ranges import _placed, read_ranges
from exporter.recipe import parse_recipe
from exporter.schemes import QuantScheme
from exporter.static.whole import MOVING, joined
from exporter.targets import Target
from exporter.verify.integers import integers_of

QNN = "{backend: onnxruntime, ep: qnn, soc: [SM8750, SM8650], length: 16, prefill: 4}"
QUALCOMM = "{backend: executorch, delegate: qualcomm, soc: SM8750, length: 16, prefill: 4}"
RULES = '  - {match: "**.{embed_tokens,lm_head}", scheme: table}\n  - {match: "**", scheme: w8}\n'
PIECES, STEPS = 2, 3


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Weights of some megabytes, beside which commands and names are small."""
    from tiny_models import _byte_tokenizer, llama

    folder = tmp_path_factory.mktemp("wide")
    sizes = {"hidden_size": 512, "intermediate_size": 1024, "max_position_embeddings": 512}
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    vocabulary = _byte_tokenizer(folder) + 6
    llama(vocab_size=vocabulary, initializer_range=0.08, **sizes, **ids).save_pretrained(folder)
    return folder


def handed_on(model, run):
    """Logits of a text through run(role, inputs): pieces by the prompt's program, then steps of one token, with the
    keys and values that those before gave."""
    ids = model.model.tokenizer().encode(TEXT)
    past, first, found = model.empty(), 0, []
    for number in range(PIECES + STEPS):
        each, role = (model.prefill, "prefill") if number < PIECES else (model, "forward")
        logits, *states = run(role, each.inputs(ids[first : first + each.new], first, past))
        found.append(torch.as_tensor(logits)[0])
        for buffer, state in zip(past, states, strict=True):
            buffer[:, :, first : first + each.new] = torch.as_tensor(state)
        first += each.new
    return torch.cat(found), ids[:first]


def test_pieces_and_steps_give_the_logits_of_the_whole_text(tiny_checkpoint):
    opened = open_model(str(tiny_checkpoint), "text-generation", tiny_checkpoint)
    model = FixedDecoderModel(opened, 16, prefill=4)
    modules = {"forward": model.built[0], "prefill": model.prefill.built[0]}
    with torch.no_grad():
        found, ids = handed_on(model, lambda role, inputs: modules[role](*inputs))
        wanted = opened.float_model()(torch.tensor([ids])).logits[0]
    assert torch.allclose(found, wanted, atol=1e-4)
    own = list(model.prefill.own_samples())
    assert {int(inputs[1][0]) for inputs in own} == {0, 4, 8, 12, 16}


def test_both_programs_have_the_same_values(tiny_checkpoint):
    """By name, so that one range goes to both; besides them each has constants, moves and the mask's own."""
    opened = open_model(str(tiny_checkpoint), "text-generation", tiny_checkpoint)
    model = FixedDecoderModel(opened, 16, prefill=4)
    scheme = QuantScheme("w8", "int8", "channel", activations="static-int16")
    schemes = {layer.name: scheme for layer in model.layers().layers}
    (_, step), (_, prompt) = (_placed(each, schemes, "qualcomm") for each in (model, model.prefill))
    assert step.layers == prompt.layers
    for name in set(step.integer.values()) ^ set(prompt.integer.values()):
        operator = name.rpartition(":")[2].rstrip("0123456789")
        assert name.startswith("constant:") or operator in MOVING or name == "model:add0", name
    both = joined([step, prompt])
    handed = {f"input:{3 + number}" for number in range(4)}
    groups = [group for group in both.alike if group & handed]
    assert len(groups) == 4  # past and new keys, or values, of one layer
    assert all(group & set(step.integer.values()) & set(prompt.integer.values()) for group in groups)


@pytest.mark.npu
def test_both_programs_share_integers_and_file(checkpoint, tmp_path, qexport):
    recipe_file = npu_recipe(tmp_path, checkpoint, "text-generation", f"[{QNN}, {QUALCOMM}]", RULES)
    done = qexport("--recipe", recipe_file, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    summary = read_manifest(tmp_path / "out")["summary"]
    rungs = {rung["name"]: rung["result"]["sqnr_db"] for rung in summary["parity"]["rungs"]}
    lowered = [name for name in rungs if name.endswith("lowering")]
    assert len(lowered) == 6  # of each target: the step, the prompt, the prompt's keys and values
    assert all(rungs[name] > 40 for name in lowered)
    for facts in summary["targets"].values():
        assert facts["prefill"] == 4
        assert "without sharing" in facts["host_run"]
        for compiled in facts["compiled"].values():
            assert compiled["bytes"] < 1.2 * facts["forecast_bytes"]  # of the weights once
    _hands_on_in_the_simulator(recipe_file, tmp_path / "out")

    folder = tmp_path / "out" / "onnxruntime-qnn"
    shared = folder / "model.SM8750_qnn.bin"
    kept = shared.read_bytes()
    shared.write_bytes((folder / "model.SM8650_qnn.bin").read_bytes())
    done = qexport("verify", tmp_path / "out", "--recipe", recipe_file)
    assert done.code == 2
    assert f"{shared}: is compiled for SM8650 (v75), and the recipe asks for SM8750 (v79)" in done.err
    shared.unlink()
    done = qexport("verify", tmp_path / "out", "--recipe", recipe_file)
    assert done.code == 2
    assert f"{shared}: is missing, and model.SM8750.onnx is compiled into it; export again" in done.err
    shared.write_bytes(kept)


def _hands_on_in_the_simulator(recipe_file, out):
    """As in PyTorch with the same codes."""
    recipe = parse_recipe(recipe_file.read_bytes(), recipe_file)
    model, plan = plan_recipe(recipe)
    schemes = {layer.name: layer.scheme for layer in plan.layers}
    skeleton = _skeleton(model, schemes, integers_of(out, recipe.targets, schemes), recipe, read_ranges(out))
    codes = {
        "forward": StaticReference(skeleton, rounds_dynamic=False),
        "prefill": StaticReference(skeleton.prefill, rounds_dynamic=False),
    }
    with torch.no_grad():
        wanted, _ = handed_on(model, lambda role, inputs: codes[role](*inputs))
    target = recipe.targets[0]
    with BACKENDS[target.key].simulator(skeleton, target, out / target.key) as runner:
        found, _ = handed_on(
            model, lambda role, inputs: runner.run_many([[x.numpy() for x in inputs]], role)[0]
        )
    noise = 10 * np.log10(float(wanted.square().sum() / (found - wanted).square().sum()))
    assert noise > 40


def test_a_shared_file_that_lacks_what_a_graph_needs(tmp_path, monkeypatch):
    target = Target("onnxruntime", ep="qnn", soc=("SM8750",), length=16, prefill=4)
    generator = np.random.default_rng(0)
    shared, alone = tmp_path / "shared", tmp_path / "alone"
    held = generator.integers(256, size=64 * 100, dtype=np.uint8).tobytes()
    other = generator.integers(256, size=64 * 20, dtype=np.uint8).tobytes()
    contents = {shared: [held], alone: [held]}
    monkeypatch.setattr(qnn, "contents", lambda path: contents[path.parent])
    sharing.check_held(target, shared, alone)
    contents[alone] = [held[: 64 * 80] + other]
    with pytest.raises(LoweringError) as caught:
        sharing.check_held(target, shared, alone)
    assert str(caught.value) == (
        f"{shared / 'model.SM8750.onnx'}: 80% of what the graph compiles to by itself is in the file that shares "
        "weights, and 90% is the least; leave prefill out"
    )
