#!/usr/bin/env python3
"""The peer onnxruntime-genai: its model builder.

    python scripts/peers/genai_builder.py CHECKPOINT-FOLDER OUT-FOLDER --bits 4 --block 32
    python scripts/peers/genai_builder.py CHECKPOINT-FOLDER OUT-FOLDER --algorithm k_quant_mixed
    python scripts/peers/genai_builder.py CHECKPOINT-FOLDER OUT-FOLDER --bits 32       float, to check the conversion

Symmetric but for k_quant, which has zero points whatever it is told; activations in int8 (accuracy_level 4); the tied
table quantised once for both ends. k_quant_last keeps the output layer in 8 bits, k_quant_mixed some more layers.
Unknown options are ignored in silence, so the written graph is read back and must say the same.

Rotary bases by kind of layer stand in one nested dictionary since transformers 5; the builder reads the two
flat names of transformers 4 for models whose windowed layers have a base of their own, and gets them here.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FLOAT = 32
ALGORITHMS = ("default", "k_quant", "k_quant_last", "k_quant_mixed")  # algo_config of release 0.18
OUTPUT = "/lm_head/MatMul"


@dataclass(frozen=True)
class Quantised:
    """A node of the written graph."""

    kind: str
    name: str
    bits: int
    block: int
    accuracy: int


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--bits", type=int, choices=[4, 8, FLOAT], default=4)
    parser.add_argument("--block", type=int, default=32)
    parser.add_argument("--algorithm", choices=ALGORITHMS, default="default")
    arguments = parser.parse_args()
    precision = "fp32" if arguments.bits == FLOAT else f"int{arguments.bits}"
    command = ["builder", "-e", "cpu", "-i", arguments.checkpoint, "-o", arguments.out]
    command += ["-p", precision, "-c", arguments.out / ".cache"]
    if arguments.bits != FLOAT:
        command += ["--extra_options", *options(arguments.block, arguments.algorithm)]
    sys.argv = [str(word) for word in command]
    with flat_rotary_bases():
        runpy.run_module("onnxruntime_genai.models.builder", run_name="__main__")
    check(arguments.out / "model.onnx", arguments.bits, arguments.block, arguments.algorithm)


def check(path: Path, bits: int, block: int, algorithm: str = "default") -> None:
    """Print what the graph holds. Raises SystemExit where it is not what was asked for."""
    found = quantised_nodes(path)
    for (kind, *values), count in Counter((n.kind, n.bits, n.block, n.accuracy) for n in found).items():
        print(f"{count} {kind}: bits, block, accuracy level = {values}")
    if problem := why_wrong(found, bits, block, algorithm):
        raise SystemExit(f"{path}: {problem}")


def options(block: int, algorithm: str) -> list[str]:
    """The builder's --extra_options."""
    found = [f"block_size={block}", "accuracy_level=4", "is_symmetric=true"]
    found.append("op_types_to_quantize=MatMul/Gather")  # a table that is not tied would stay float
    return found + ([f"algo_config={algorithm}"] if algorithm != "default" else [])


@contextmanager
def flat_rotary_bases() -> Iterator[None]:
    """AutoConfig.from_pretrained names rotary bases as transformers 4 did."""
    from transformers import AutoConfig

    load = AutoConfig.from_pretrained

    def flattened(*arguments: Any, **options: Any) -> Any:
        config = load(*arguments, **options)
        bases = getattr(config, "rope_parameters", None) or {}
        if "full_attention" in bases:
            config.rope_local_base_freq = bases["sliding_attention"]["rope_theta"]
            config.rope_parameters = dict(bases["full_attention"])
        return config

    AutoConfig.from_pretrained = flattened
    try:
        yield
    finally:
        AutoConfig.from_pretrained = load


def quantised_nodes(path: Path) -> list[Quantised]:
    """Every MatMulNBits and GatherBlockQuantized."""
    import onnx

    found = []
    for node in onnx.load(path, load_external_data=False).graph.node:
        if node.op_type in ("MatMulNBits", "GatherBlockQuantized"):
            values = {a.name: a.i for a in node.attribute}
            accuracy = values.get("accuracy_level", 0) if node.op_type == "MatMulNBits" else 4
            bits, block = values.get("bits", 4), values["block_size"]
            found.append(Quantised(node.op_type, node.name, bits, block, accuracy))
    return found


def why_wrong(found: Sequence[Quantised], bits: int, block: int, algorithm: str) -> str | None:
    """What of the graph is not as it was asked for, or None."""
    if bits == FLOAT:
        return f"{len(found)} nodes are quantised, float was asked for" if found else None
    if not found:
        return "holds no quantised node"
    for node in found:
        if (node.block, node.accuracy) != (block, 4):
            return f"{node.name} has block, accuracy level {node.block, node.accuracy}, not {block, 4}"
    products = [node for node in found if node.kind == "MatMulNBits"]
    others = [node for node in products if node.bits != bits]
    heads = [node for node in others if node.name.startswith(OUTPUT)]
    if algorithm not in ("k_quant_last", "k_quant_mixed"):
        others += [node for node in found if node.kind != "MatMulNBits" and node.bits != bits]
        return f"{others[0].name} has {others[0].bits} bits, not {bits}" if others else None
    if [node.bits for node in heads] != [8]:
        return f"{algorithm}: the output layer has not 8 bits ({[node.bits for node in heads] or bits})"
    if len(others) == len(products):
        return f"{algorithm}: no product has {bits} bits"
    more = len(others) - 1
    if (algorithm == "k_quant_mixed") != bool(more):
        return f"{algorithm}: {more} products beside the output layer have 8 bits"
    return None


if __name__ == "__main__":
    main()
