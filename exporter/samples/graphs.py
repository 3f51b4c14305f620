"""Preprocessing as a small ONNX graph, for an app that would rather not write it again.

Only operators of the default domain, and none that mobile builds leave out: a short-time Fourier transform
is a convolution with a cosine and a sine for each frequency.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from exporter.errors import LoweringError
from exporter.samples.processing import PictureSteps, SpeechSteps

OPSET = 20
_MODES = {"bilinear": "linear", "bicubic": "cubic"}


class _Graph:
    """Nodes in the order in which they are added; a constant lies beside them as an initializer."""

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []

    def __call__(self, op: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        node = ir.node(op, inputs=list(inputs), attributes=attributes or None)
        node.outputs[0].name = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(node)
        return node.outputs[0]

    def constant(self, name: str, array: NDArray[Any]) -> ir.Value:
        tensor = ir.tensor(array, name=name)
        shape = ir.Shape(array.shape)
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
        self.initializers.append(value)
        return value

    def integers(self, name: str, values: Sequence[int]) -> ir.Value:
        return self.constant(name, np.asarray(values, np.int64))

    def number(self, name: str, value: float) -> ir.Value:
        return self.constant(name, np.asarray(value, np.float32))

    def model(
        self, given: ir.Value, made: ir.Value, name: str, shape: Sequence[int | str], notes: str
    ) -> ir.Model:
        made.name, made.type, made.shape = name, ir.TensorType(ir.DataType.FLOAT), ir.Shape(shape)
        graph = ir.Graph(
            [given],
            [made],
            nodes=self.nodes,
            initializers=self.initializers,
            opset_imports={"": OPSET},
            name="preprocessing",
            doc_string=notes,
        )
        return ir.Model(graph, ir_version=10)


def log_mel_graph(steps: SpeechSteps) -> ir.Model:
    """audio (n,) float32 at steps.sampling_rate -> (1, n_mels, frames): cut or padded to the model's length.

    Raises LoweringError for a processor that does more than its steps say.
    """
    _refuse(steps.undescribed)
    g = _Graph()
    audio = ir.Value(name="audio", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["samples"]))
    length = g.integers("length", [steps.samples])
    zero, axis, one = g.integers("zero", [0]), g.integers("last_axis", [-1]), g.integers("one", [1])
    cut = g("Slice", audio, zero, length, axis, one)
    missing = g("Sub", length, g("Shape", cut))
    whole = g("Pad", cut, g("Concat", zero, missing, axis=0))  # (samples,)
    half = steps.n_fft // 2
    row = g("Reshape", whole, g.integers("row", [1, 1, -1]))
    # One frame less than centring gives: its samples are not even padded.
    edges = g.integers("edges", [0, 0, half, 0, 0, half - steps.hop if half >= steps.hop else half])
    mirrored = g("Pad", row, edges, mode="reflect")
    spectrum = g("Conv", mirrored, g.constant("fourier", fourier(steps.n_fft)), strides=[steps.hop])
    frames = steps.samples // steps.hop
    if half < steps.hop:
        spectrum = g("Slice", spectrum, zero, g.integers("frames", [frames]), axis, one)
    bins = half + 1
    parts = g("Reshape", g("Mul", spectrum, spectrum), g.integers("parts", [1, 2, bins, -1]))
    power = g("ReduceSum", parts, one, keepdims=0)  # (1, bins, frames)
    filters = np.asarray(steps.mel_filters, np.float32).T  # (n_mels, bins)
    mel = g("MatMul", g.constant("mel_filters", np.ascontiguousarray(filters)), power)
    logarithm = g("Log", g("Max", mel, g.number("floor", steps.floor)))
    decades = g("Mul", logarithm, g.number("per_decade", 1 / np.log(10)))
    loudest = g("ReduceMax", decades, g.integers("mel_axes", [1, 2]), keepdims=1)
    kept = g("Max", decades, g("Sub", loudest, g.number("range", steps.range)))
    four = g.number("four", 4.0)
    made = g("Div", g("Add", kept, four), four)
    notes = f"log-mel features of {steps.seconds:g} s of sound at {steps.sampling_rate} Hz"
    return g.model(audio, made, steps.name, (1, steps.n_mels, frames), notes)


def picture_graph(steps: PictureSteps) -> ir.Model:
    """pixels (height, width, 3) uint8 RGB -> (1, 3, H, W) float32.

    Raises LoweringError for what ONNX has no operator for, or a processor that does more than its steps say.
    """
    _refuse(steps.undescribed)
    g = _Graph()
    pixels = ir.Value(
        name="pixels", type=ir.TensorType(ir.DataType.UINT8), shape=ir.Shape(["height", "width", 3])
    )
    planes = g("Unsqueeze", g("Transpose", pixels, perm=[2, 0, 1]), g.integers("batch", [0]))  # (1, 3, h, w)
    if steps.resize is not None:
        planes = _resized(g, planes, pixels, steps)
    if steps.crop is not None:
        if steps.resize is None or min(steps.resize_to) < max(steps.crop):
            raise LoweringError(
                f"a picture resized to {steps.resize_to} may be smaller than its crop {steps.crop}"
            )
        kept = g.integers("crop", steps.crop)
        size = g("Shape", planes, start=2)
        start = g("Div", g("Sub", size, kept), g.integers("two", [2]))
        planes = g("Slice", planes, start, g("Add", start, kept), g.integers("edges", [2, 3]))
    if steps.channels == "BGR":
        planes = g("Gather", planes, g.integers("bgr", [2, 1, 0]), axis=1)
    scaled = g("Mul", g("Cast", planes, to=int(ir.DataType.FLOAT)), g.number("rescale", steps.rescale))
    mean, std = (np.asarray(v, np.float32).reshape(1, 3, 1, 1) for v in (steps.mean, steps.std))
    made = g("Div", g("Sub", scaled, g.constant("mean", mean)), g.constant("std", std))
    fixed = steps.crop or (steps.resize_to if steps.resize == "both edges" else None)
    size_out: tuple[int | str, int | str] = fixed or ("out_height", "out_width")
    notes = f"{steps.resize or 'no resize'}, {steps.resample}, mean {steps.mean}, std {steps.std}"
    return g.model(pixels, made, steps.name, (1, 3, *size_out), notes)


def fourier(n_fft: int) -> NDArray[np.float32]:
    """(2 (n_fft / 2 + 1), 1, n_fft): a cosine, then a sine for each frequency, under a periodic Hann window."""
    n = np.arange(n_fft)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * n / n_fft)
    # The angle from the product modulo n_fft: exact, where k n pi would lose digits.
    angle = 2 * np.pi * (np.outer(np.arange(n_fft // 2 + 1), n) % n_fft) / n_fft
    return np.concatenate([np.cos(angle) * window, np.sin(angle) * window])[:, None].astype(np.float32)


def _resized(g: _Graph, planes: ir.Value, pixels: ir.Value, steps: PictureSteps) -> ir.Value:
    """Resize as Pillow does it: averaging over all pixels under the filter, borders left out of it; the width
    first, rounded to bytes, then the height. Pillow 13.0 was seen to begin with the height for tall pictures,
    which moves a byte by one, and by more where a cubic overshoots black or white."""
    if steps.resample not in _MODES:
        raise LoweringError(f"resample {steps.resample}: ONNX resizes by {', '.join(_MODES)}")
    height_width = g.integers("resize_to", steps.resize_to)
    if steps.resize == "shortest edge":
        size = g("Shape", pixels, start=0, end=2)
        shortest = g("ReduceMin", size, keepdims=1)
        height_width = g("Div", g("Mul", size, height_width), shortest)  # whole numbers, cut
    options: Mapping[str, Any] = {
        "mode": _MODES[steps.resample],
        "antialias": 1,
        "exclude_outside": 1,
        "cubic_coeff_a": -0.5,
        "axes": [2, 3],
        "coordinate_transformation_mode": "half_pixel",
    }
    return g("Resize", planes, None, None, height_width, **options)


def _refuse(undescribed: str | None) -> None:
    if undescribed:
        raise LoweringError(f"preprocessing has no graph: {undescribed}")
