"""How much memory a job takes: told before the work starts, held while it runs.

Resident memory counts mapped pages of files too (ru_maxrss, VmRSS), so the forecast does. What each stage
holds at its peak was measured (the constants below), and follows from the sizes in the plan.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from exporter.errors import QexportError
from exporter.schemes import wants_text
from exporter.tasks import SPECS

if TYPE_CHECKING:
    from exporter.plan import QuantPlan

MB, GB = 1_000_000, 1_000_000_000
_LOGITS = 128 * MB  # bytes of a block of logits, of which a comparison holds a few
_PIECE = 64 * MB  # bytes of logits that a runtime gives at once
_ACTIVATIONS = 96 * MB  # bytes of the widest activations of a batch
_KEPT = 640 * MB  # bytes of the float model's weights that stay mapped from one step to the next
_FEWEST_ROWS, _MOST_ROWS = 16, 256
_FEWEST_TOKENS = 64
_SHARES = (1.0, 0.5, 0.25, 0.125)  # of what the ladder works on at once, tried in this order
_MOST_KEPT = 1 << 24  # elements of a weight that may stay mapped (models/reference.py)
_WINDOW = 512  # tokens of text that a runtime is given at most (verify/material.py)
_FLOAT = 4  # bytes

# Measured on Linux x86-64 with the pinned versions, language models of 134, 268 and 630 million parameters:
# resident before a stage works (imports, what earlier stages left), and bytes for each byte of its file.
_TOKENIZER_PER_WORD = 1600  # bytes, beside every stage
_BASE_QUANTISE = 350 * MB
_BASE_BLOCKS = 700 * MB  # PyTorch, blocks of logits, hidden states on their way
_GRAPH = 2.5  # what is kept for the backward pass, for each number that a linear layer takes
_METHOD_PER_WEIGHT = 8  # bytes: three candidates' integers, and copies of rows
_BASE_LOWER = {"onnxruntime": 760 * MB, "executorch": 800 * MB}
_BASE_VERIFY = 1100 * MB
_LOWER_PER_BYTE = {"onnxruntime": 2.2, "executorch": 2.8}
_BASE_NPU, _NPU_PER_BYTE = 1300 * MB, 12.0  # a vendor's compiler, in a process of its own
_READ_BACK = 2.2  # bytes for each weight of each layer: its integer, and what unpacking leaves behind
_BATCHES_HELD = 3  # of the widest activations
_RUN_PER_BYTE = 1.8  # the mapped file, its weights packed for the kernels, and scales as they read them
_BLOCKS_HELD = 3  # blocks of logits at once: two models', and what a comparison picks of one
_PIECES_HELD = 3  # what a runtime gives, its copy in NumPy, and the one before
_SAMPLE_SECONDS = 0.2


class MemoryProblem(QexportError):
    """The job does not fit into the memory it may use, or has used more."""


class HasShape(Protocol):
    """A layer of a model's list or of a plan."""

    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102


@dataclass(frozen=True)
class VerifyRoom:
    """How much the parity ladder of a language model works on at once."""

    batch_tokens: int  # of text that go through a PyTorch layer together
    block_rows: int  # of logits compared at a time
    piece_tokens: int  # that a runtime is given at once where it returns a row for each
    kept_bytes: int  # of the float model's weights that stay mapped

    @classmethod
    def for_layers(cls, layers: Iterable[HasShape], share: float = 1.0) -> VerifyRoom:
        """For a model of these layers; `share` of what is used where memory is no concern."""
        vocabulary, widest = _widths(layers)
        row = _FLOAT * vocabulary
        return cls(
            batch_tokens=max(_FEWEST_TOKENS, int(share * _ACTIVATIONS / (3 * _FLOAT * widest))),
            block_rows=min(_MOST_ROWS, max(_FEWEST_ROWS, int(share * _LOGITS / row))),
            piece_tokens=max(_FEWEST_TOKENS, int(share * _PIECE / row)),
            kept_bytes=int(share * _KEPT),
        )


