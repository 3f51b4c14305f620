"""Pictures from files, as a model's preprocessing wants them: upright, RGB, whole."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from exporter.errors import QexportError, first_line

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = NDArray[np.uint8]  # (height, width, 3), RGB


def read_picture(path: Path) -> Pixels:
    """(height, width, 3) RGB, 0 to 255. Turned as its EXIF orientation says; transparency is dropped.

    Raises QexportError for what is no picture, is truncated, or is too large to be one.
    """
    image = _opened(path)
    try:
        with image, warnings.catch_warnings():
            warnings.simplefilter("error", _bomb_warning())
            from PIL import ImageOps

            pixels: Pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, SyntaxError, ValueError) as problem:  # each of Pillow's decoders raises its own
        raise QexportError(
            f"{path}: this picture is damaged ({first_line(problem)}); replace it or take it out of the folder"
        ) from problem
    return pixels


def _opened(path: Path) -> Image:
    try:
        from PIL import Image, UnidentifiedImageError
    except ModuleNotFoundError as problem:
        raise QexportError(
            f"{path}: pictures need the package Pillow; install it (pip install pillow)"
        ) from problem
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", _bomb_warning())
            return Image.open(path)
    except UnidentifiedImageError as problem:
        with path.open("rb") as stream:
            begins = stream.read(8)
        holds = f"it begins with {begins!r}" if begins else "it is empty"
        raise QexportError(
            f"{path}: not a picture, {holds}; replace it or take it out of the folder"
        ) from problem
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as problem:
        raise QexportError(
            f"{path}: this picture has too many pixels ({first_line(problem)}); make it smaller"
        ) from problem
    except OSError as problem:
        raise QexportError(f"{path}: cannot be read ({problem.strerror or first_line(problem)})") from problem


def _bomb_warning() -> type[Warning]:
    from PIL import Image

    warning: type[Warning] = Image.DecompressionBombWarning
    return warning
