"""Quantisation-aware training: integers and scales that are trained by what the whole model then says."""

from exporter.qat.job import train

__all__ = ["train"]
