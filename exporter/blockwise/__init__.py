"""A language model block by block: what each layer takes on calibration text, behind integers."""

from exporter.blockwise.quantising import quantize_by_blocks
from exporter.blockwise.windows import calibration_windows

__all__ = ["calibration_windows", "quantize_by_blocks"]
