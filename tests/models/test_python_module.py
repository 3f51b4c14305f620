"""A torch.nn.Module out of the user's own file: the whole job on it, and what can be wrong with it."""

import json
import textwrap

import numpy as np
import pytest
from tiny_jobs import BOTH, importable, write_recipe

from exporter.backends import get_backend
from exporter.models.loading import open_model
from exporter.numerics import quantize
from exporter.pipeline import plan_recipe
from exporter.recipe import load_recipe

NETS = """\
import torch

class Mlp(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.up = torch.nn.Linear(64, 96)
        self.down = torch.nn.Linear(96, 32)

    def forward(self, x):
        return self.down(torch.relu(self.up(x)))

class Branches(Mlp):
    def forward(self, x):
        return self.up(x) if x.sum() > 0 else -self.up(x)

def mlp():
    torch.manual_seed(0)
    return Mlp(), (torch.randn(8, 64),)

def branches():
    torch.manual_seed(0)
    return Branches(), torch.randn(8, 64)

def fails():
    raise FileNotFoundError("weights.pt is not here\\nsecond line")

def nothing():
    return None

number = 3
"""
PARITY = "{lowering: {max_rel: 0.001}}"
RULES = '  - {match: "up", scheme: w4}\n  - {match: "down", scheme: w8}\n'


@pytest.fixture
def place(tmp_path, monkeypatch):
    name = importable(tmp_path, monkeypatch, NETS)
    return tmp_path, name


def module_recipe(folder, source, targets=BOTH):
    return write_recipe(folder, source, task="module", rules=RULES, parity=PARITY, targets=targets)


def test_the_whole_job(place, qexport):
    folder, name = place
    recipe = module_recipe(folder, f"python:{name}:mlp")
    done = qexport("--recipe", recipe, "--out", folder / "out")
    assert done.code == 0, done.err
    assert "PASSED: every limit held" in done.out

    found = json.loads(qexport("inspect", folder / "out", "--json").out)
    ort, executorch = (
        {layer: {key: entry[key] for key in ("bits", "group", "integers", "scales")} for layer, entry in part.items()}
        for part in (found["onnxruntime"]["layers"], found["executorch"]["layers"])
    )  # fmt: skip
    assert ort == executorch
    assert {layer: entry["bits"] for layer, entry in ort.items()} == {"up": 4, "down": 8}

    model, plan = plan_recipe(load_recipe(recipe))
    golden = json.loads((folder / "out" / "golden" / "vectors.json").read_text())
    x = np.array(golden["inputs"][0], np.float32)
    for runtime in ("onnxruntime", "executorch"):
        packed = get_backend(runtime).read_back(folder / "out" / runtime)
        for layer in plan.layers:
            assert np.array_equal(
                packed[layer.name].values, quantize(model.weight(layer.info), layer.scheme).values
            )
        (out,) = get_backend(runtime).open_module(folder / "out" / runtime).run([x])
        assert np.array_equal(out, np.array(golden["outputs"][runtime][0], np.float32))

    again = qexport("verify", folder / "out", "--json")
    assert again.code == 0 and json.loads(again.out)["passed"]


@pytest.mark.parametrize("runtime", ["onnxruntime", "executorch"])
def test_torch_export_refuses_it(place, qexport, runtime):
    folder, name = place
    source = f"python:{name}:branches"
    recipe = module_recipe(folder, source, targets=f"[{{backend: {runtime}}}]")
    before = sorted(folder.iterdir())
    done = qexport("--recipe", recipe, "--out", folder / "out")
    assert done.code == 2 and done.out == ""
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert done.err.endswith(line + "\n")
    assert line.startswith(f"error: model '{source}', {runtime}: torch.export refused the model: ")
    assert "data-dependent" in line
    assert line.endswith(
        " (--debug shows where); its forward must not depend on the values of its inputs: take out the branch or loop "
        "that asks for them"
    )
    assert sorted(path for path in folder.iterdir() if path.name != "__pycache__") == [
        path for path in before if path.name != "__pycache__"
    ]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("mlpp", "module {name} has no function 'mlpp'; it has: branches, fails, mlp, nothing"),
        ("number", "module {name} has no function 'number'; it has: branches, fails, mlp, nothing"),
        (
            "fails",
            "the function failed, FileNotFoundError: weights.pt is not here; it is called without arguments. "
            "--debug shows where",
        ),
        (
            "nothing",
            "returned NoneType; it must return (torch.nn.Module, example_inputs) or "
            "(torch.nn.Module, example_inputs, dynamic_shapes)",
        ),
    ],
)
def test_the_function_is_not_what_it_should_be(place, qexport, function, message):
    folder, name = place
    source = f"python:{name}:{function}"
    done = qexport("plan", "--recipe", module_recipe(folder, source))
    assert done == (2, "", f"error: {source}: {message.format(name=name)}\n")


def test_the_module_is_not_there(place, qexport):
    folder, _ = place
    done = qexport("plan", "--recipe", module_recipe(folder, "python:no_such_net:mlp"))
    assert done == (
        2,
        "",
        f"error: python:no_such_net:mlp: no module 'no_such_net' in {folder} or the environment; "
        "run qexport in the folder that holds it, or install it\n",
    )


def test_the_module_does_not_import(place, qexport):
    folder, name = place
    (folder / f"broken_{name}.py").write_text("import torch\nx = torch.nn.Linear(3)\n")
    source = f"python:broken_{name}:mlp"
    done = qexport("plan", "--recipe", module_recipe(folder, source))
    assert done == (
        2,
        "",
        f"error: {source}: importing broken_{name} failed, TypeError: Linear.__init__() missing 1 required "
        "positional argument: 'out_features'; --debug shows where\n",
    )


def test_a_source_without_a_function(place, qexport):
    folder, name = place
    done = qexport("plan", "--recipe", module_recipe(folder, f"python:{name}"))
    assert done.code == 2
    assert done.err == (
        f"error: model source 'python:{name}': write python:module:function, e.g. python:my_app.net:build\n"
    )


def test_a_computed_weight_is_named(place, qexport):
    folder, name = place
    (folder / f"normed_{name}.py").write_text(
        textwrap.dedent("""\
            import torch

            def build():
                net = torch.nn.Sequential(torch.nn.Linear(64, 32))
                torch.nn.utils.parametrizations.weight_norm(net[0])
                return net, torch.zeros(1, 64)
        """)
    )
    done = qexport("plan", "--recipe", module_recipe(folder, f"python:normed_{name}:build"))
    assert done == (
        2, "", "error: layer 0: its weight is computed (parametrised), not stored; remove that first\n"
    )  # fmt: skip


def test_tasks_and_sources_go_together(tmp_path, tiny_checkpoint, qexport):
    for source, task, message in (
        ("python:a:b", "text-generation", "source 'python:a:b' is a Python function, which goes with "
         "`task: module`, not 'text-generation'"),
        (str(tiny_checkpoint), "module", "task 'module' goes with a source python:module:function, not "
         f"'{tiny_checkpoint}'"),
    ):  # fmt: skip
        recipe = write_recipe(tmp_path, source, task=task)
        assert qexport("plan", "--recipe", recipe) == (2, "", f"error: {message}\n")


def test_its_identity_follows_the_weights(place):
    folder, name = place
    source = f"python:{name}:mlp"
    first, second = (open_model(source, "module", folder) for _ in range(2))
    assert first.identity() == second.identity()
    second.built[0].up.weight[0, 0] += 1
    assert first.identity() != second.identity()
    before, file = second.identity(), folder / f"{name}.py"
    file.write_text(file.read_text() + "# computes something else\n")
    assert second.identity() != before
