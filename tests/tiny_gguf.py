"""Small GGUF files of seeded random weights."""

from pathlib import Path

import numpy as np

WORDS = 5000  # above the length at which a list's elements are no longer read one by one


def write_gguf(path: Path, architecture: str, sizes: dict[str, tuple[int, ...]], left_out: str = "") -> Path:
    """Two blocks, seeded random weights, 8-bit and 4-bit blocks mixed, a byte-level vocabulary."""
    import gguf
    from tokenizers.pre_tokenizers import ByteLevel

    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(512)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(128)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_key_length(16)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(5e5)
    writer.add_sliding_window(8)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    alphabet = sorted(ByteLevel.alphabet())
    words = [*alphabet, "bo"]
    writer.add_token_list([*words, *(f"<extra_{i}>" for i in range(WORDS - len(words)))])
    writer.add_token_types([1] * len(words) + [4] * (WORDS - len(words)))
    writer.add_token_merges(["b o"])
    writer.add_eos_token_id(WORDS - 1)
    writer.add_bos_token_id(WORDS - 2)
    random = np.random.default_rng(0)
    for name, shape in sizes.items():
        values = random.standard_normal(shape).astype(np.float32)
        if name == left_out:
            continue
        if len(shape) == 1:
            writer.add_tensor(name, values)
            continue
        kind = (
            gguf.GGMLQuantizationType.Q8_0 if name.endswith("_v.weight") else gguf.GGMLQuantizationType.Q4_0
        )
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def block_sizes(block: int, biases: bool, norms: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "attn_q.weight": (64, 64),
        "attn_k.weight": (32, 64),
        "attn_v.weight": (32, 64),
        "attn_output.weight": (64, 64),
        "ffn_gate.weight": (128, 64),
        "ffn_up.weight": (128, 64),
        "ffn_down.weight": (64, 128),
    }
    shapes |= {f"{norm}.weight": (16,) if norm.endswith(("q_norm", "k_norm")) else (64,) for norm in norms}
    if biases:
        shapes |= {"attn_q.bias": (64,), "attn_k.bias": (32,), "attn_v.bias": (32,)}
    return {f"blk.{block}.{name}": shape for name, shape in shapes.items()}


NORMS = ("attn_norm", "ffn_norm")
KINDS = {
    # heads permuted
    "llama": ({"output.weight": (WORDS, 64)}, False, NORMS),
    # biases, an output layer of its own
    "qwen2": ({"output.weight": (WORDS, 64)}, True, NORMS),
    # tied, norms stored plus one
    "gemma3": ({}, False, (*NORMS, "attn_q_norm", "attn_k_norm", "post_attention_norm", "post_ffw_norm")),
}


def sizes_of(architecture: str) -> dict[str, tuple[int, ...]]:
    head, biases, norms = KINDS[architecture]
    outer = {"token_embd.weight": (WORDS, 64), "output_norm.weight": (64,), **head}
    return outer | block_sizes(0, biases, norms) | block_sizes(1, biases, norms)
