"""Quantisation-aware training: integers and scales that are trained by what the whole model then says."""

from exporter.qat.job import train_static, train_text

__all__ = ["train_static", "train_text"]
