"""Writes which operators a runtime has into the demo's app/runtimes.json, for `qexport bundle` to hold models against.

    python scripts/runtime_operators.py onnxruntime    of the installed package, which must be the app's version:
    pip install --target DIR --no-deps onnxruntime==VERSION, then PYTHONPATH=DIR, reads that of another one
    python scripts/runtime_operators.py executorch

ONNX Runtime's package and its Android archive are builds of one source with the same kernels for the CPU. Those of
ExecuTorch's package are portable, optimized, quantized and the language models' own, as in its Android archive.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path

RUNTIMES = Path(__file__).parent.parent / "android_demo/app/runtimes.json"


def of_onnxruntime() -> set[str]:
    """`domain::name` of each kernel for the CPU."""
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_opkernel_def

    return {
        f"{kernel.domain or 'ai.onnx'}::{kernel.op_name}"
        for kernel in get_all_opkernel_def()
        if kernel.provider == "CPUExecutionProvider"
    }


def of_executorch() -> set[str]:
    """`namespace::name.overload` of each kernel."""
    import executorch.extension.llm.custom_ops.custom_ops  # registers its kernels when imported
    import executorch.kernels.quantized  # noqa: F401
    from executorch.extension.pybindings import portable_lib

    return set(portable_lib._get_operator_names())


def main() -> None:
    """The command line."""
    kinds = {"onnxruntime": of_onnxruntime, "executorch": of_executorch}
    if len(sys.argv) != 2 or sys.argv[1] not in kinds:
        sys.exit(__doc__)
    data = json.loads(RUNTIMES.read_text("utf-8"))
    entry = data["runtimes"][sys.argv[1]]
    version = importlib.metadata.version(sys.argv[1])
    if version != entry["version"]:
        sys.exit(f"{sys.argv[1]} {version} is installed, the app ships {entry['version']}; install that one")
    names: dict[str, list[str]] = {}
    for operator in sorted(kinds[sys.argv[1]]()):
        domain, _, name = operator.partition("::")
        names.setdefault(domain, []).append(name)
    entry["operators"] = {domain: " ".join(found) for domain, found in names.items()}
    RUNTIMES.write_text(json.dumps(data, indent=1) + "\n", "utf-8")
    print(f"{sys.argv[1]} {version}: {sum(map(len, names.values()))} operators")


if __name__ == "__main__":
    main()
