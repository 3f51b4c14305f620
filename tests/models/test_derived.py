"""Layers whose class does more than the one it derives from: its own forward over replaced weights."""

import copy
from pathlib import Path

import pytest
import torch
from tiny_jobs import write_recipe
from tiny_models import gemma_checkpoint, qwen_checkpoint

from exporter.errors import PlanError
from exporter.models.causal_lm import CausalLM
from exporter.models.derived import combined, obstacle
from exporter.models.reference import dequantized_model
from exporter.models.sources import ModelFiles
from exporter.numerics import quantize
from exporter.quantizing import QuantizedStore, quantize_layers
from exporter.schemes import QuantScheme

SCHEMES = {
    "embedding": QuantScheme("w4", "int4", group=32, activations="dynamic-int8"),
    "linear": QuantScheme("w8", "int8", activations="dynamic-int8"),
}


class Gained(torch.nn.Linear):
    """A parameter, a buffer, a module and a plain attribute of its own."""

    def __init__(self, size_in: int, size_out: int) -> None:
        super().__init__(size_in, size_out)
        self.gain = torch.nn.Parameter(torch.full((size_out,), 2.0))
        self.shift = torch.nn.Buffer(torch.arange(size_out).float(), persistent=False)
        self.norm = torch.nn.LayerNorm(size_out)
        self.power = 2

    def forward(self, x):
        return self.norm(super().forward(x) * self.gain + self.shift) ** self.power


class GainedTwice(Gained):
    def forward(self, x):
        return super().forward(x) + self.weight.dtype.itemsize


class Doubled(torch.nn.Linear):
    def forward(self, x):
        return torch.nn.functional.linear(x, self.weight)


class Summed(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x) + self.weight.sum()


class Silent(torch.nn.Linear):
    def forward(self, x):
        return x


class Other(torch.nn.Module):
    """What a backend may put in: not derived from nn.Linear, no weight."""

    def __init__(self, original: torch.nn.Linear) -> None:
        super().__init__()
        self.table = torch.nn.Buffer(original.weight.detach().clone())

    def forward(self, x):
        return x @ self.table.T


def test_plain_layers_are_replaced_as_they_are():
    other = Other(torch.nn.Linear(4, 3))
    assert obstacle(torch.nn.Linear(4, 3)) is None
    assert combined(torch.nn.Linear(4, 3), other, "x") is other


@pytest.mark.parametrize("kind", [Gained, GainedTwice])
def test_the_forward_of_the_class_runs_over_the_replacement(kind):
    layer = kind(4, 3).eval()
    torch.nn.init.zeros_(layer.bias)  # Other has none
    assert obstacle(layer) is None
    with torch.device("meta"):
        assert obstacle(kind(4, 3)) is None
    result = combined(layer, Other(layer), "x")
    x = torch.randn(2, 5, 4)
    # @ and linear may add up in another order: a few roundings (float32: 6e-8) of numbers of size 1, which
    # normalising and squaring enlarge by no more than ten.
    torch.testing.assert_close(result(x), layer(x), rtol=1e-5, atol=1e-5)
    assert {name for name, _ in result.named_parameters()} == {"gain", "norm.weight", "norm.bias"}
    assert {name for name, _ in result.named_buffers()} == {"table", "shift"}
    assert set(result.state_dict()) == {"gain", "norm.weight", "norm.bias", "table"}  # shift is not saved
    assert isinstance(result, Other) and isinstance(result, kind)
    assert torch.equal(copy.deepcopy(result)(x), result(x))
    exported = torch.export.export(result, (x,)).module()
    assert torch.equal(exported(x), result(x))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (
            Doubled,
            "its forward fails without it: the class gives self.weight to linear() outside super().forward",
        ),
        (Summed, "its forward fails without it: the class uses self.weight.sum outside super().forward"),
        (Silent, "its forward does not call super().forward"),
    ],
)
def test_what_cannot_be_replaced_says_why(kind, reason):
    assert obstacle(kind(4, 4)) == (
        f"class {kind.__name__} does more than the nn.Linear it derives from, so that its weight cannot be "
        f"replaced ({reason}); set `scheme: float`"
    )


