"""The other side of exporter.backends.npu.vendor.work: one job in this process, its result in result.json."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from exporter.errors import QexportError

JOBS = {
    "qnn-compile": ("exporter.backends.npu.qnn", "compile_contexts"),
    "qnn-run": ("exporter.backends.npu.qnn", "run_context"),
    "qualcomm-compile": ("exporter.backends.npu.qualcomm", "compile_program"),
    "qualcomm-run": ("exporter.backends.npu.qualcomm", "run_program"),
    "arm-compile": ("exporter.backends.npu.arm", "compile_program"),
    "tosa-run": ("exporter.backends.npu.arm", "run_tosa"),
}


def main(arguments: list[str]) -> int:
    """Job and folder, which holds job.json. A message for a person goes to problem.txt."""
    from importlib import import_module

    job, place = arguments[0], Path(arguments[1])
    module, function = JOBS[job]
    try:
        result = getattr(import_module(module), function)(**json.loads((place / "job.json").read_text()))
    except QexportError as problem:
        (place / "problem.txt").write_text(str(problem))
        return 1
    (place / "result.json").write_text(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