@dataclass(frozen=True)
class Room:
    """What a job may use, and how it works so that it stays within."""

    forecast: dict[str, int]  # peak bytes by stage, in the order of the job
    workers: int  # layers quantised at the same time
    verify: VerifyRoom
    limit: int | None  # bytes; None: not known

    @property
    def peak(self) -> int:
        """Of all stages."""
        return max(self.forecast.values())


def peak_forecast(plan: QuantPlan, workers: int, share: float = 1.0) -> dict[str, int]:
    """Stage -> resident bytes at its peak. Pure: from the plan's sizes and how each stage works."""
    own = [layer for layer in plan.layers if layer.tied_to is None]
    sizes = [layer.info.parameters for layer in own if not layer.scheme.is_float]
    kept_float = _FLOAT * (
        plan.other_parameters + sum(layer.info.parameters for layer in own if layer.scheme.is_float)
    )
    words = _TOKENIZER_PER_WORD * _widths(plan.layers)[0] if plan.task == "text-generation" else 0
    # a worker holds its layer's float weight, mapped, and the integers that it writes; they take layers in order
    together = max((sum(sizes[i : i + workers]) for i in range(len(sizes))), default=0)
    found = {"quantise": _BASE_QUANTISE + words + (_FLOAT + 1) * together}
    if plan.task == "text-generation" and wants_text({layer.name: layer.scheme for layer in plan.layers}):
        found["quantise"] = words + _by_blocks(plan, max(sizes))
    # a layer that is tied is read back under both of its names
    read_back = _READ_BACK * sum(layer.info.parameters for layer in plan.layers if not layer.scheme.is_float)
    for forecast in plan.forecasts:
        name = forecast.target.key
        lowering = _LOWER_PER_BYTE.get(name, _NPU_PER_BYTE) * forecast.total_bytes
        found[f"lower to {name}"] = _BASE_LOWER.get(name, _BASE_NPU) + words + int(max(lowering, read_back))
    found["verify"] = words + _verify_peak(plan, share, kept_float)
    return found


def _by_blocks(plan: QuantPlan, largest: int) -> int:
    """Gradients of a window through the whole model, then methods on the largest layer; the float model is mapped."""
    inputs = sum(layer.info.shape[-1] for layer in plan.layers if layer.info.kind == "linear")
    graph = int(_GRAPH * _FLOAT * _WINDOW * inputs)
    mapped = _FLOAT * sum(layer.info.parameters for layer in plan.layers if layer.tied_to is None)
    turned = [layer.info.parameters for layer in plan.layers if layer.scheme.rotate is not None]
    return _BASE_BLOCKS + mapped + max(graph, _METHOD_PER_WEIGHT * largest + _FLOAT * max(turned, default=0))


def _verify_peak(plan: QuantPlan, share: float, kept_float: int) -> int:
    """References first; then one runtime at a time, with blocks of the references' logits beside it."""
    own = [
        layer.info.parameters for layer in plan.layers if layer.tied_to is None and not layer.scheme.is_float
    ]
    running = max(
        int(_RUN_PER_BYTE * forecast.total_bytes) + forecast.cache_bytes for forecast in plan.forecasts
    )
    family = SPECS[plan.task].family
    room = VerifyRoom.for_layers(plan.layers, share)
    kept = min(room.kept_bytes, _FLOAT * sum(size for size in own if size <= _MOST_KEPT))
    references = kept + int(_BATCHES_HELD * share * _ACTIVATIONS)
    if family in ("encoder", "vision"):
        return _BASE_VERIFY + kept_float + max(references, running)
    if family != "causal":
        return _BASE_VERIFY + 2 * (_FLOAT * sum(own) + kept_float)
    vocabulary, _ = _widths(plan.layers)
    row = _FLOAT * vocabulary
    blocks = _BLOCKS_HELD * room.block_rows * row
    references = max(references, blocks)
    pieces = _PIECES_HELD * min(room.piece_tokens, _WINDOW) * row
    return _BASE_VERIFY + kept_float + max(references, blocks + pieces + running)


