"""int4 weights in blocks on Qualcomm's HTP: the same codes in PyTorch and in both ways to the simulator."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from tiny_jobs import importable

from exporter.artifacts import read_manifest
from exporter.backends.npu.qdq import read_qdq
from exporter.backends.npu.qnn import GRAPHS

NET = """\
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(1024, 512)
        self.second = torch.nn.Linear(512, 96, bias=False)
        self.third = torch.nn.Linear(96, 10)

    def forward(self, x):
        return self.third(torch.relu(self.second(torch.relu(self.first(x)))))

def build():
    torch.manual_seed(0)
    return Net().eval(), (torch.randn(1, 16, 1024),)

def samples():
    generator = torch.Generator().manual_seed(1)
    for _ in range(8):
        yield (torch.randn(1, 16, 1024, generator=generator),)
"""
TARGETS = (
    "{backend: onnxruntime, ep: qnn, soc: SM8750}, {backend: executorch, delegate: qualcomm, soc: SM8750}"
)
_LEAST_DB = 65.0  # three layers of 16-bit codes; with float16 inside, or a lost bias, there are fewer


@pytest.mark.npu
def test_both_ways_compute_the_codes_and_hold_packed_weights(tmp_path, monkeypatch, qexport):
    name = importable(tmp_path, monkeypatch, NET)
    path = tmp_path / "r.yaml"
    path.write_text(
        f"schema: 1\nname: blocks\nmodel: {{source: 'python:{name}:build', task: module}}\n"
        "schemes:\n"
        "  b128: {weights: int4, group: 128, activations: static-int16}\n"
        "  b32: {weights: int4, group: 32, activations: static-int16, method: gptq}\n"
        "  row: {weights: int8, group: channel, activations: static-int16}\n"
        "rules:\n  - {match: first, scheme: b128}\n  - {match: second, scheme: b32}\n  - {match: third, scheme: row}\n"
        f"calibration: {{python: '{name}:samples', samples: 8}}\ntargets: [{TARGETS}]\n"
    )
    out = tmp_path / "out"
    done = qexport("--recipe", path, "--out", out)
    assert done.code == 0, done.err
    summary = read_manifest(out)["summary"]
    lowered = [rung for rung in summary["parity"]["rungs"] if rung["kind"] == "lowering"]
    assert len(lowered) == 2
    assert all(rung["result"]["sqnr_db"] > _LEAST_DB for rung in lowered)

    forecast = summary["plan"]["targets"][0]["layer_bytes"]
    for facts in summary["targets"].values():
        assert facts["on_npu"] == "100 %"
        size = facts["compiled"]["SM8750"]["bytes"]
        assert forecast < size < 1.05 * forecast + 100_000  # commands, tables

    graph = out / "onnxruntime-qnn" / GRAPHS["forward"]
    kept = np.load(out / "integers.npz")
    found = read_qdq(graph)
    assert {layer: (held.bits, held.group) for layer, held in found.items()} == {
        "first": (4, 128), "second": (4, 32), "third": (8, "channel")
    }  # fmt: skip
    for layer, held in found.items():
        assert np.array_equal(held.values, kept[f"{layer}:values"])
        assert np.array_equal(held.scales, kept[f"{layer}:scales"])
    products = [node.op_type for node in onnx.load(graph).graph.node if node.op_type in ("MatMul", "Gemm")]
    assert sorted(products) == ["Gemm", "MatMul", "MatMul"]
