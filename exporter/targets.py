"""Target: one entry of the recipe's `targets`. Pure data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """Which runtime, and what is known of the phone it runs on."""

    backend: str  # "onnxruntime" | "executorch"
    min_runtime: str | None = None  # oldest runtime version the phone may carry, e.g. "1.23"
    ep: str = "cpu"  # ONNX Runtime execution provider
    delegate: str = "xnnpack"  # ExecuTorch delegate
    abi: str = "arm64-v8a"
    max_context: int = 2048  # tokens the KV cache of an ExecuTorch program holds
    ort_format: bool = False  # also write model.ort
