#!/usr/bin/env python3
"""The peer ExecuTorch: its own export path for language models, from the installed wheel.

    python scripts/peers/executorch_llama.py CHECKPOINT-FOLDER OUT-FOLDER --bits 4 --context N

The steps of its examples/models/llama and qwen2_5: weights under Meta's names, params.json, then
export_llama with 8da4w in groups of 32, a 4-bit embedding, custom SDPA, KV cache, dynamic shapes, XNNPACK
with extended operators, as its config/llama_xnnpack.yaml has it. The output layer gets its own 4-bit copy of
a tied table; that is how this path stores it. The log holds the time of each of its stages.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

_NAMES = {  # Hugging Face -> Meta
    "model.embed_tokens": "tok_embeddings",
    "model.norm": "norm",
    "lm_head": "output",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "self_attn.q_norm": "attention.q_norm_fn",
    "self_attn.k_norm": "attention.k_norm_fn",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
}
_BIASED = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--bits", type=int, choices=[4], default=4)
    parser.add_argument("--context", type=int, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.out) as place:
        convert(arguments.checkpoint, Path(place))
        export(Path(place), arguments.out, arguments.context)


def convert(checkpoint: Path, work: Path) -> None:
    """weights.pth and params.json. Raises SystemExit for a model that this path does not know."""
    import torch
    from safetensors.torch import load_file

    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    loaded = load_file(checkpoint / "model.safetensors")
    if reason := why_not(config, list(loaded)):
        raise SystemExit(reason)
    weights = {_renamed(name): tensor.float() for name, tensor in loaded.items()}
    weights.setdefault("output.weight", weights["tok_embeddings.weight"])
    torch.save(weights, work / "weights.pth")
    (work / "params.json").write_text(json.dumps(parameters(config, weights)), encoding="utf-8")


def why_not(config: dict[str, Any], names: list[str]) -> str | None:
    """What the transformer of this path cannot represent of a model, in words; None where it holds all."""
    parts = {_split(name)[1:] for name in names}
    kinds = sorted({stem for stem, _ in parts} - _NAMES.keys())
    kinds += sorted(f"{stem}.bias" for stem, kind in parts if kind == "bias" and stem not in _BIASED)
    if kinds:
        return f"ExecuTorch's Llama export has no place for the model's weights {', '.join(kinds)}"
    rope = (config.get("rope_parameters") or {}).get("rope_type", "default")
    for key, value, only in (
        ("rope_type", rope, "default"),
        ("hidden_act", config.get("hidden_act", "silu"), "silu"),
    ):
        if value != only:
            return f"{key} {value!r} is not passed on to ExecuTorch's Llama export here, only {only!r}"
    return None


def _split(name: str) -> tuple[str, str, str]:
    """ "model.layers.3.mlp.up_proj.weight" -> "layers.3.", "mlp.up_proj", "weight"."""
    stem, _, kind = name.rpartition(".")
    if not stem.startswith("model.layers."):
        return "", stem, kind
    number, _, stem = stem.removeprefix("model.layers.").partition(".")
    return f"layers.{number}.", stem, kind


def _renamed(name: str) -> str:
    prefix, stem, kind = _split(name)
    return f"{prefix}{_NAMES[stem]}.{kind}"


def parameters(config: dict[str, Any], weights: dict[str, Any]) -> dict[str, Any]:
    """What its ModelArgs reads, from Hugging Face's configuration."""
    rope = config.get("rope_parameters") or {}
    return {
        "dim": config["hidden_size"],
        "n_layers": config["num_hidden_layers"],
        "n_heads": config["num_attention_heads"],
        "n_kv_heads": config["num_key_value_heads"],
        "vocab_size": config["vocab_size"],
        "hidden_dim": config["intermediate_size"],
        "head_dim": config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"],
        "norm_eps": config["rms_norm_eps"],
        "rope_theta": rope.get("rope_theta") or config.get("rope_theta", 10000.0),
        "use_hf_rope": True,
        "attention_qkv_bias": "layers.0.attention.wq.bias" in weights,
        "use_qk_norm": "layers.0.attention.q_norm_fn.weight" in weights,
        "qk_norm_before_rope": True,
        "use_scaled_rope": False,
        "multiple_of": 1,
    }


def export(work: Path, out: Path, context: int) -> None:
    """out/model.pte."""
    from executorch.examples.models.llama.export_llama_lib import export_llama
    from executorch.extension.llm.export.config.llm_config import LlmConfig

    config = LlmConfig()
    config.base.checkpoint, config.base.params = str(work / "weights.pth"), str(work / "params.json")
    config.model.use_kv_cache = config.model.use_sdpa_with_kv_cache = True
    config.model.enable_dynamic_shape = True
    config.quantization.qmode, config.quantization.group_size = "8da4w", 32
    config.quantization.embedding_quantize = "4,32"
    config.quantization.use_hqq = False  # round to nearest; the time is for the same kind of quantisation
    config.backend.xnnpack.enabled = config.backend.xnnpack.extended_ops = True
    config.export.max_seq_length = config.export.max_context_length = context
    # a name that ends in .pte is taken as the whole path, whatever output_dir says
    config.export.output_dir, config.export.output_name = str(out), str(out / "model.pte")
    export_llama(config)
    if not (out / "model.pte").is_file():  # it only logs an error of writing
        raise SystemExit(f"{out}: ExecuTorch's Llama export wrote no model.pte")


if __name__ == "__main__":
    main()