def test_a_weight_that_someone_else_reads_is_named():
    layer = Gained(4, 3)
    result = combined(layer, Other(layer), "model.head")
    assert (result.weight.shape, result.weight.dtype) == ((3, 4), torch.float32)
    with pytest.raises(
        PlanError, match=r"^model\.head gives self\.weight to linear\(\) outside super\(\)\.forward$"
    ):
        torch.nn.functional.linear(torch.zeros(1, 4), result.weight)


def test_two_of_the_same_name():
    layer = Gained(4, 3)
    other = Other(layer)
    other.power = 3
    with pytest.raises(PlanError) as error:
        combined(layer, other, "model.head")
    assert str(error.value) == (
        "layer model.head: Gained has power, names that its replacement needs; rename them, or set `scheme: float`"
    )


@pytest.mark.parametrize("make", [gemma_checkpoint, qwen_checkpoint])
def test_reference_equals_the_original_class_with_those_weights(make, tmp_path):
    """The same numbers; the products may come from another library, which sums in another order."""
    from transformers import AutoModelForCausalLM

    folder = make(tmp_path / "model")
    model = CausalLM(ModelFiles(str(folder), folder, None), tmp_path)
    layers = model.layers().layers
    schemes = {layer.name: SCHEMES[layer.kind] for layer in layers}
    for layer in layers:
        if layer.tied_to:
            schemes[layer.name] = schemes[layer.tied_to]
    store = QuantizedStore(tmp_path)
    quantize_layers(
        model, [(layer, schemes[layer.name]) for layer in layers], store, lambda what, share: None
    )
    built = dequantized_model(model.skeleton(schemes, store.load), quantize_activations=False)
    expected = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for layer in layers:
        if layer.tied_to is None:
            values = quantize(model.weight(layer), schemes[layer.name]).dequantized()
            expected.get_parameter(f"{layer.name}.weight").data = torch.from_numpy(values)
    tokens = torch.arange(2, 34).reshape(2, 16)  # twice the sliding window
    with torch.no_grad():
        found, wanted = built(tokens).logits, expected(tokens).logits
    # dot products of at most 128 float32 terms: as many roundings of the largest logit
    torch.testing.assert_close(found, wanted, rtol=0.0, atol=128 * 2.0**-24 * float(wanted.abs().max()))


def test_the_plan_refuses_it(tmp_path, monkeypatch, qexport):
    (tmp_path / "summed_net.py").write_text(
        "import torch\n\n"
        "class Summed(torch.nn.Linear):\n"
        "    def forward(self, x):\n"
        "        return super().forward(x) + self.weight.sum()\n\n"
        "def build():\n"
        "    return torch.nn.Sequential(Summed(64, 32), torch.nn.Linear(32, 32)), torch.zeros(1, 64)\n"
    )
    monkeypatch.chdir(tmp_path)
    recipe = write_recipe(
        tmp_path,
        "python:summed_net:build",
        task="module",
        rules='  - {match: "0", scheme: w8}\n  - {match: "**", scheme: w4}\n',
        targets="[{backend: onnxruntime}]",
        parity="{lowering: {max_rel: 0.001}}",
    )
    done = qexport("plan", "--recipe", recipe)
    assert done.code == 2
    assert (
        "cannot run 0 as w8 (int8 channel sym a8): class Summed does more than the nn.Linear it derives from, so "
        "that its weight cannot be replaced (its forward fails without it: the class uses self.weight.sum outside "
        "super().forward); set `scheme: float`"
    ) in " ".join(done.err.split())
    Path(recipe).write_text(recipe.read_text().replace("targets:", "on_unsupported: float\ntargets:"))
    done = qexport("plan", "--recipe", recipe)
    assert done.code == 0, done.err
