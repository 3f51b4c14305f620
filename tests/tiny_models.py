"""The small random models of the tests and of `scripts/bench.py --quick`: each seeded, so always the same.

In memory, or as checkpoints in Hugging Face's layout that every exporter takes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import Gemma3ForCausalLM, LlamaForCausalLM, Qwen2ForCausalLM

_SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "initializer_range": 0.2,
}


def llama(**changes: Any) -> LlamaForCausalLM:
    """Tied embeddings."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**_SIZES, "tie_word_embeddings": True, **changes}))


def gemma(**changes: Any) -> Gemma3ForCausalLM:
    """Tied scaled embedding, norms of queries and keys, weights of 1 + w, norms behind each block, two rotary
    bases, sliding and full layers."""
    import torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    own = {
        "num_hidden_layers": 3,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "sliding_window": 5,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "attn_implementation": "eager",
    }
    torch.manual_seed(0)
    return Gemma3ForCausalLM(Gemma3TextConfig(**{**_SIZES, **own, **changes}))


def qwen(**changes: Any) -> Qwen2ForCausalLM:
    """Biases of queries, keys and values; an output layer of its own."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(**{**_SIZES, "tie_word_embeddings": False, "eos_token_id": 1, **changes})
    )
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            torch.nn.init.normal_(parameter)
    return model


def llama_with_tokenizer(folder: Path) -> Path:
    """A checkpoint with a real byte-level tokenizer and a chat template."""
    vocabulary = _byte_tokenizer(folder)
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    llama(
        vocab_size=vocabulary + 6, max_position_embeddings=512, initializer_range=0.3, **ids
    ).save_pretrained(folder)
    return folder


def gemma_checkpoint(folder: Path) -> Path:
    """A window of 8 and heads of 32."""
    gemma(
        head_dim=32, query_pre_attn_scalar=32, sliding_window=8, max_position_embeddings=256, vocab_size=96
    ).save_pretrained(folder)
    return folder


def sliding_with_tokenizer(folder: Path) -> Path:
    """Windows of 8 in a context of 1,200, with the byte-level tokenizer and a chat template."""
    vocabulary = _byte_tokenizer(folder)
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    gemma(
        head_dim=32,
        query_pre_attn_scalar=32,
        sliding_window=8,
        max_position_embeddings=1200,
        vocab_size=vocabulary + 6,
        initializer_range=0.3,
        **ids,
    ).save_pretrained(folder)
    return folder


def qwen_checkpoint(folder: Path) -> Path:
    """Without a tokenizer."""
    qwen(max_position_embeddings=256, vocab_size=96).save_pretrained(folder)
    return folder


def _byte_tokenizer(folder: Path) -> int:
    """Tokens that it knows: the bytes, a first one and a last one."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from tokenizers.decoders import ByteLevel
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevel()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    wrapped.chat_template = (
        "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<s>assistant: {% endif %}"
    )
    wrapped.save_pretrained(folder)
    return len(vocabulary)
