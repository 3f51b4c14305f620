"""Runtimes that a plan can be lowered to. A registry is a dict; each entry imports on first use."""

from __future__ import annotations

from importlib import import_module

from exporter.backends.base import Backend
from exporter.errors import PlanError

_MODULES = {"onnxruntime": "exporter.backends.ort", "executorch": "exporter.backends.executorch"}
_NPUS = ("onnxruntime-qnn", "executorch-qualcomm", "executorch-tosa", "executorch-ethos-u")
CPUS: tuple[str, ...] = tuple(_MODULES)
NAMES: tuple[str, ...] = (*CPUS, *_NPUS)


def get_backend(name: str) -> Backend:
    """The backend of that name. Its module imports no runtime until it lowers or runs."""
    if name in _NPUS:
        from exporter.backends.npu import BACKENDS

        return BACKENDS[name]  # type: ignore[return-value]  # it lowers modules only
    if name not in _MODULES:
        raise PlanError(f"backend {name!r} is not known; there are: {', '.join(NAMES)}")
    backend: Backend = import_module(_MODULES[name]).BACKEND
    return backend
