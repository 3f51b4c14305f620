"""Wav files as a model's preprocessing wants them: one channel, float, at the model's sampling rate."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from math import gcd
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from exporter.errors import QexportError, first_line

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Clip:
    """Sound at the rate that was asked for, and what it was in its file."""

    path: Path
    samples: FloatArray  # (n,), -1 to 1
    rate: int  # Hz
    file_rate: int  # Hz
    channels: int

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.samples) / self.rate


def read_wav(path: Path, rate: int | None = None) -> Clip:
    """One clip at `rate` Hz (None: the file's own); several channels give their mean.

    Another rate is resampled by a polyphase filter, which is linear in phase and holds aliases under -54 dB
    (scipy.signal.resample_poly, whose Kaiser window has beta 5: beta / 0.1102 + 8.7). Raises QexportError for
    what is no wav file, is compressed, truncated, or without a sample.
    """
    file_rate, data = _read(path)
    if not len(data):
        raise QexportError(f"{path}: 0 samples of sound; record it again or take it out of the folder")
    channels = data.shape[1] if data.ndim == 2 else 1
    samples = _scaled(data, path)
    if samples.ndim == 2:  # (n, channels) -> (n,)
        samples = samples.mean(axis=1)
    if rate is not None and rate != file_rate:
        from scipy.signal import resample_poly

        divisor = gcd(rate, file_rate)
        samples = resample_poly(samples, rate // divisor, file_rate // divisor)
    return Clip(path, samples.astype(np.float32), rate or file_rate, file_rate, channels)


def clip_notes(clips: Iterable[Clip], most_seconds: float | None = None) -> tuple[str, ...]:
    """What is changed on the way from the files to a model that hears `most_seconds`, one note for each kind."""
    rates: dict[tuple[int, int], list[Path]] = {}
    channels: dict[int, list[Path]] = {}
    long: list[Path] = []
    for clip in clips:
        if clip.file_rate != clip.rate:
            rates.setdefault((clip.file_rate, clip.rate), []).append(clip.path)
        if clip.channels > 1:
            channels.setdefault(clip.channels, []).append(clip.path)
        if most_seconds is not None and clip.seconds > most_seconds:
            long.append(clip.path)
    notes = [
        f"{_counted(paths)} of {was:,} Hz resampled to {now:,} Hz"
        for (was, now), paths in sorted(rates.items())
    ]
    notes += [
        f"{_counted(paths)} of {count} channels mixed to their mean"
        for count, paths in sorted(channels.items())
    ]
    if long:
        notes.append(f"{_counted(long)} longer than {most_seconds:g} s: what comes after is cut off")
    return tuple(notes)


def _counted(paths: list[Path]) -> str:
    return str(paths[0]) if len(paths) == 1 else f"{len(paths):,} wav files (the first: {paths[0]})"


def _read(path: Path) -> tuple[int, NDArray[np.generic]]:
    """Rate and (n,) or (n, channels) samples as the file has them."""
    from scipy.io import wavfile

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Chunk .non-data. not understood")
            warnings.filterwarnings("error", message="Reached EOF prematurely")
            rate, data = wavfile.read(path)
    except OSError as problem:
        raise QexportError(f"{path}: cannot be read ({problem.strerror or first_line(problem)})") from problem
    except wavfile.WavFileWarning as problem:
        raise QexportError(
            f"{path}: this wav file is truncated ({first_line(problem)}); record or copy it again"
        ) from problem
    except Exception as problem:  # ValueError, struct.error, IndexError: whatever the header leads to
        raise QexportError(
            f"{path}: not a wav file that can be read ({first_line(problem)}); convert it to PCM, 16 bits"
        ) from problem
    return int(rate), data


def _scaled(data: NDArray[np.generic], path: Path) -> NDArray[np.float64]:
    """Samples of any width as float, full scale 1."""
    if data.dtype.kind == "f":
        samples = data.astype(np.float64)
        if not np.isfinite(samples).all():
            raise QexportError(f"{path}: holds samples that are no finite number; record or convert it again")
        return samples
    if data.dtype == np.uint8:  # 8-bit wav is the only unsigned one, its zero at 128
        return (data.astype(np.float64) - 128) / 128
    full_scale = float(2 ** (8 * data.dtype.itemsize - 1))
    scaled: NDArray[np.float64] = data.astype(np.float64) / full_scale
    return scaled
