"""What a recipe for an NPU is refused for, before any work: whole messages."""

from __future__ import annotations

import pytest
from tiny_jobs import importable, write_recipe

from exporter.backends.npu import vendor
from exporter.backends.npu.capabilities import unsupported
from exporter.layers import LayerInfo
from exporter.schemes import QuantScheme
from exporter.targets import Target

NET = """\
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 3)
        self.head = torch.nn.Linear(8, 4)

    def forward(self, x):
        return self.head(torch.relu(self.stem(x)).mean((2, 3)))

def build():
    return Net(), (torch.randn(1, 3, 16, 16),)
"""
W8 = "  w8: {weights: int8, group: channel, activations: static-int16}\n"
EVERY = '  - {match: "**", scheme: w8}\n'


@pytest.fixture
def plan(tmp_path, monkeypatch, qexport):
    """plan(targets, schemes, rules) -> what `qexport plan` says on stderr, with exit code 2."""
    name = importable(tmp_path, monkeypatch, NET)

    def run(targets: str, schemes: str = W8, rules: str = EVERY) -> str:
        path = write_recipe(
            tmp_path, f"python:{name}:build", task="module", rules=rules, targets=targets, parity="{}"
        )
        text = path.read_text()
        start, end = text.index("schemes:"), text.index("rules:")
        path.write_text(text[:start] + "schemes:\n" + schemes + text[end:])
        done = qexport("plan", "--recipe", path)
        assert done.code == 2
        return done.err.replace(f"{path}:", "").replace(str(path), "r.yaml")

    return run


def test_an_unknown_chip(plan):
    found = plan("[{backend: onnxruntime, ep: qnn, soc: SM8570}]")
    assert "targets[0].soc is text 'SM8570'; allowed: SM8350, SM8450" in found
    assert "did you mean 'SM8" in found


def test_a_chip_is_asked_for(plan):
    assert "targets[0]: qnn compiles for one chip; set soc: to one of SM8350" in plan(
        "[{backend: onnxruntime, ep: qnn}]"
    )
    assert "targets[0]: ethos-u compiles for one configuration; set variant: to one of ethos-u85-128" in plan(
        "[{backend: executorch, delegate: ethos-u}]"
    )


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("{backend: executorch, delegate: mediatek}", "its compiler is no public package"),
        ("{backend: executorch, delegate: samsung}", "its compiler is no public package"),
        ("{backend: executorch, delegate: nxp}", "its compiler is no public package"),
        ("{backend: onnxruntime, ep: nnapi}", "Android 15 deprecates NNAPI"),
        ("{backend: executorch, delegate: vulkan}", "no driver here runs its programs"),
        ("{backend: executorch, delegate: coreml}", "Core ML runs on Apple's systems alone"),
    ],
)
def test_what_is_not_built_says_why_and_what_to_use(plan, target, reason):
    found = plan(f"[{target}]")
    assert "is not built: " + reason in found
    assert "use " in found


def test_four_bits_on_an_old_chip(plan):
    found = plan("[{backend: onnxruntime, ep: qnn, soc: SM8350}]", W8.replace("int8,", "int4,"))
    assert (
        "onnxruntime/qnn for SM8350, for every layer: int4 weights need a Hexagon Tensor Processor v73 or newer, and "
        "SM8350 (Snapdragon 888) has v68; set weights: int8, or a soc of SM8550, SM8650, SM8750, SM8845, SM8850, "
    ) in found


def test_a_group_that_no_npu_takes(plan):
    found = plan("[{backend: executorch, delegate: tosa}]", W8.replace("group: channel", "group: 16"),
        '  - {match: head, scheme: w8}\n  - {match: stem, scheme: float}\n')  # fmt: skip
    assert "group 16" in found


@pytest.mark.parametrize(
    ("group", "inputs", "outputs", "soc", "reason"),
    [
        (
            *(16, 512, 4, "SM8750"),
            "group 16 is not among what linear layers take there; allowed: 128, 32, 64, channel, tensor",
        ),
        (
            *(32, 512, 1, "SM8750"),
            "QNN's compiler takes no blocks of a layer with one output; set group: channel",
        ),
        (
            *(32, 512, 4, "SM8450"),
            "int4 weights need a Hexagon Tensor Processor v73 or newer, and SM8450 (Snapdragon 8 Gen 1) has v69; "
            "set weights: int8 and group: channel, or a soc of SM8550, ",
        ),
    ],
    ids=["16", "one output", "an old chip"],
)
@pytest.mark.parametrize("target", ["onnxruntime, ep: qnn", "executorch, delegate: qualcomm"])
def test_blocks_that_are_not_exact(target, group, inputs, outputs, soc, reason):
    scheme = QuantScheme("b", "int4", group, activations="static-int16")
    kind = {"ep": "qnn"} if "qnn" in target else {"delegate": "qualcomm"}
    layer = LayerInfo("head", "linear", (outputs, inputs), None)
    found = unsupported(layer, scheme, Target(target.partition(",")[0], soc=(soc,), **kind))
    assert found is not None and found.startswith(reason)


