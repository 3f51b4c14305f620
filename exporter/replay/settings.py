"""What is replayed, and where."""

from __future__ import annotations

from dataclasses import dataclass

CPUS = ("cortex-a76", "max")  # NEON with dot products; all that the emulator knows: i8mm, SVE, SME, too


@dataclass(frozen=True)
class Settings:
    """Of `qexport verify --abi`."""

    abi: str = "arm64"  # | "x86_64"
    runtime: str | None = None  # None: all that the artifact has
    cpu: str = CPUS[0]  # of the emulated machine
    examples: int | None = None  # None: all golden ones
    steps: int = (
        8  # tokens of an answer, at most: one of SmolLM2-135M takes a third of a second under emulation
    )
