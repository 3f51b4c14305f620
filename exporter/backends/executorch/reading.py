"""Read the integers back from model.pte: the bytes that the runtime executes, nothing else.

A linear layer's weight lies in the file's named data; the delegate's graph (a flatbuffer behind an
XNNHeader) says which key a fully-connected node takes and how it is packed. An embedding's table is a
constant of the program, an argument of the embedding kernel. Names come from the keys
(xnnpack.constant_key) and, for tables, from the constant method TABLES_METHOD; both carry the sha256 of
the bytes they name, which is checked here.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import re
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import executorch.backends.xnnpack.serialization as xnnpack_serialization
import numpy as np
from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader
from executorch.exir._serialize._flatbuffer import _flatc_decompile
from executorch.exir._serialize._flatbuffer_program import _flatbuffer_to_program
from executorch.exir._serialize._program import PTEFile, _get_extended_header, deserialize_pte_binary
from executorch.exir.schema import DelegateCall, KernelCall, Null, Program, String, Tensor
from numpy.typing import NDArray

from exporter.backends.base import PackedLayer
from exporter.backends.executorch.modules import swap_pairs
from exporter.backends.executorch.operators import members, spoken
from exporter.backends.executorch.static_reading import exact_scales, is_static, static_layers
from exporter.errors import ArtifactError
from exporter.numerics import canonical_granularity, from_bf16_bits, unpack_int4

TABLES_METHOD = "qexport_tables"  # returns "MODULE_PATH:SHA256 MODULE_PATH:SHA256 …"
_DTYPES = {"BYTE": np.uint8, "CHAR": np.int8, "FLOAT": np.float32, "LONG": np.int64, "BFLOAT16": np.uint16}
_AGAIN = "run the recipe again"
_EMBEDDINGS = {"quantized_decomposed::embedding_4bit": 4, "quantized_decomposed::embedding_byte": 8}
_WEIGHT_BITS = {"xnn_datatype_qcint8": 8, "xnn_datatype_qcint4": 4, "xnn_datatype_qbint4": 4}


@dataclass(frozen=True)
class DelegateGraph:
    """One XNNPACK delegate's graph, as its schema names the fields."""

    values: list[dict[str, Any]]
    nodes: list[dict[str, Any]]
    constant_keys: list[str]

    def filters(self) -> Iterator[dict[str, Any]]:
        """The quantised weight of each fully-connected node that takes float or dynamic activations."""
        for node in self.nodes:
            if node["xnode_union_type"] == "XNNFullyConnected":
                if is_static(self.values[node["xnode_union"]["input1_id"]]):
                    continue
                value = self.values[node["xnode_union"]["filter_id"]]
                if value["xvalue_union_type"] == "XNNQuantizedTensorValue":
                    yield value["xvalue_union"]

    @property
    def quantizes_activations(self) -> bool:
        """Whether a tensor is converted to int8 while the graph runs."""
        return any(node["xnode_union_type"] == "XNNConvert" for node in self.nodes)


@dataclass(frozen=True)
class ProgramFile:
    """A parsed .pte."""

    path: Path
    contents: PTEFile
    shared_keys: frozenset[str]  # named data that lies inside the program's constants

    @property
    def plans(self) -> list[Any]:
        """The execution plans, one per method."""
        return list(self.contents.program.execution_plan)

    def named_constant(self, key: str) -> tuple[str, bytes]:
        """Name and bytes of a delegate's constant, the bytes checked against the hash in the key."""
        named = self.contents.named_data
        if named is None or key not in named.pte_data:
            raise ArtifactError(f"{self.path}: the constant {key!r} is missing; {_AGAIN}")
        data = bytes(named.buffers[named.pte_data[key].buffer_index])
        name, _, digest = key.rpartition(
            ":" if ":" in key else "_"
        )  # scale_HASH: of ExecuTorch's own visitors
        if hashlib.sha256(data).hexdigest() != digest:
            layer, _, part = name.rpartition(".")
            whose = f"the {part} of {spoken(layer)}" if layer else name
            raise ArtifactError(
                f"{self.path}: the bytes of {whose} are not those that were written; {_AGAIN}"
            )
        return name, data


