"""Samples: what calibration and evaluation read, how a sample becomes a model's input, what a set covers."""
