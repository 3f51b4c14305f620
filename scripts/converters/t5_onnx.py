"""encoder.onnx and decoder.onnx of a T5 model in ONNX Runtime's dynamic int8 -> a folder in Hugging Face's layout.

Each weight is dequantised to the float32 that it stands for: (code - zero point) * scale, one of each for a tensor
(inputs of DequantizeLinear in onnx/docs/Operators.md). Products have lost their layers' names, which are taken
from their order: onnx::MatMul_N counts as the model was traced, block by block, and the output layer, which kept
its name, comes last. Tables and norms kept theirs.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.errors import SourceError

_QUANTISED = "_quantized"
_HEAD_SIZE = 64
Tensors = dict[str, NDArray[Any]]


def convert(source: Path, target: Path) -> None:
    """`source` holds encoder.onnx, decoder.onnx and tokenizer.json; `target` is a new folder.

    Raises SourceError where the graphs are none of this kind.
    """
    import torch
    from safetensors.torch import save_file

    state = _side(source / "encoder.onnx", "encoder", "enc.", "enc.embed_tokens.weight")
    decoder = _side(source / "decoder.onnx", "decoder", "m.decoder.", "m.shared.weight")
    shared = state.pop("encoder.embed_tokens.weight")
    state |= {**decoder, "shared.weight": shared}
    if not np.array_equal(decoder["decoder.embed_tokens.weight"], shared):
        raise SourceError(f"{source}: encoder and decoder have different tables of tokens")
    del state["decoder.embed_tokens.weight"]
    target.mkdir(parents=True, exist_ok=True)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in state.items()}
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    query = state["encoder.block.0.layer.0.SelfAttention.q.weight"]
    bias = state["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    special = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
    layers = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("encoder.block."))
    config = {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "vocab_size": int(shared.shape[0]),
        "d_model": int(query.shape[1]),
        "d_kv": _HEAD_SIZE,
        "num_heads": int(query.shape[0]) // _HEAD_SIZE,
        "d_ff": int(state["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"].shape[0]),
        "num_layers": layers,
        "num_decoder_layers": layers,
        "relative_attention_num_buckets": int(bias.shape[0]),
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        **special,
    }
    _write(target / "config.json", config)
    _write(target / "generation_config.json", special)
    shutil.copyfile(source / "tokenizer.json", target / "tokenizer.json")
    _write(
        target / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": 512,
            "eos_token": "</s>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
            "model_input_names": ["input_ids", "attention_mask"],
        },
    )


def _side(path: Path, side: str, prefix: str, table: str) -> Tensors:
    """Encoder or decoder, under transformers' names."""
    import onnx

    graph = onnx.load(path).graph
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}

    def whole(name: str) -> NDArray[np.float32]:
        code, scale, zero = (stored[f"{name}{part}"] for part in (_QUANTISED, "_scale", "_zero_point"))
        result: NDArray[np.float32] = (code.astype(np.float32) - zero.astype(np.float32)) * scale
        return result

    products = {
        node.input[1].removesuffix(_QUANTISED) for node in graph.node if node.op_type == "MatMulInteger"
    }
    ordered = sorted(products, key=lambda name: int(name.split("_")[-1]) if "::" in name else 1 << 30)
    names = [f"layer.0.SelfAttention.{part}" for part in "qkvo"]
    if side == "decoder":
        names += [f"layer.1.EncDecAttention.{part}" for part in "qkvo"]
    last = 2 if side == "decoder" else 1
    names += [f"layer.{last}.DenseReluDense.{part}" for part in ("wi_0", "wi_1", "wo")]
    layers, rest = divmod(len(ordered), len(names))
    if rest != (side == "decoder"):
        raise SourceError(f"{path}: {len(ordered)} products are no whole number of blocks of {len(names)}")
    state: Tensors = {}
    for layer in range(layers):
        for name, product in zip(names, ordered[layer * len(names) :], strict=False):
            state[f"{side}.block.{layer}.{name}.weight"] = whole(product).T
    if side == "decoder":
        state["lm_head.weight"] = whole(ordered[-1]).T
    for name, value in stored.items():
        if name.startswith(prefix) and name.endswith("layer_norm.weight"):
            state[f"{side}.{name.removeprefix(prefix)}"] = value
    bias = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    state[f"{side}.{bias}"] = whole(prefix + bias)
    state[f"{side}.embed_tokens.weight"] = whole(table)
    return state


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
