"""What a benchmark was asked for and what it found."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from exporter.benchmarks.figures import Memory, Spread
from exporter.benchmarks.machine import available_threads
from exporter.errors import ArtifactError
from exporter.tasks import Task


@dataclass(frozen=True)
class BenchSettings:
    """What is measured, and how often."""

    threads: int = 0  # 0: as many as this process may use
    repeats: int = 5
    past: tuple[int, ...] = (16, 128, 512, 2048)
    prefill: tuple[int, ...] = (64, 256, 1024)
    calls: tuple[int, ...] = (16, 128, 512)  # tokens of one call of an encoder
    steps: int = 32  # tokens decoded for one figure
    prompt: int = 64  # tokens before the first one of an answer
    starts: int = 3  # fresh processes per runtime
    bandwidth_bytes: int | None = None  # buffer read for the bandwidth; None: four last-level caches
    runtimes: tuple[str, ...] = ()  # empty: all that the folder holds

    def __post_init__(self) -> None:
        numbers = (self.repeats, self.steps, self.prompt, self.starts, *self.past, *self.prefill)
        if min(numbers) < 1 or self.threads < 0:
            raise ArtifactError(
                f"bench: {min(*numbers, self.threads)} is too small; repeats, steps, past and prefill count from 1"
            )

    @property
    def used_threads(self) -> int:
        """With 0 resolved."""
        return self.threads or available_threads()

    def quick(self) -> BenchSettings:
        """Seconds instead of minutes; every part runs, no figure is worth quoting."""
        return replace(
            self,
            repeats=1,
            past=(16,),
            prefill=(8,),
            calls=(8,),
            steps=4,
            prompt=8,
            starts=1,
            bandwidth_bytes=2**24,
        )


@dataclass(frozen=True)
class Decoding:
    """One token after another behind `past` tokens."""

    past: int
    tokens_per_second: Spread
    bytes_per_token: int  # of weights and cache that a step cannot but read
    bandwidth_share: float  # of the read bandwidth measured in the same run, at the median speed


@dataclass(frozen=True)
class Prefilling:
    """A prompt at once."""

    tokens: int
    tokens_per_second: Spread


@dataclass(frozen=True)
class RuntimeBench:
    """One runtime. Seconds; bytes. Memory is on top of Python and the runtime's own libraries."""

    name: str
    engine: str
    file_bytes: int
    cache_bytes: int
    context: int
    weight_bytes_per_token: int
    load_seconds: Spread
    first_token_seconds: Spread  # from the start of loading to the first token of an answer
    memory_after_load: Memory
    memory_after_generation: Memory
    decode: tuple[Decoding, ...]
    prefill: tuple[Prefilling, ...]

    def call_seconds(self, tokens: int) -> Spread | None:
        """Of one call of an encoder on that many tokens; None where it was not measured."""
        for found in self.prefill:
            if found.tokens == tokens:
                speed = found.tokens_per_second
                return Spread(tokens / speed.maximum, tokens / speed.median, tokens / speed.minimum)
        return None

    @property
    def memory_ratio(self) -> float:
        """Peak after generation against file and KV cache."""
        return self.memory_after_generation.peak / (self.file_bytes + self.cache_bytes)


@dataclass(frozen=True)
class BenchResult:
    """Everything of one run."""

    folder: str
    processor: str
    threads: int
    read_bandwidth: Spread  # bytes a second
    settings: BenchSettings
    runtimes: tuple[RuntimeBench, ...]
    notes: tuple[str, ...]
    task: Task = "text-generation"

    def to_json(self) -> dict[str, Any]:
        """Plain data for json.dumps."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]  # tuples become lists
