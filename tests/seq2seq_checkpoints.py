"""Tiny encoder-decoder checkpoints with seeded random weights, one for each kind of input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BartConfig,
    GPT2Config,
    T5Config,
    VisionEncoderDecoderConfig,
    ViTConfig,
    WhisperConfig,
)

VOCABULARY = 64
SPECIAL: dict[str, Any] = {
    "decoder_start_token_id": 2,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
TASKS = {
    "speech": "automatic-speech-recognition",
    "text": "text2text-generation",
    "absolute": "text2text-generation",
    "picture": "image-to-text",
}


def config(kind: str, seconds: int = 1) -> Any:
    """Of two layers each; every size of a linear layer a multiple of 32. `seconds`: of speech."""
    sizes: dict[str, Any] = {
        "d_model": 64,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "vocab_size": VOCABULARY,
        **SPECIAL,
    }
    if kind == "speech":  # 1 s of 16 kHz is 100 frames, and 50 after the strided convolution
        most = 50 * seconds
        return WhisperConfig(**sizes, num_mel_bins=80, max_source_positions=most, max_target_positions=32)
    if kind == "absolute":
        return BartConfig(**sizes, max_position_embeddings=64)
    if kind == "text":
        return T5Config(
            vocab_size=VOCABULARY,
            d_model=64,
            d_kv=32,
            d_ff=64,
            num_layers=2,
            num_heads=2,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
            **SPECIAL,
        )
    encoder = ViTConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
    )
    decoder = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=64,
        n_layer=2,
        n_head=2,
        n_positions=32,
        add_cross_attention=True,
        **SPECIAL,
    )
    whole = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    for name, value in SPECIAL.items():
        setattr(whole, name, value)
    return whole


def write(kind: str, folder: Path, seconds: int = 1) -> Path:
    """A checkpoint as transformers saves it, with what makes its inputs."""
    import transformers

    from exporter.tasks import SPECS

    torch.manual_seed(0)
    auto = getattr(transformers, SPECS[TASKS[kind]].auto_class or "")
    net = auto.from_config(config(kind, seconds)).eval()
    with torch.no_grad():  # transformers starts some at zero, where a mistake would not show
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.05)
    net.config.save_pretrained(folder)
    # not by save_pretrained, which gives some layers the names that older checkpoints have
    tensors = {id(x): (name, x.detach().contiguous()) for name, x in reversed(list(net.named_parameters()))}
    save_file(dict(tensors.values()), folder / "model.safetensors", {"format": "pt"})
    (folder / "generation_config.json").write_text(json.dumps(SPECIAL))
    words = {f"w{i}": i for i in range(VOCABULARY - 1)} | {"[UNK]": VOCABULARY - 1}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "[UNK]",
        "model_max_length": 32,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if kind == "speech":
        steps = {
            "feature_extractor_type": "WhisperFeatureExtractor",
            "chunk_length": seconds,
            "feature_size": 80,
        }
        (folder / "preprocessor_config.json").write_text(json.dumps(steps))
    if kind == "picture":
        steps = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}
        (folder / "preprocessor_config.json").write_text(json.dumps(steps))
    return folder
