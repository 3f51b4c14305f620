"""Modules that hold one layer for every entry of a capability table, and recipes for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny_jobs import importable

ENTRIES = """\
import torch

class Net(torch.nn.Module):
    def __init__(self, tables):
        super().__init__()
        def conv(**more):
            return torch.nn.Conv2d(32, 32, 3, padding=1, **more)
        for weights in ("int8", "int4"):
            for group in ("channel", "tensor"):
                setattr(self, f"conv_{weights}_{group}", conv())
                setattr(self, f"linear_{weights}_{group}", torch.nn.Linear(32, 32))
        self.wide = torch.nn.Linear(32, 256)
        self.block_32 = torch.nn.Linear(256, 256, bias=False)
        self.block_64 = torch.nn.Linear(256, 256)
        self.block_128 = torch.nn.Linear(256, 32)
        self.depthwise = conv(groups=32)
        self.table = torch.nn.Embedding(64, 32)
        self.norm = torch.nn.LayerNorm(32)

    def forward(self, picture, ids):
        x = picture
        for weights in ("int8", "int4"):
            for group in ("channel", "tensor"):
                x = torch.relu(getattr(self, f"conv_{weights}_{group}")(x))
        x = torch.nn.functional.relu6(self.depthwise(x)).mean((2, 3))
        words = self.table(ids)[:, 0] * 0.5
        x = self.norm(x + words)
        for weights in ("int8", "int4"):
            for group in ("channel", "tensor"):
                x = x + torch.nn.functional.gelu(getattr(self, f"linear_{weights}_{group}")(x))
        rows = torch.relu(self.block_64(self.block_32(self.wide(x))))
        return x + self.block_128(rows)

def build():
    torch.manual_seed(0)
    return Net(1).eval(), (torch.randn(1, 32, 8, 8), torch.tensor([[5, 7]], dtype=torch.int32))

def samples():
    generator = torch.Generator().manual_seed(1)
    for _ in range(8):
        yield (
            torch.randn(1, 32, 8, 8, generator=generator),
            torch.randint(0, 64, (1, 2), generator=generator, dtype=torch.int32),
        )
"""
OPERATORS = """\
import torch
F = torch.nn.functional

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(8, 8, 3, padding=1)
        self.line = torch.nn.Conv1d(8, 8, 3, padding=1)
        self.head = torch.nn.Linear(8, 8)
        self.rms = torch.nn.RMSNorm(8)

    def forward(self, x):
        x = F.hardswish(self.conv(F.pad(x, (1, 0, 1, 0))))
        x = F.max_pool2d(x, 2)
        x = F.avg_pool2d(x, 2)
        rows = x.flatten(2)
        rows = torch.tanh(self.line(rows)).permute(0, 2, 1)
        a, b = self.head(rows).split(4, dim=-1)
        rows = torch.cat([torch.sigmoid(a), F.silu(b)], dim=-1)
        rows = self.rms(rows - rows.mean(-1, keepdim=True))
        scores = torch.softmax(torch.bmm(rows, rows.transpose(1, 2)) * 0.5, dim=-1)
        rows = torch.bmm(scores, rows)
        rows = rows / torch.sqrt((rows * rows).sum(-1, keepdim=True) + 1.0)
        rows = torch.neg(rows).clamp(min=-0.5, max=0.5) + torch.exp(-torch.abs(rows))
        return rows[:, 1:, :].unsqueeze(1).expand(1, 2, rows.shape[1] - 1, 8).squeeze(0)

def build():
    torch.manual_seed(0)
    return Net().eval(), (torch.randn(1, 8, 16, 16),)

def samples():
    g = torch.Generator().manual_seed(1)
    for _ in range(8):
        yield (torch.randn(1, 8, 16, 16, generator=g),)
"""
SCHEMES = "".join(
    f"  {weights}_{group}: {{weights: {weights}, group: {group}, activations: ACTIVATIONS}}\n"
    for weights in ("int8", "int4")
    for group in ("channel", "tensor")
)
RULES = "".join(
    f'  - {{match: "{{conv,linear}}_{weights}_{group}", scheme: {weights}_{group}}}\n'
    for weights in ("int8", "int4")
    for group in ("channel", "tensor")
)


def module_recipe(folder: Path, monkeypatch: Any, net: str, schemes: str, rules: str, targets: str) -> Path:
    """A recipe of a module of one's own: `net` has build() and samples(), the rest is the recipe's own lines."""
    name = importable(folder, monkeypatch, net)
    path = folder / "r.yaml"
    path.write_text(
        f"schema: 1\nname: net\nmodel: {{source: 'python:{name}:build', task: module}}\n"
        f"schemes:\n{schemes}rules:\n{rules}"
        f"calibration: {{python: '{name}:samples', samples: 8}}\ntargets: [{targets}]\n"
    )
    return path


def entries_recipe(folder: Path, monkeypatch: Any, activations: str, targets: str) -> Path:
    """A recipe in which every entry of a table has its layer."""
    blocks = (32, 64, 128) if activations == "static-int16" else ()
    schemes = SCHEMES + "".join(
        f"  int4_{block}: {{weights: int4, group: {block}, activations: ACTIVATIONS}}\n" for block in blocks
    )
    rules = RULES + "".join(f"  - {{match: block_{block}, scheme: int4_{block}}}\n" for block in blocks)
    rules += '  - {match: table, scheme: int8_tensor}\n  - {match: "**", scheme: int8_channel}\n'
    schemes = schemes.replace("ACTIVATIONS", activations)
    return module_recipe(folder, monkeypatch, ENTRIES, schemes, rules, targets)


def operators_recipe(folder: Path, monkeypatch: Any, activations: str, targets: str) -> Path:
    """A recipe of a module in which every operator of exporter.backends.npu.capabilities.OPERATORS is used."""
    schemes = f"  w8: {{weights: int8, group: channel, activations: {activations}}}\n"
    rules = "  - {match: '**', scheme: w8}\n"
    return module_recipe(folder, monkeypatch, OPERATORS, schemes, rules, targets)
