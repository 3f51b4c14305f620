"""Two changes of a written .pte: tables are stored once, and the largest delegate loads first.

What both the program and a delegate hold, the table and scales of an embedding and its tied lm_head, is
stored once. ExecuTorch keeps a kernel's constants in one segment of the .pte and a delegate's weights in segments of
their own, found by name. A segment is an offset and a size, so a delegate's segment may point into the
constants' one where the bytes are the same. The runtime sees two tensors, the file holds one table;
XNNPACK repacks its weights while loading, so nothing gets slower.

A runtime loads delegates by number, and while one loads, its weights are there twice: in the file's pages and
repacked. The peak of memory is lowest when little else is loaded yet, so the largest gets the first number.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from executorch.exir._serialize._flatbuffer_program import _flatbuffer_to_program, _program_to_flatbuffer
from executorch.exir._serialize._program import (
    _ExtendedHeader,
    _get_extended_header,
    _insert_flatbuffer_header,
)
from executorch.exir._serialize.padding import aligned_size, pad_to
from executorch.exir.schema import BackendDelegate, DataLocation, DataSegment, DelegateCall, Program

_ALIGNMENT = 128  # of segments, ExecutorchBackendConfig's default
_CONSTANT_ALIGNMENT = 16  # of the flatbuffer, as ExecuTorch's serialiser takes it


def finish(path: Path) -> int:
    """Rewrite the .pte so. Returns the bytes saved by what is stored once."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        header = _get_extended_header(data[: 2 * _ALIGNMENT])
        if header is None:  # a program without weights
            return 0
        program = _flatbuffer_to_program(data[: header.program_size])
        base = header.segment_base_offset
        shared = _find_shared(program, data, base)
        _number_by_size(program, data, base)
        partial = path.with_suffix(".partial")
        try:
            _write(partial, program, data, base, shared)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    return sum(program.segments[number].size for number in shared)


def _number_by_size(program: Program, data: mmap.mmap, base: int) -> None:
    """Sort the delegates of each method by the bytes of the named data that they use, the largest first."""
    sizes = {
        entry.key.encode(): program.segments[entry.segment_index].size for entry in program.named_data or []
    }

    def payload(delegate: BackendDelegate) -> bytes:
        place = delegate.processed
        if place.location == DataLocation.INLINE:
            return bytes(program.backend_delegate_data[place.index].data)
        segment = program.segments[place.index]
        return data[base + segment.offset : base + segment.offset + segment.size]

    for plan in program.execution_plan:
        contents = [payload(delegate) for delegate in plan.delegates]
        weights = [sum(size for key, size in sizes.items() if key in content) for content in contents]
        order = sorted(range(len(weights)), key=lambda number: -weights[number])
        plan.delegates = [plan.delegates[number] for number in order]
        for chain in plan.chains:
            for instruction in chain.instructions:
                call = instruction.instr_args
                if isinstance(call, DelegateCall):
                    call.delegate_index = order.index(call.delegate_index)


def _find_shared(program: Program, data: mmap.mmap, base: int) -> dict[int, int]:
    """Number of a named segment -> offset of the same bytes from the start of the constants' segment."""
    if not program.constant_segment.offsets:
        return {}
    constants = program.segments[program.constant_segment.segment_index]
    named = {entry.segment_index for entry in program.named_data or []}
    shared: dict[int, int] = {}
    for number in sorted(named):
        segment = program.segments[number]
        start = base + segment.offset
        for offset in program.constant_segment.offsets[1:]:  # the first is a placeholder
            other = base + constants.offset + offset
            if offset + segment.size > constants.size or data[start : start + 64] != data[other : other + 64]:
                continue
            if data[start : start + segment.size] == data[other : other + segment.size]:
                shared[number] = offset
                break
    return shared


def _write(path: Path, program: Program, data: mmap.mmap, base: int, shared: dict[int, int]) -> None:
    """Write the program again, the shared segments pointing into the constants' segment."""
    before = list(program.segments)
    after: list[DataSegment] = []
    end = 0
    for number, segment in enumerate(before):
        if number not in shared:
            segment = DataSegment(offset=aligned_size(end, _ALIGNMENT), size=segment.size)
            end = segment.offset + segment.size
        after.append(segment)
    constants = after[program.constant_segment.segment_index]
    for number, offset in shared.items():
        after[number] = DataSegment(offset=constants.offset + offset, size=before[number].size)
    program.segments = after
    flatbuffer = _program_to_flatbuffer(
        program, constant_tensor_alignment=_CONSTANT_ALIGNMENT, delegate_alignment=None
    )
    header_length = aligned_size(_ExtendedHeader.EXPECTED_LENGTH, flatbuffer.max_alignment)
    program_size = header_length + len(flatbuffer.data)
    new_base = aligned_size(program_size, _ALIGNMENT)
    header = _ExtendedHeader(
        program_size=program_size, segment_base_offset=new_base, segment_data_size=end
    ).to_bytes()
    with path.open("wb") as file:
        file.write(
            _insert_flatbuffer_header(
                flatbuffer_data=flatbuffer.data,
                magic_regex=r"ET[0-9a-zA-Z][0-9a-zA-Z]",
                header_data=pad_to(header, header_length),
            )
        )
        for number, segment in enumerate(before):
            if number not in shared:
                file.write(b"\x00" * (new_base + after[number].offset - file.tell()))
                start = base + segment.offset
                file.write(data[start : start + segment.size])
