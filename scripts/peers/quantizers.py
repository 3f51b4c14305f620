"""The peers' own quantisers, put to work on the float model that qexport exports.

Each writes files under the names that our runners open, so that quality and speed of all are measured by one code.
Settings are those of the peers' own documentation for a CPU: int8, weights per channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from exporter.models.pretrained import PretrainedSkeleton
from exporter.models.python_module import PythonModule

Arrays = Sequence[NDArray[Any]]


def ort_dynamic(source: Path, target: Path) -> None:
    """onnxruntime.quantization.quantize_dynamic on every graph of a folder; what optimum's ORTQuantizer calls too."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    for path in sorted(source.glob("*.onnx")):
        quantize_dynamic(path, target / path.name, per_channel=True, weight_type=QuantType.QInt8)


def ort_static(source: Path, target: Path, samples: Iterable[Arrays]) -> None:
    """onnxruntime.quantization.quantize_static: QDQ, int8 activations by their smallest and largest value."""
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = target / "prepared.onnx"
    quant_pre_process(source / "model.onnx", prepared)
    names = [port.name for port in onnxruntime.InferenceSession(prepared).get_inputs()]

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = (dict(zip(names, arrays, strict=True)) for arrays in samples)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.feeds, None)

    quantize_static(
        prepared,
        target / "model.onnx",
        Reader(),
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
    )
    prepared.unlink()


def pt2e_static(model: PythonModule, target: Path, samples: Iterable[Arrays]) -> None:
    """PT2E quantisation with ExecuTorch's XNNPACKQuantizer, lowered to XNNPACK."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    module, example, shapes = model.built
    traced = torch.export.export(module, example, dynamic_shapes=shapes).module()
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(traced, quantizer)
    with torch.no_grad():
        for arrays in samples:
            prepared(*map(torch.from_numpy, arrays))
    converted = convert_pt2e(prepared)
    write({"forward": torch.export.export(converted, example, dynamic_shapes=shapes)}, {}, target)


def torchao_dynamic(skeleton: PretrainedSkeleton, target: Path, longest: int) -> None:
    """torchao's int8 weights with activations rounded at run time, lowered to XNNPACK; batch 1, any length."""
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, PerAxis, quantize_

    from exporter.models.skeleton import shortened
    from exporter.signatures import BATCH

    net = skeleton.build(lambda planned: None, "sdpa")  # type: ignore[arg-type, return-value]  # plans no layer
    config = Int8DynamicActivationIntxWeightConfig(weight_dtype=torch.int8, weight_granularity=PerAxis(0))
    quantize_(net, config)
    program = shortened(skeleton.programs[0].unpadded or skeleton.programs[0], longest)
    signature = program.signature
    dims = {
        name: torch.export.Dim(name, max=axis.maximum)
        for name, axis in signature.axes.items()
        if name != BATCH and axis.maximum > axis.minimum
    }
    shapes = tuple(
        {i: dims[axis] for i, axis in enumerate(p.shape) if axis in dims} for p in signature.inputs
    )
    examples = tuple(tensor[:1].contiguous() for tensor in program.examples())
    with torch.no_grad():
        exported = torch.export.export(program.wrap(net).eval(), examples, dynamic_shapes=(shapes,))
    names = {
        "get_inputs_forward": " ".join(port.name for port in signature.inputs),
        "get_outputs_forward": " ".join(port.name for port in signature.outputs),
    }
    write({"forward": exported}, names, target)


def write(programs: dict[str, torch.export.ExportedProgram], constants: dict[str, Any], target: Path) -> None:
    """target/model.pte, as ExecuTorch's documentation lowers to XNNPACK."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    edge = to_edge_transform_and_lower(
        programs, partitioner=[XnnpackPartitioner()], constant_methods=constants or None
    )
    with (target / "model.pte").open("wb") as file:
        edge.to_executorch().write_to_file(file)


def arrays_of(samples: Iterable[tuple[torch.Tensor, ...]]) -> Iterable[Arrays]:
    """Tensors as arrays, one sample at a time."""
    for sample in samples:
        yield [np.ascontiguousarray(tensor.numpy()) for tensor in sample]
