"""Static int8 through the command line: both files hold the plan's integers, and each runtime computes with them."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tiny_jobs import BOTH, importable, write_recipe

from exporter.backends import get_backend
from exporter.models.loading import open_model
from exporter.static.params import StaticPlan
from exporter.verify.integers import bias_difference, static_difference

NET = """\
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.pad = torch.nn.ZeroPad2d((0, 1, 0, 1))
        self.stem = torch.nn.Conv2d(3, 16, 3, stride=2, bias=False)
        self.norm = torch.nn.BatchNorm2d(16)
        self.act = torch.nn.ReLU6()
        self.deep = torch.nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.point = torch.nn.Conv2d(16, 16, 1)
        self.mixer = torch.nn.Conv2d(16, 32, 1)
        self.head = torch.nn.Linear(32, 10)

    def forward(self, x):
        x = self.act(self.norm(self.stem(self.pad(x))))
        x = self.act(self.point(self.act(self.deep(x)))) + x
        x = torch.nn.functional.max_pool2d(self.act(self.mixer(x)), 2)
        return self.head(torch.nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))

def build():
    torch.manual_seed(0)
    net = Net()
    net.norm.running_var.uniform_(0.5, 2)
    net.norm.weight.data[3] = 1e-9  # a channel that is all but switched off, its bias is not
    net.norm.bias.data.normal_()
    return net, (torch.randn(1, 3, 16, 16),)

def samples():
    generator = torch.Generator().manual_seed(1)
    for _ in range(40):
        yield (torch.randn(1, 3, 16, 16, generator=generator),)
"""
STATIC = "  s8: {weights: int8, group: channel, activations: static-int8}\n"
ALL = '  - {match: "**", scheme: s8}\n'
MIXED = '  - {match: "mixer", scheme: p4}\n  - {match: "**", scheme: s8}\n'
ARM = "[{backend: onnxruntime, abi: arm64-v8a}]"


@pytest.fixture
def place(tmp_path, monkeypatch):
    name = importable(tmp_path, monkeypatch, NET)
    return tmp_path, name


def static_recipe(folder, name, rules=ALL, targets=BOTH, schemes=STATIC):
    path = write_recipe(
        folder, f"python:{name}:build", task="module", rules=rules, targets=targets, parity="{}"
    )
    text = path.read_text().replace("schemes:\n", f"schemes:\n{schemes}")
    text = text.replace(", max_context: 256", "")
    path.write_text(text + f"calibration: {{python: '{name}:samples', samples: 40}}\n")
    return path


def optimised(path, folder, **entries):
    """Operators of the graph that ONNX Runtime runs, after its own fusions."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    for key, value in entries.items():
        options.add_session_config_entry(f"session.{key}", value)
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    model = onnx.load(folder / "optimised.onnx", load_external_data=False)
    return [node.op_type for node in model.graph.node]


def test_the_whole_job(place, qexport):
    folder, name = place
    done = qexport("--recipe", static_recipe(folder, name), "--out", folder / "out")
    assert done.code == 0, done.err
    plan = StaticPlan.from_json(json.loads((folder / "out" / "ranges.json").read_text()))
    files = {
        runtime: get_backend(runtime).read_back(folder / "out" / runtime)
        for runtime in ("onnxruntime", "executorch")
    }
    ort, executorch = files.values()
    assert set(ort) == set(executorch) == {"stem", "deep", "point", "mixer", "head"}
    for layer in ort:
        assert np.array_equal(ort[layer].values, executorch[layer].values)
        assert np.array_equal(ort[layer].scales, executorch[layer].scales)
    assert static_difference(ort, plan) is None and static_difference(executorch, plan) is None
    assert bias_difference(ort, executorch) is None
    assert ort["stem"].static.bias is not None and np.abs(ort["stem"].static.bias).max() < 2**23

    operators = optimised(
        folder / "out" / "onnxruntime" / "model.onnx", folder, qdqisint8allowed="1"
    )  # as on arm64
    assert operators.count("QLinearConv") == 4 and operators.count("QGemm") == 1
    assert operators.count("QLinearAdd") == 1
    assert not {"Conv", "Gemm", "MatMul", "Add", "Clip", "Relu", "Pad"} & set(operators)
    manifest = json.loads((folder / "out" / "manifest.json").read_text())["summary"]
    assert manifest["targets"]["executorch"]["operators"] == []  # nothing outside XNNPACK's delegate
    assert manifest["targets"]["onnxruntime"]["passes"]["integers"] == {"applied": 5, "left": 0, "why": []}
    assert manifest["model"]["batch_norms"] == {"folded": {"norm": "stem"}, "left": {}}

    again = qexport("verify", folder / "out", "--json")
    assert again.code == 0 and json.loads(again.out)["passed"]


