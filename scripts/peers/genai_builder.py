#!/usr/bin/env python3
"""The peer onnxruntime-genai: its model builder, with the options that give the same bits.

    python scripts/peers/genai_builder.py CHECKPOINT-FOLDER OUT-FOLDER --bits 4 --block 32

Blocks of 32, symmetric, activations in int8 (accuracy_level 4), the tied table quantised once for both
ends. Unknown options are ignored in silence, so the written graph is read back and must say the same.

Rotary bases by kind of layer stand in one nested dictionary since transformers 5; the builder reads the two
flat names of transformers 4 for models whose windowed layers have a base of their own, and gets them here.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--bits", type=int, choices=[4, 8], default=4)
    parser.add_argument("--block", type=int, default=32)
    arguments = parser.parse_args()
    options = [f"block_size={arguments.block}", "accuracy_level=4", "is_symmetric=true"]
    options.append("op_types_to_quantize=MatMul/Gather")  # a table that is not tied would stay float
    command = ["builder", "-e", "cpu", "-i", arguments.checkpoint, "-o", arguments.out]
    command += ["-p", f"int{arguments.bits}", "-c", arguments.out / ".cache", "--extra_options", *options]
    sys.argv = [str(word) for word in command]
    with flat_rotary_bases():
        runpy.run_module("onnxruntime_genai.models.builder", run_name="__main__")
    check(arguments.out / "model.onnx", arguments.bits, arguments.block)


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


def check(path: Path, bits: int, block: int) -> None:
    """Every quantised node has these bits, this block and int8 activations; SystemExit where one has not."""
    import onnx

    found: dict[tuple[str, int, int, int], int] = {}
    for node in onnx.load(path, load_external_data=False).graph.node:
        if node.op_type in ("MatMulNBits", "GatherBlockQuantized"):
            values = {a.name: a.i for a in node.attribute}
            accuracy = values.get("accuracy_level", 0) if node.op_type == "MatMulNBits" else 4
            key = (node.op_type, values.get("bits", 4), values["block_size"], accuracy)
            found[key] = found.get(key, 0) + 1
    for (kind, *values), count in found.items():
        print(f"{count} {kind}: bits, block, accuracy level = {values}")
        if values != [bits, block, 4]:
            raise SystemExit(f"{path}: {kind} has {values}, not {[bits, block, 4]}")
    if not found:
        raise SystemExit(f"{path}: holds no quantised node")


if __name__ == "__main__":
    main()
