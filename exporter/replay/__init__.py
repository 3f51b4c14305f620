"""`qexport verify --abi`: golden values replayed on this host or an emulated ARM64 processor, without torch.

Empty, since an ARM64 Python that has NumPy and ONNX Runtime only runs exporter.replay.ort_run.
"""
