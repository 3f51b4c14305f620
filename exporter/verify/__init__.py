"""The parity ladder over written files: float model -> dequantised weights -> each runtime."""
