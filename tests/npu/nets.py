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
        return x

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


def entries_recipe(
    folder: Path, monkeypatch: Any, activations: str, targets: str, widths: tuple[str, ...] = ("int8", "int4")
) -> Path:
    """A recipe in which every entry of a table has its layer."""
    name = importable(folder, monkeypatch, ENTRIES.replace('("int8", "int4")', repr(widths)))
    path = folder / "r.yaml"
    kept = [line for line in RULES.splitlines(True) if any(f"_{width}_" in line for width in widths)]
    rules = (
        "".join(kept) + '  - {match: table, scheme: int8_tensor}\n  - {match: "**", scheme: int8_channel}\n'
    )
    path.write_text(
        f"schema: 1\nname: entries\nmodel: {{source: 'python:{name}:build', task: module}}\n"
        f"schemes:\n{SCHEMES.replace('ACTIVATIONS', activations)}rules:\n{rules}"
        f"calibration: {{python: '{name}:samples', samples: 8}}\ntargets: [{targets}]\n"
    )
    return path
