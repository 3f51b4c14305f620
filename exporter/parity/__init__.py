"""Parity between a float model, its dequantised form and the runtimes that carry it."""

from exporter.parity.ladder import (
    RISE_DB,
    Continuation,
    GreedySample,
    LayerError,
    Limits,
    ParityReport,
    Rise,
    Rung,
    RungActivations,
    RungKind,
    failures,
    find_rise,
    first_rise,
)
from exporter.parity.metrics import ComparisonResult, LogitComparison, Positions, invalid_logits
from exporter.parity.vectors import VectorComparison

__all__ = [
    "RISE_DB",
    "ComparisonResult",
    "Continuation",
    "GreedySample",
    "LayerError",
    "Limits",
    "LogitComparison",
    "Positions",
    "ParityReport",
    "Rise",
    "Rung",
    "RungActivations",
    "RungKind",
    "VectorComparison",
    "failures",
    "find_rise",
    "first_rise",
    "invalid_logits",
]
