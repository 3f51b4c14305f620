"""Target: one entry of the recipe's `targets`. Pure data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

DEFAULT_CONTEXT = 2048  # tokens; less where the model was made for less
KVCacheType = Literal["float32", "float16", "int8"]
KV_CACHE_TYPES: tuple[str, ...] = get_args(KVCacheType)
KV_CACHE_BYTES = {"float32": 4, "float16": 2, "int8": 1}  # of one number of a key or value


@dataclass(frozen=True)
class Target:
    """Which runtime, and what is known of the phone it runs on."""

    backend: str  # "onnxruntime" | "executorch"
    min_runtime: str | None = None  # oldest runtime version the phone may carry, e.g. "1.23"
    ep: str = "cpu"  # ONNX Runtime execution provider
    delegate: str = "xnnpack"  # ExecuTorch delegate
    abi: str = "arm64-v8a"
    max_context: int = DEFAULT_CONTEXT  # longest context, in tokens, that a language model is made for
    kv_cache: KVCacheType = "float32"  # how keys and values of past tokens are stored
    ort_format: bool = False  # also write model.ort
