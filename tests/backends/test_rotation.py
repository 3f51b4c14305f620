"""Rotated inputs: the same function in float, in every backend, with one rotation for layers of one input."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ort_skeleton import MemorySkeleton
from tiny_models import llama

from exporter.backends import get_backend
from exporter.errors import RecipeError
from exporter.layers import LayerInfo
from exporter.methods.choosing import Seen, chosen
from exporter.methods.gptq import spread_of
from exporter.models.activations import fake_quantize_activations
from exporter.models.reference import dequantized_model, own_rows
from exporter.models.rotating import rotate
from exporter.numerics import quantize
from exporter.planning import make_plan
from exporter.quantizing import QuantizedStore
from exporter.recipe import parse_recipe
from exporter.rotation import hadamard, rotated, rotated_moments
from exporter.schemes import ROTATIONS, QuantScheme
from exporter.targets import Target
from exporter.verify.layer_errors import weight_sqnr_db

BACKENDS = ("onnxruntime", "executorch")
W8 = QuantScheme("w8", "int8", "channel", True, "dynamic-int8", "rtn", rotate=16)
W4 = QuantScheme("w4", "int4", 32, True, "dynamic-int8", "gptq", rotate=32)
TOKENS = [int(x) for x in np.random.default_rng(3).integers(0, 128, 12)]


@pytest.mark.parametrize("size", ROTATIONS)
def test_a_rotation_is_its_own_inverse_and_keeps_lengths(size):
    matrix = hadamard(size)
    assert (matrix == matrix.T).all()
    assert set(np.unique(np.abs(matrix))) == {np.float32(size**-0.5)}
    rows = np.random.default_rng(size).standard_normal((5, 3 * size)).astype(np.float32)
    # sums of `size` products, twice: 2^-24 of the sum of magnitudes for each rounding
    assert (
        np.abs(rotated(rotated(rows, size), size) - rows).max()
        <= 2 * size * 2.0**-24 * size**0.5 * np.abs(rows).max()
    )
    assert np.allclose(np.linalg.norm(rotated(rows, size), axis=1), np.linalg.norm(rows, axis=1), rtol=1e-5)
    assert np.allclose(rotate(torch.from_numpy(rows), size).numpy(), rotated(rows, size), atol=1e-5)


def test_no_power_of_two_is_no_size():
    with pytest.raises(ValueError, match=r"^a Hadamard rotation of 48 channels: not a power of two$"):
        hadamard(48)


@given(seed=st.integers(0, 10_000), size=st.sampled_from([16, 32]))
def test_moments_are_those_of_the_rotated_inputs(seed, size):
    inputs = np.random.default_rng(seed).standard_normal((40, 64))
    turned = rotated(inputs.astype(np.float32), size).astype(np.float64)
    found = rotated_moments(inputs.T @ inputs / 40, size)
    assert np.allclose(found, turned.T @ turned / 40, atol=1e-5)


@given(
    seed=st.integers(0, 10_000),
    scheme=st.sampled_from([W8, W4]),
    method=st.sampled_from(["mse", "wmse", "gptq", "auto"]),
)
def test_integers_are_those_of_the_rotated_weight(seed, scheme, method):
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((6, 64)).astype(np.float32)
    inputs = rng.standard_normal((200, 64)) * rng.exponential(1, 64)
    moments = inputs.T @ inputs / 200
    scheme = replace(scheme, method=method)
    found = chosen(weight, scheme, Seen.of(moments, scheme.rotate))
    turned = rotated_moments(moments, scheme.rotate)
    plain = chosen(
        rotated(weight, scheme.rotate), replace(scheme, rotate=None), Seen(turned, spread_of(turned))
    )
    assert (found.tensor.values == plain.tensor.values).all()
    assert (found.method, found.errors) == (plain.method, plain.errors)
    assert found.tensor.scheme == scheme
    assert 20 < weight_sqnr_db(lambda: weight, found.tensor) + (30 if scheme.bits == 4 else 0) < 60


def test_a_weight_that_is_written_in_blocks_of_rows_is_rotated_too(tmp_path, monkeypatch):
    weight = np.random.default_rng(0).standard_normal((50, 64)).astype(np.float32)
    whole, parts = QuantizedStore(tmp_path / "a"), QuantizedStore(tmp_path / "b")
    for store in (whole, parts):
        store.folder.mkdir()
        store.quantize("x", weight, W8)
        monkeypatch.setattr("exporter.quantizing._BLOCK_ELEMENTS", 7 * 64)
    expected = quantize(rotated(weight, 16), W8)
    for store in (whole, parts):
        assert (store.load("x").values == expected.values).all()


def test_a_weight_that_is_not_finite_is_named_as_it_stands_in_the_model(tmp_path):
    weight = np.zeros((4, 64), np.float32)
    weight[2, 37] = np.nan
    with pytest.raises(ValueError, match=r"^weight\[2, 37\] is nan$"):
        QuantizedStore(tmp_path).quantize("x", weight, W8)
    with pytest.raises(ValueError, match=r"^weight\[2, 37\] is nan$"):
        chosen(weight, W4, Seen.of(np.eye(64), W4.rotate))


def test_an_outlier_no_longer_takes_the_scale_for_itself():
    """One channel of 64 a hundred times as large: rounding to int8 costs some hundred times less."""
    x = torch.randn(100, 64, generator=torch.Generator().manual_seed(0))
    x[:, 5] *= 100
    others = torch.arange(64) != 5
    plain = (fake_quantize_activations(x) - x)[:, others].square().mean()
    turned = (rotate(fake_quantize_activations(rotate(x, 64)), 64) - x)[:, others].square().mean()
    assert plain / turned > 10


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A decoder in both runtimes."""
    torch.manual_seed(0)
    skeleton = MemorySkeleton(llama(), lambda name: W8 if "down" in name or "embed" in name else W4)
    found = {}
    for name in BACKENDS:
        found[name] = tmp_path_factory.mktemp(name)
        get_backend(name).lower(skeleton, Target(name, max_context=64), found[name], lambda what, share: None)
    return skeleton, found