def test_layers_that_stay_float_or_round_as_they_run(plan):
    found = plan(
        "[{backend: executorch, delegate: tosa}]",
        rules='  - {match: head, scheme: float}\n  - {match: "**", scheme: w8}\n',
    )
    assert (
        "cannot run head as float: an NPU computes in integers: a layer in float would run on the CPU"
        in found
    )
    found = plan("[{backend: executorch, delegate: tosa}]", W8.replace("static-int16", "dynamic-int8"))
    assert (
        "activations dynamic-int8: an NPU takes ranges that were measured beforehand; set activations: static-int16 or "
        "static-int8"
    ) in found


@pytest.mark.parametrize(
    "target", ["{backend: onnxruntime, ep: qnn, soc: SM8750}", "{backend: executorch, delegate: tosa}"]
)
def test_an_operator_that_no_npu_has(tmp_path, monkeypatch, plan, target):
    (path,) = tmp_path.glob("nets_*.py")
    path.write_text(NET.replace("self.head(", "self.head(torch.cumsum(").replace("(2, 3)))", "(2, 3)), 1))"))
    found = plan(f"[{target}]", W8.replace("static-int16", "static-int8"))
    maker = "Arm's" if "tosa" in target else "Qualcomm's"
    assert (
        f"error: operator cumsum: is not among those that were proven on {maker} NPUs, and the CPU may not run it"
        in found
    )
    assert found.rstrip().endswith("Write the module with these, or take the CPU's targets")


def test_convolutions_and_int4_beside_16_bits_on_tosa(plan):
    found = plan("[{backend: executorch, delegate: tosa}]", W8.replace("int8,", "int4,"))
    assert "activations static-int16 is not among what conv layers take there; allowed: static-int8" in found
    assert "weights int4 is not among what linear layers take there; allowed: int8" in found


def test_cpu_and_npu_are_two_recipes(plan):
    found = plan("[{backend: onnxruntime}, {backend: executorch, delegate: tosa}]")
    assert (
        "executorch-tosa and onnxruntime in one recipe: a CPU computes in float between its integers" in found
    )


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (
            "[{backend: executorch, delegate: tosa, prefill: 4}]",
            "targets[0]: prefill is built for qnn and qualcomm, and tosa is given; leave prefill out",
        ),
        (
            "[{backend: onnxruntime, ep: qnn, soc: SM8750, length: 16, prefill: 32}]",
            "targets[0]: prefill 32 is beyond length 16, the past that its tokens become; set prefill: 16 or less",
        ),
        (
            "[{backend: onnxruntime, ep: qnn, soc: SM8750, prefill: 1}]",
            "targets[0].prefill is number 1; expected a whole number from 2 to 4096",
        ),
        (
            "[{backend: onnxruntime, ep: qnn, soc: SM8750, prefill: 4}, "
            "{backend: executorch, delegate: qualcomm, soc: SM8750}]",
            "targets: prefill 4 and none in one recipe: its NPU targets are given one program of fixed shapes; set the "
            "same prefill in all",
        ),
        (
            "[{backend: onnxruntime, ep: qnn, soc: SM8750, prefill: 4}]",
            "onnxruntime-qnn: prefill 4 is for language models, and the task is module; leave prefill out",
        ),
    ],
)
def test_a_prompt_program_that_cannot_be(plan, targets, message):
    assert message in plan(targets)


def test_a_package_that_is_not_there_or_another_version(monkeypatch):
    def absent(name: str) -> str:
        raise vendor.PackageNotFoundError(name)

    monkeypatch.setattr(vendor, "version", absent)
    assert vendor.missing("onnxruntime-qnn") == (
        "onnxruntime-qnn is not installed; pip install 'qexport[qnn]'"
    )
    assert vendor.missing("executorch-tosa") == (
        "tosa-tools is not installed; pip install --no-deps tosa-tools==2026.5.0"
    )
    monkeypatch.setattr(vendor, "version", lambda name: "2.6.0")
    assert vendor.missing("executorch-qualcomm") == (
        "onnxruntime-qnn 2.6.0 is installed, and 2.5.0 is the one that fits the pinned runtimes; pip install "
        "'qexport[qnn]'"
    )


def test_a_vendor_that_hangs_is_stopped_and_one_that_fails_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("QEXPORT_NPU_SECONDS", "0.001")  # less than Python takes to start, let alone to fail
    graphs = {"forward": str(tmp_path / "none.onnx")}
    arguments = {"graphs": graphs, "folder": str(tmp_path), "socs": ["SM8750"], "share": False}
    with pytest.raises(vendor.LoweringError, match=r"^compiling: not done after 0 s and stopped; "):
        vendor.work("qnn-compile", arguments, "compiling")
    monkeypatch.setenv("QEXPORT_NPU_SECONDS", "60")
    with pytest.raises(
        vendor.LoweringError, match=r"ended with code 1, its last error: .*Its log: "
    ) as caught:
        vendor.work(
            "qualcomm-compile",
            {"programs": {"forward": "none.pt2"}, "folder": ".", "socs": ["SM8750"], "share": False},
            "compiling",
        )
    log = str(caught.value).rpartition("Its log: ")[2]
    with open(log) as file:
        assert "none.pt2" in file.read()