def open_program(path: Path) -> ProgramFile:
    """Parse a .pte. Raises ArtifactError when it is missing or damaged."""
    try:
        data = path.read_bytes()
        header = _get_extended_header(data)
        program = _flatbuffer_to_program(data[: header.program_size if header else len(data)])
        return ProgramFile(path, deserialize_pte_binary(data), _shared_keys(program))
    except OSError as problem:
        raise ArtifactError(f"{path}: cannot be read ({problem.strerror}); {_AGAIN}") from problem
    except (ValueError, struct.error, AssertionError, IndexError, TypeError, AttributeError) as problem:
        raise ArtifactError(f"{path}: is no whole ExecuTorch program ({problem}); {_AGAIN}") from problem


def _shared_keys(program: Program) -> frozenset[str]:
    """Keys whose segment starts within the constants' segment (finishing.py)."""
    if not program.segments or not program.constant_segment.offsets:
        return frozenset()
    number = program.constant_segment.segment_index
    constants = program.segments[number]
    inside = range(constants.offset, constants.offset + constants.size)
    return frozenset(
        entry.key
        for entry in program.named_data or []
        if entry.segment_index != number and program.segments[entry.segment_index].offset in inside
    )


def read_layers(path: Path) -> dict[str, PackedLayer]:
    """Every quantised layer of the file, by module path."""
    file = open_program(path)
    layers: dict[str, PackedLayer] = {}
    for graph in delegate_graphs(file):
        for weight in graph.filters():
            layers |= {layer.name: layer for layer in _linears(file, graph, weight)}
        for layer in static_layers(graph.nodes, graph.values, partial(_constant_of, file, graph)):
            layers[layer.name] = layer
    for layer in _tables(file):
        layers[layer.name] = layer
    return layers


def delegate_graphs(file: ProgramFile) -> Iterator[DelegateGraph]:
    """The graph of every XNNPACK delegate that the program calls, in order."""
    with tempfile.TemporaryDirectory() as folder:
        schema = importlib.resources.files(xnnpack_serialization).joinpath("schema.fbs").read_bytes()
        Path(folder, "schema.fbs").write_bytes(schema)
        for plan in file.plans:
            called = [
                instruction.instr_args.delegate_index
                for chain in plan.chains
                for instruction in chain.instructions
                if isinstance(instruction.instr_args, DelegateCall)
            ]
            for number in called:
                delegate = plan.delegates[number]
                if delegate.id == "XnnpackBackend":
                    payload = file.contents.program.backend_delegate_data[delegate.processed.index].data
                    yield _parse_graph(bytes(payload), Path(folder))


def _parse_graph(payload: bytes, folder: Path) -> DelegateGraph:
    header = XNNHeader.from_bytes(payload[: XNNHeader.EXPECTED_LENGTH])
    start = header.flatbuffer_offset
    binary = folder / "graph.bin"
    binary.write_bytes(payload[start : start + header.flatbuffer_size])
    _flatc_decompile(str(folder), str(folder / "schema.fbs"), str(binary), ["--raw-binary"])
    # flatc writes the bounds of a fused activation as inf, Python's json reads Infinity
    text = re.sub(r"(:\s*-?)inf\b", r"\1Infinity", (folder / "graph.json").read_text())
    graph = json.loads(text)
    for number, scale in exact_scales(binary.read_bytes()).items():
        graph["xvalues"][number]["xvalue_union"]["quant_params"]["scale"] = scale
    keys = [entry.get("named_key", "") for entry in graph["constant_data"]]
    return DelegateGraph(graph["xvalues"], graph["xnodes"], keys)


def _constant_of(file: ProgramFile, graph: DelegateGraph, number: int) -> tuple[str, bytes]:
    return file.named_constant(graph.constant_keys[number])


def _linears(file: ProgramFile, graph: DelegateGraph, weight: dict[str, Any]) -> Iterator[PackedLayer]:
    """The layer of a fully-connected node, or each of those that it joins."""
    tensor, quantization = weight["tensor_value"], weight["quant_params"]
    bits = _WEIGHT_BITS[tensor["datatype"]]
    out_features, in_features = tensor["dims"]
    keys = [graph.constant_keys[tensor["constant_buffer_idx"]]]
    keys.append(graph.constant_keys[quantization["scale_buffer_idx"]])
    (key, data), (_, scale_data) = (file.named_constant(key) for key in keys)
    if weight["quant_params_type"] == "PerChannelGroupQuant":
        scales = from_bf16_bits(np.frombuffer(scale_data, np.uint16))
    else:
        scales = np.frombuffer(scale_data, np.float32)
    values = _unpack(np.frombuffer(data, np.uint8).reshape(out_features, -1), bits)
    values, scales = values.reshape(out_features, in_features), scales.reshape(out_features, -1)
    size = sum(
        len(part) for key, part in zip(keys, (data, scale_data), strict=True) if key not in file.shared_keys
    )
    try:
        parts = list(members(key.removesuffix(".weight"), out_features))
    except ValueError as problem:
        raise ArtifactError(f"{file.path}: {problem}; {_AGAIN}") from problem
    for name, rows in parts:
        share = size * (rows.stop - rows.start) // out_features  # exact: every row takes the same
        yield _packed_layer(name, bits, values[rows], scales[rows], None, share)