def logits_of(model):
    with torch.no_grad():
        return model(torch.tensor([TOKENS])).logits[0].numpy()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_decoder_is_the_reference_in_both_runtimes(backend, folders):
    skeleton, written = folders
    expected = logits_of(dequantized_model(skeleton, quantize_activations=True))
    unrounded = logits_of(dequantized_model(skeleton, quantize_activations=False))
    runner = get_backend(backend).open_text(written[backend])
    found = np.concatenate([runner.forward([token]) for token in TOKENS])
    noise = np.sqrt(np.mean((expected - unrounded) ** 2))  # of all that rounding activations does
    assert np.sqrt(np.mean((found - expected) ** 2)) <= 2 * noise  # ONNX Runtime rounds by blocks
    assert np.allclose(unrounded, logits_of(skeleton.dequantized()), atol=1e-4)
    packed = get_backend(backend).read_back(written[backend])
    assert all((packed[name].values == tensor.values).all() for name, tensor in skeleton.integers().items())


def test_layers_of_one_input_share_one_rotation(folders):
    """Four for each of two blocks, and one for the table and the output layer each."""
    graph = onnx.load(folders[1]["onnxruntime"] / "model.onnx", load_external_data=False).graph
    kinds = [node.op_type for node in graph.node]
    assert (kinds.count("MatMul"), kinds.count("Concat")) == (10, 1)
    matrices = [held.name for held in graph.initializer if list(held.dims) in ([16, 16], [32, 32])]
    assert len(matrices) == 2