def test_the_plan_shows_the_borders(place, qexport):
    folder, name = place
    done = qexport("plan", "--recipe", static_recipe(folder, name, MIXED, schemes=STATIC + POINTWISE))
    assert done.code == 0, done.err
    text = " ".join(done.out.split())
    assert "note: static: 4 layers" in text
    assert "note: border: act:hardtanh2 becomes float (1,024 values) at :add0" in text  # `mixer` takes float
    assert "note: border: head becomes float (10 values) at output" in text


POINTWISE = "  p4: {weights: int4, group: channel, activations: float}\n"


def test_a_weight_only_convolution_beside_static_ones(place, qexport):
    folder, name = place
    recipe = static_recipe(folder, name, MIXED, schemes=STATIC + POINTWISE)
    done = qexport("--recipe", recipe, "--out", folder / "out")
    assert done.code == 0, done.err
    files = [
        get_backend(runtime).read_back(folder / "out" / runtime) for runtime in ("onnxruntime", "executorch")
    ]
    assert [file["mixer"].bits for file in files] == [4, 4]
    assert np.array_equal(files[0]["mixer"].values, files[1]["mixer"].values)
    assert files[0]["mixer"].static is None and files[0]["head"].static is not None


def test_codes_from_zero_on_so_that_the_host_runs_the_phones_file_in_integers(place, qexport):
    folder, name = place
    done = qexport("--recipe", static_recipe(folder, name, targets=ARM), "--out", folder / "out")
    assert done.code == 0, done.err
    place_ = folder / "out" / "onnxruntime"
    operators = optimised(place_ / "model.onnx", folder)
    assert operators.count("QLinearConv") == 4 and "Conv" not in operators
    optimised(place_ / "model.onnx", folder, x64quantprecision="1")  # loads
    plan = StaticPlan.from_json(json.loads((folder / "out" / "ranges.json").read_text()))
    assert static_difference(get_backend("onnxruntime").read_back(place_), plan) is None


@pytest.mark.parametrize(
    ("scheme", "runtime", "reason"),
    [
        (
            "{weights: int8, activations: static-int16}",
            "onnxruntime",
            "ONNX Runtime's CPU has no integer kernel for 16-bit activations: the layer would run in float between "
            "conversions; set activations: static-int8",
        ),
        (
            "{weights: int8, activations: static-uint8}",
            "executorch",
            "XNNPACK is reached with signed 8-bit activations only, not static-uint8; set `activations: static-int8`",
        ),
        (
            "{weights: int4, activations: static-int8}",
            "executorch",
            "XNNPACK's qs8 kernels take 8-bit weights with a scale per channel or tensor; set `weights: int8` and "
            "`group: channel`, or `activations: float` for int4",
        ),
        (
            "{weights: int8, activations: static-int8, symmetric: false}",
            "onnxruntime",
            "integer convolutions take weights without zero points; set symmetric: true",
        ),
    ],
)
def test_what_a_runtime_has_no_kernel_for(place, qexport, scheme, runtime, reason):
    folder, name = place
    recipe = static_recipe(folder, name, targets=f"[{{backend: {runtime}}}]", schemes=f"  s8: {scheme}\n")
    done = qexport("plan", "--recipe", recipe)
    assert done.code == 2 and done.err.rstrip().endswith(f"for every layer: {reason}")


def test_single_layers_differ_by_one_code_at_most(place, qexport):
    """Requantisation: an int32 sum times a float32 factor, half to even; a sum of float products may fall on the other
    side of a half. With one layer between integers nothing amplifies it."""
    folder, name = place
    rules = '  - {match: "stem", scheme: s8}\n  - {match: "**", scheme: float}\n'
    (folder / f"{name}.py").write_text(
        NET.replace(
            "return self.head(torch.nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))", "return x"
        ).replace(
            "x = self.act(self.norm(self.stem(self.pad(x))))",
            "return self.act(self.norm(self.stem(self.pad(x))))",
        )
    )
    rules = '  - {match: "stem", scheme: s8}\n  - {match: "{deep,point,mixer,head}", scheme: float}\n'
    done = qexport("--recipe", static_recipe(folder, name, rules), "--out", folder / "out")
    assert done.code == 0, done.err
    plan = StaticPlan.from_json(json.loads((folder / "out" / "ranges.json").read_text()))
    params = plan.output_of("stem")
    model = open_model(f"python:{name}:build", "module", folder)
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(7))
    found = [
        get_backend(runtime).open_module(folder / "out" / runtime).run([x.numpy()])[0]
        for runtime in ("onnxruntime", "executorch")
    ]
    codes = [params.codes(array) for array in found]
    assert np.abs(codes[0] - codes[1]).max() <= 1
    with torch.no_grad():
        exact = model.float_model()(x).numpy()
    # Weights are off by half a step each (their steps are 2^-7 of a row's largest) and the output by half a step.
    assert np.abs(found[0] - exact).max() < 5 * params.scale