def _widths(layers: Iterable[HasShape]) -> tuple[int, int]:
    """Rows of the largest table, and of the widest other layer."""
    rows = [layer.shape[0] for layer in layers if layer.kind in ("linear", "embedding")]
    vocabulary = max(rows, default=1)
    return vocabulary, max((count for count in rows if count != vocabulary), default=1)


def room_for(plan: QuantPlan, max_memory: int | None) -> Room:
    """How the job works so that it stays within max_memory, or within what this machine has available.

    Raises MemoryProblem where no way of working is small enough.
    """
    available = available_memory()
    limit = max_memory if max_memory is not None else available
    choices = [(os.cpu_count() or 1, share) for share in _SHARES]
    choices += [(1, _SHARES[-1])]
    for workers, share in choices:
        forecast = peak_forecast(plan, workers, share)
        if limit is None or max(forecast.values()) <= limit:
            break
    else:
        stage = max(forecast, key=lambda name: forecast[name])
        raise MemoryProblem(_too_little(stage, forecast[stage], limit or 0, max_memory is not None))
    return Room(forecast, workers, VerifyRoom.for_layers(plan.layers, share), limit)


def _too_little(stage: str, needed: int, limit: int, asked: bool) -> str:
    text = f"{stage}: this model needs about {_gb(needed)} of memory, "
    if asked:
        return text + f"--max-memory allows {_gb(limit)}; allow more, or export one target at a time"
    return text + f"{_gb(limit)} are available; close other programs, or export one target at a time"


def _gb(size: int) -> str:
    return f"{size / GB:.1f} GB"


def available_memory() -> int | None:
    """Bytes that this process may still take, its own included; None where the system does not say."""
    found = []
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
        found.append(1024 * kilobytes + (resident() or 0))
    with suppress(OSError, ValueError):  # a container's own limit; "max" where it has none
        allowed = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        found.append(allowed - used + (resident() or 0))
    return min(found, default=None)


def resident(anonymous: bool = False) -> int | None:
    """Bytes of this process in memory; `anonymous`: without mapped files, which the system can take back."""
    key = "RssAnon:" if anonymous else "VmRSS:"
    with suppress(OSError, ValueError, IndexError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))
    return None


@contextmanager
def held_memory(limit: int | None) -> Iterator[None]:
    """Inside, the job ends with MemoryProblem when its own memory (without mapped files) exceeds `limit`.

    setrlimit would count address space, most of which is mapped files and never in memory. So a thread
    looks from time to time and wakes the main thread by a signal; a single native call may still finish.
    """
    usable = limit is not None and resident(anonymous=True) is not None
    if not usable or threading.current_thread() is not threading.main_thread():
        yield
        return
    assert limit is not None
    done = threading.Event()
    seen: list[int] = []

    def watch() -> None:
        while not done.wait(_SAMPLE_SECONDS):
            now = resident(anonymous=True) or 0
            if now > limit:
                seen.append(now)
                os.kill(os.getpid(), signal.SIGUSR1)
                return

    def stop(number: int, frame: object) -> None:
        raise MemoryProblem(
            f"{_gb(seen[0])} of memory in use, --max-memory allows {_gb(limit)}; allow more. The forecast was "
            "lower, so please report this model and recipe"
        )

    before = signal.signal(signal.SIGUSR1, stop)
    watcher = threading.Thread(target=watch, name="memory", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        signal.signal(signal.SIGUSR1, before)


def release_to_system() -> None:
    """Collect garbage and hand freed memory back; glibc keeps it otherwise, and the peak with it."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # glibc; other C libraries give memory back by themselves
        trim(0)


def spoken(forecast: dict[str, int]) -> str:
    """`quantise 0.5, lower to onnxruntime 0.9, verify 1.3 GB`."""
    return ", ".join(f"{stage} {size / GB:.1f}" for stage, size in forecast.items()) + " GB"