def test_a_decoder_stays_in_as_few_delegates(folders, tmp_path):
    skeleton = MemorySkeleton(llama(), lambda name: replace(W8, rotate=None))
    facts = get_backend("executorch").lower(
        skeleton, Target("executorch", max_context=64), tmp_path, lambda what, share: None
    )
    turned = get_backend("executorch").lower(
        folders[0], Target("executorch", max_context=64), tmp_path, lambda what, share: None
    )
    assert turned["delegates"] == facts["delegates"]
    assert turned["operators"] == facts["operators"]


def test_a_rotation_may_be_met_first_while_a_model_is_traced():
    """As in a job whose method needs no calibration, in a process that has rotated nothing yet."""
    program = (
        "import torch\n"
        "from exporter.models.exporting import export\n"
        "from exporter.models.rotating import rotate\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, x): return rotate(x, 32)\n"
        "x = torch.randn(2, 3, 64)\n"
        "found = export(Net(), (x,)).module()(x)\n"
        "assert torch.allclose(rotate(found, 32), x, atol=1e-5)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.layer = torch.nn.Embedding(40, 64), torch.nn.Linear(64, 48)

    def forward(self, tokens):
        return self.layer(self.table(tokens))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("activations", ["float", "dynamic-int8"])
def test_a_module_of_a_table_and_a_layer(backend, activations, tmp_path):
    torch.manual_seed(0)
    tokens = torch.tensor([[1, 7, 39]])
    scheme = replace(W8, activations=activations)
    skeleton = MemorySkeleton(Net(), lambda name: scheme, "module", (tokens,))
    get_backend(backend).lower(skeleton, Target(backend), tmp_path, lambda what, share: None)
    (found,) = get_backend(backend).open_module(tmp_path).run([tokens.numpy()])
    rows = own_rows(skeleton.layers["table"].load(), slice(None))[tokens]
    weight = torch.from_numpy(skeleton.layers["layer"].load().dequantized())
    taken = rotate(rows, 16)
    # ONNX Runtime rounds each block of 64 symmetrically, XNNPACK each token: either is within one step of float
    expected = torch.nn.functional.linear(taken, weight, skeleton.layers["layer"].bias).detach().numpy()
    step = 0.0 if activations == "float" else float(taken.abs().max()) * 2 / 255
    most = step * weight.abs().sum(dim=1).numpy() + 1e-5 * np.abs(expected).max()
    assert (np.abs(found - expected) <= most).all()


HEAD = """\
schema: 1
name: demo
model: {source: some/folder, task: text-generation}
schemes:
  w8: {weights: int8, activations: dynamic-int8, rotate: 64}
rules: [{match: "**", scheme: w8}]
targets: [{backend: executorch}]
"""


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        (
            "{weights: int8, rotate: 48}",
            "r.yaml:5:31: schemes.w8.rotate is number 48; allowed: 16, 32, 64, 128",
        ),
        (
            "{weights: float, rotate: 64}",
            "r.yaml:5:7: schemes.w8: only integer weights with float or dynamic-int8 activations are rotated",
        ),
        (
            "{weights: int8, activations: static-int8, rotate: 64}",
            "r.yaml:5:7: schemes.w8: only integer weights with float or dynamic-int8 activations are rotated",
        ),
    ],
)
def test_what_is_not_rotated(scheme, message):
    text = HEAD.replace("{weights: int8, activations: dynamic-int8, rotate: 64}", scheme)
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text.encode(), "r.yaml")
    assert str(caught.value) == message


def test_a_rotation_that_does_not_divide_a_row():
    from exporter.layers import ModelLayers

    recipe = parse_recipe(HEAD.encode(), "r.yaml")
    model = ModelLayers(
        (LayerInfo("a", "linear", (8, 96)), LayerInfo("b", "linear", (8, 128))), 0, "two layers"
    )
    with pytest.raises(RecipeError) as caught:
        make_plan(recipe, model, {"executorch": get_backend("executorch")})
    assert str(caught.value) == (
        "r.yaml:5:7: rotate 64 of scheme w8 does not divide the 96 input features of a; allowed: 16, 32"
    )