def _tables(file: ProgramFile) -> Iterator[PackedLayer]:
    """The quantised embeddings."""
    plans = {plan.name: plan for plan in file.plans}
    named: dict[str, list[str]] = {}
    if TABLES_METHOD in plans:
        plan = plans[TABLES_METHOD]
        text = plan.values[plan.outputs[0]].val
        assert isinstance(text, String)
        for entry in text.string_val.split():
            name, _, digest = entry.rpartition(":")
            named.setdefault(digest, []).append(name)
    for plan in plans.values():
        for call in _embedding_calls(plan):
            table = _constant(file, plan, call.arguments[0])
            stored = _constant(file, plan, call.arguments[1])
            zero_points = _constant(file, plan, call.arguments[2])
            assert table is not None and stored is not None
            digest = hashlib.sha256(table.tobytes()).hexdigest()
            if digest not in named:
                raise ArtifactError(
                    f"{file.path}: an embedding table has no name in {TABLES_METHOD}; {_AGAIN}"
                )
            values = _unpack(table.view(np.uint8), call.bits)
            if call.bits == 4:  # the kernel reads the even element from the high nibble, not the low one
                values = swap_pairs(values)
            if call.order is not None:
                order = _constant(file, plan, call.order)
                assert order is not None
                values = values[:, order]
            zeros = None if zero_points is None else zero_points.astype(np.int8)
            size = sum(array.nbytes for array in (table, stored, zero_points) if array is not None)
            scales = from_bf16_bits(stored) if stored.dtype == np.uint16 else stored
            for name in named[digest]:
                yield _packed_layer(name, call.bits, values, scales, zeros, size)


@dataclass(frozen=True)
class _EmbeddingCall:
    arguments: list[int]  # numbers of the argument values
    bits: int
    order: int | None  # number of the indices that the looked-up rows' elements are selected by


def _embedding_calls(plan: Any) -> Iterator[_EmbeddingCall]:
    """Every quantised embedding kernel called."""
    calls = [
        (plan.operators[instruction.instr_args.op_index].name, instruction.instr_args.args)
        for chain in plan.chains
        for instruction in chain.instructions
        if isinstance(instruction.instr_args, KernelCall)
    ]
    for position, (kernel, arguments) in enumerate(calls):
        if kernel not in _EMBEDDINGS:
            continue
        order = next(
            (
                inputs[2]
                for other, inputs in calls[position + 1 :]
                if other == "aten::index_select" and inputs[0] == arguments[-1]
            ),
            None,
        )
        yield _EmbeddingCall(arguments, _EMBEDDINGS[kernel], order)


def _constant(file: ProgramFile, plan: Any, number: int) -> NDArray[Any] | None:
    """A constant tensor of the program; None where the argument is None."""
    value = plan.values[number].val
    if isinstance(value, Null):
        return None
    assert isinstance(value, Tensor)
    dtype = _DTYPES[value.scalar_type.name]
    data = bytes(file.contents.program.constant_buffer[value.data_buffer_idx].storage)
    count = int(np.prod(value.sizes))
    return np.frombuffer(data, dtype, count).reshape(value.sizes)


def _unpack(rows: NDArray[np.uint8], bits: int) -> NDArray[np.int8]:
    return unpack_int4(rows) if bits == 4 else rows.view(np.int8)


def _packed_layer(
    name: str,
    bits: int,
    values: NDArray[np.int8],
    scales: NDArray[np.float32],
    zero_points: NDArray[np.int8] | None,
    size: int,
) -> PackedLayer:
    scales, zero_points, group = canonical_granularity(scales, zero_points, values.shape[1])
    return PackedLayer(name, bits, group, np.ascontiguousarray(values), scales, zero_points, size)
