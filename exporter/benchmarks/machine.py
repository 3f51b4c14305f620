"""What the machine says of itself: memory of this process, read bandwidth, processor."""

from __future__ import annotations

import os
import platform
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from exporter.benchmarks.figures import Memory, Spread

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_PART = 2**20  # bytes that a thread reads with one call


def available_threads() -> int:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """The processor's name, as the system has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def forget_peak() -> None:
    """Let the peak begin anew here, so that it is the model's and not that of the libraries' start."""
    with suppress(OSError):  # not allowed here, or no Linux: the peak is then that of the whole process
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def own_memory() -> Memory:
    """Memory of this process now."""
    try:
        return _linux_memory()
    except OSError:
        return _portable_memory()


def _linux_memory() -> Memory:
    """Rss and Anonymous as the kernel sums them over all mappings, the peak from VmHWM."""
    rolled = _kilobytes(Path("/proc/self/smaps_rollup"))
    peak = _kilobytes(Path("/proc/self/status"))["VmHWM"]
    resident, anonymous = rolled["Rss"], rolled["Anonymous"]
    return Memory(resident, max(peak, resident), anonymous, resident - anonymous)


def _kilobytes(path: Path) -> dict[str, int]:
    """Lines such as `Rss:   1234 kB` -> bytes."""
    found = {}
    for line in path.read_text(encoding="ascii", errors="replace").splitlines():
        words = line.split()
        if len(words) == 3 and words[2] == "kB":
            found[words[0].rstrip(":")] = int(words[1]) * 1024
    return found


def _portable_memory() -> Memory:
    """Only the peak is known outside Linux; on macOS it counts bytes, elsewhere kilobytes."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Memory(peak, peak)


def last_level_cache() -> int:
    """Bytes of the largest processor cache; 32 MiB where the system does not say."""
    sizes = [32 * 2**20]
    for path in _CACHES.glob("index*/size"):
        text = path.read_text(encoding="ascii").strip()
        if text.endswith("K") and text[:-1].isdigit():
            sizes.append(int(text[:-1]) * 1024)
    return max(sizes)


def read_bandwidth(threads: int, repeats: int, size: int | None = None) -> Spread:
    """Bytes a second that `threads` threads read from a buffer of `size` bytes (default: four times the
    last-level cache, so that most of it comes from memory). A maximum is taken of each part: one
    comparison for 8 bytes keeps the arithmetic out of the figure, and NumPy lets go of its lock.
    """
    import numpy as np

    count = max(threads, (size or 4 * last_level_cache()) // _PART)
    parts = np.ones((count, _PART // 8), np.int64)

    def read(first: int) -> None:
        for index in range(first, count, threads):
            parts[index].max()

    speeds = []
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, range(threads)))  # brings the threads up
        for _ in range(repeats):
            started = time.perf_counter()
            list(pool.map(read, range(threads)))
            speeds.append(parts.nbytes / (time.perf_counter() - started))
    return Spread.of(speeds)
