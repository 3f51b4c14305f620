"""A root mean square norm of values whose squares are beyond float16, on Qualcomm's HTP."""

import onnx
import pytest
from tiny_jobs import importable

from exporter.artifacts import read_manifest
from exporter.backends.npu.qnn import GRAPHS

NET = """\
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(64, 64)
        self.norm = torch.nn.RMSNorm(64, eps=1e-5)
        self.last = torch.nn.Linear(64, 32)

    def forward(self, x):
        return self.last(self.norm(self.first(x)))

def build():
    torch.manual_seed(0)
    return Net().eval(), (2000 * torch.randn(1, 4, 64),)

def samples():
    generator = torch.Generator().manual_seed(1)
    for _ in range(8):
        yield (2000 * torch.randn(1, 4, 64, generator=generator),)
"""
TARGETS = (
    "{backend: onnxruntime, ep: qnn, soc: SM8750}, {backend: executorch, delegate: qualcomm, soc: SM8750}"
)
_LEAST_DB = 60.0  # three operators of 16-bit codes; with float16 inside there is nothing left


@pytest.mark.npu
def test_large_values_keep_their_squares(tmp_path, monkeypatch, qexport):
    name = importable(tmp_path, monkeypatch, NET)
    path = tmp_path / "r.yaml"
    path.write_text(
        f"schema: 1\nname: norm\nmodel: {{source: 'python:{name}:build', task: module}}\n"
        "schemes:\n  a16w8: {weights: int8, group: channel, activations: static-int16}\n"
        'rules:\n  - {match: "**", scheme: a16w8}\n'
        f"calibration: {{python: '{name}:samples', samples: 8}}\ntargets: [{TARGETS}]\n"
    )
    out = tmp_path / "out"
    done = qexport("--recipe", path, "--out", out)
    assert done.code == 0, done.err
    graph = onnx.load(out / "onnxruntime-qnn" / GRAPHS["forward"]).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("SimplifiedLayerNormalization") == 1
    assert "Pow" not in kinds
    rungs = read_manifest(out)["summary"]["parity"]["rungs"]
    lowered = [rung["result"]["sqnr_db"] for rung in rungs if rung["kind"] == "lowering"]
    assert len(lowered) == 2
    assert min(lowered) > _LEAST_DB
