"""Target: one entry of the recipe's `targets`. Pure data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

DEFAULT_CONTEXT = 2048  # tokens; less where the model was made for less
NPU_LENGTH = 128  # tokens of a text on an NPU, whose shapes are fixed
Dialect = Literal["cpu", "qualcomm", "arm"]  # in whose operators and codes a static program is written
_DIALECT_OF: dict[str, Dialect] = {"qnn": "qualcomm", "qualcomm": "qualcomm", "ethos-u": "arm", "tosa": "arm"}
KVCacheType = Literal["float32", "float16", "int8"]
KV_CACHE_TYPES: tuple[str, ...] = get_args(KVCacheType)
KV_CACHE_BYTES = {"float32": 4, "float16": 2, "int8": 1}  # of one number of a key or value

EPS: tuple[str, ...] = ("cpu", "qnn")
DELEGATES: tuple[str, ...] = ("xnnpack", "qualcomm", "ethos-u", "tosa")
_NO_SDK = "its compiler is no public package, so that nothing written for it could be checked here; use"
# What people ask for by name, and why it is not there.
REFUSED: dict[str, str] = {
    "nnapi": "Android 15 deprecates NNAPI and ONNX Runtime builds it no more; use ep: cpu, or qnn for a Snapdragon",
    "coreml": "Core ML runs on Apple's systems alone, and these files are for Android; use cpu, xnnpack or qnn",
    "mediatek": f"{_NO_SDK} xnnpack, which runs on every MediaTek chip's CPU",
    "neuron": f"{_NO_SDK} xnnpack, which runs on every MediaTek chip's CPU",
    "samsung": f"{_NO_SDK} xnnpack, which runs on every Exynos' CPU",
    "enn": f"{_NO_SDK} xnnpack, which runs on every Exynos' CPU",
    "nxp": f"{_NO_SDK} xnnpack, or ethos-u for i.MX 93's Ethos-U65",
    "neutron": f"{_NO_SDK} xnnpack, or ethos-u for i.MX 93's Ethos-U65",
    "vulkan": "no driver here runs its programs, so that parity could not be proven; use xnnpack, or qualcomm",
    "webgpu": "no driver here runs its programs, so that parity could not be proven; use cpu",
}


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
    soc: tuple[str, ...] = ()  # names of exporter.socs: the chips that an NPU program is compiled for
    variant: str | None = None  # of Arm's Ethos-U: ethos-u85-256
    length: int = NPU_LENGTH  # tokens of a text on an NPU, padding included
    prefill: int | None = None  # new tokens of a second program that takes a language model's prompt in

    @property
    def unit(self) -> str:
        """What computes: an execution provider of ONNX Runtime, a delegate of ExecuTorch."""
        return self.ep if self.backend == "onnxruntime" else self.delegate

    @property
    def key(self) -> str:
        """Name of the backend (exporter.backends) and of its folder: `onnxruntime`, `executorch-qualcomm`."""
        return f"{self.backend}-{self.unit}" if self.on_npu else self.backend

    @property
    def dialect(self) -> Dialect:
        """Of its static programs."""
        return _DIALECT_OF.get(self.unit, "cpu")

    @property
    def on_npu(self) -> bool:
        """True where everything is integers of fixed shapes, compiled beforehand."""
        return self.dialect != "cpu"
