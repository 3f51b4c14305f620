"""Tiny encoder checkpoints with seeded random weights; every size of a linear layer a multiple of 32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    DistilBertConfig,
    Gemma3TextConfig,
    ModernBertConfig,
    MPNetConfig,
    ViTConfig,
)

VOCABULARY = 96
LONGEST = 64  # positions
WINDOW = 8
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": VOCABULARY,
}
# kind -> (task, what is special about it)
TASKS = {
    "words": "fill-mask",
    "label": "text-classification",
    "tags": "token-classification",
    "sentence": "feature-extraction",
    "window": "feature-extraction",  # sliding windows both ways, fewer kv heads, rotary positions
    "bias": "feature-extraction",  # an attention of its own with relative positions
    "no types": "text-classification",  # no token_type_ids
    "alternating": "feature-extraction",  # windows, rotary positions, a packed projection, norms before
    "picture": "image-classification",
}


def config(kind: str) -> Any:
    """By kind."""
    labels = {"id2label": {0: "no", 1: "perhaps", 2: "yes"}, "label2id": {"no": 0, "perhaps": 1, "yes": 2}}
    if kind == "window":
        return Gemma3TextConfig(
            **SIZES,
            num_key_value_heads=2,
            head_dim=16,
            query_pre_attn_scalar=16,
            sliding_window=2 * WINDOW,
            layer_types=["sliding_attention", "full_attention"],
            use_bidirectional_attention=True,
            max_position_embeddings=LONGEST,
        )
    if kind == "bias":
        return MPNetConfig(**SIZES, max_position_embeddings=LONGEST + 2, relative_attention_num_buckets=32)
    if kind == "no types":
        return DistilBertConfig(
            dim=64,
            hidden_dim=128,
            n_layers=2,
            n_heads=4,
            vocab_size=VOCABULARY,
            max_position_embeddings=LONGEST,
            **labels,
        )
    if kind == "alternating":
        return ModernBertConfig(
            **SIZES,
            max_position_embeddings=LONGEST,
            local_attention=WINDOW,
            pad_token_id=0,
            global_attn_every_n_layers=2,
        )
    if kind == "picture":
        del (sizes := dict(SIZES))["vocab_size"]
        return ViTConfig(**sizes, image_size=32, patch_size=8, **labels)
    return BertConfig(**SIZES, max_position_embeddings=LONGEST, **labels)


def write(kind: str, folder: Path) -> Path:
    """A checkpoint as transformers saves it, with what makes its inputs."""
    import transformers

    from exporter.tasks import SPECS

    torch.manual_seed(0)
    auto = getattr(transformers, SPECS[TASKS[kind]].auto_class or "")
    net = auto.from_config(config(kind)).eval()
    with torch.no_grad():  # transformers starts some at zero or one, where a mistake would not show
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    net.config.save_pretrained(folder)
    tensors = {id(x): (name, x.detach().contiguous()) for name, x in reversed(list(net.named_parameters()))}
    save_file(dict(tensors.values()), folder / "model.safetensors", {"format": "pt"})
    if kind == "picture":
        steps = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}
        (folder / "preprocessor_config.json").write_text(json.dumps(steps))
        return folder
    _write_tokenizer(folder, kind not in ("window", "bias", "no types", "alternating"))
    if kind == "sentence":
        write_stages(folder)
    return folder


def _write_tokenizer(folder: Path, with_types: bool) -> None:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = special + [f"w{i}" for i in range(VOCABULARY - len(special))]
    numbers = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    types = ["token_type_ids"] if with_types else []
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")},
        "model_max_length": LONGEST,
        "model_input_names": ["input_ids", *types, "attention_mask"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_stages(folder: Path, pooling: str = "mean_tokens") -> None:
    """modules.json of sentence-transformers: pooling, a dense layer with tanh, length 1."""
    names = ["Transformer", "Pooling", "Dense", "Normalize"]
    entries = [
        {
            "idx": i,
            "name": str(i),
            "path": f"{i}_{n}" if i else "",
            "type": f"sentence_transformers.models.{n}",
        }
        for i, n in enumerate(names)
    ]
    (folder / "modules.json").write_text(json.dumps(entries))
    for place, settings in (
        ("1_Pooling", {"word_embedding_dimension": 64, f"pooling_mode_{pooling}": True}),
        (
            "2_Dense",
            {
                "in_features": 64,
                "out_features": 32,
                "bias": True,
                "activation_function": "torch.nn.modules.activation.Tanh",
            },
        ),
    ):
        (folder / place).mkdir(exist_ok=True)
        (folder / place / "config.json").write_text(json.dumps(settings))
    torch.manual_seed(1)
    head = {"linear.weight": torch.randn(32, 64) / 8, "linear.bias": torch.randn(32) / 8}
    save_file(head, folder / "2_Dense" / "model.safetensors", {"format": "pt"})
    (folder / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": {"query": "w1 w2 ", "document": "w3 "}, "default_prompt_name": None})
    )
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 48}))
