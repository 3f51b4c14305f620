"""From a skeleton to compiled files for each NPU target, and back to what a simulator gives."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from exporter.backends.base import Progress
from exporter.backends.npu import arm, qnn, qualcomm, vendor
from exporter.backends.npu.qdq import codes_program, write_qdq
from exporter.errors import ArtifactError
from exporter.socs import SOCS
from exporter.targets import Target

if TYPE_CHECKING:
    from exporter.models.python_module import ModuleSkeleton


# The one node of a compiled file.
_ALONE = {
    "qnn": "com.microsoft::EPContext",
    "qualcomm": "delegate QnnBackend",
    "tosa": "delegate TOSABackend",
    "ethos-u": "delegate EthosUBackend",
}


def lower(
    skeleton: ModuleSkeleton, target: Target, folder: Path, progress: Progress, share: bool = True
) -> dict[str, object]:
    """Compile for every chip; facts for the manifest. `share`: programs of the same layers hold each weight once."""
    progress("tracing", 0.0)
    programs = programs_of(skeleton)
    names = input_names_of(skeleton)
    (folder / qnn.NAMES).write_text(json.dumps(names))
    what = f"{target.key}: compiling"
    job: dict[str, Any] = {"folder": str(folder.resolve())}
    if target.dialect == "qualcomm":
        job.update(socs=target.soc, share=share and len(programs) > 1)
    compiled: Mapping[str, Any]
    if target.unit == "qnn":
        paths = {role: folder / qnn.GRAPHS[role] for role in programs}
        for role, each in programs.items():
            write_qdq(each, names, paths[role])
        progress("compiling by QNN", 0.3)
        compiled = vendor.work("qnn-compile", {**job, "graphs": _absolute(paths)}, what)
        runtime = version("onnxruntime")
    else:
        paths = {role: folder / f"{role}.pt2" for role in programs}
        for role, each in programs.items():
            torch.export.save(codes_program(each), paths[role])
        progress("compiling", 0.3)
        if target.unit == "qualcomm":
            compiled = vendor.work("qualcomm-compile", {**job, "programs": _absolute(paths)}, what)
        else:
            arguments = {**job, "program": _absolute(paths)["forward"], "variant": target.variant}
            compiled = {target.variant or "any": vendor.work("arm-compile", arguments, what)}
        for path in paths.values():
            path.unlink()
        runtime = version("executorch")
    progress("reading back chip and operators", 0.9)
    check(target, folder)
    progress("done", 1.0)
    simulator = "Arm's TOSA reference model" if target.dialect == "arm" else "Qualcomm's HTP simulator"
    alone = ", on the graphs compiled without sharing: it loads no context that shares weights"
    return {
        "operators": [_ALONE[target.unit]],
        "min_runtime": runtime,
        "compiled": compiled,
        "model_bytes": max(int(each["bytes"]) for each in compiled.values()),  # what one phone gets
        "chips": {name: f"v{SOCS[name].arch}" for name in target.soc},
        "on_npu": "100 %",
        "packages": {p.distribution: p.version for p in vendor.needed(target.key)},
        "host_run": simulator + (alone if len(programs) > 1 else ""),
        **({"prefill": target.prefill} if target.prefill else {}),
    }


def programs_of(skeleton: ModuleSkeleton) -> dict[str, ModuleSkeleton]:
    """Role -> program: `forward`, and for some language models `prefill`."""
    return {"forward": skeleton, **({"prefill": skeleton.prefill} if skeleton.prefill else {})}


def _absolute(paths: Mapping[str, Path]) -> dict[str, str]:
    return {role: str(path.resolve()) for role, path in paths.items()}


def check(target: Target, folder: Path) -> None:
    """Raise ArtifactError where a compiled file has a node on the CPU, or is for another chip, or is missing."""
    for path, chip in files(target, folder).items():
        if not path.is_file():
            raise ArtifactError(f"{path}: is missing; export again")
        if target.unit == "qnn":
            qnn.check_context(path, chip)
        elif target.unit == "qualcomm":
            qualcomm.check_program(path, chip, roles(target))
        else:
            arm.check_program(path, target.unit)


def roles(target: Target) -> tuple[str, ...]:
    """Of the programs in one chip's files."""
    return ("forward", "prefill") if target.prefill else ("forward",)


def files(target: Target, folder: Path) -> dict[Path, str]:
    """Compiled file -> its chip."""
    if target.unit == "qnn":
        return {folder / qnn.context_name(name, role): name for name in target.soc for role in roles(target)}
    if target.unit == "qualcomm":
        return {folder / qualcomm.program_name(name): name for name in target.soc}
    return {folder / arm.PROGRAM: target.variant or "any"}


def input_names_of(skeleton: ModuleSkeleton) -> tuple[str, ...]:
    """Of a module: as forward's parameters are called, or as the model's inputs are."""
    stated: tuple[str, ...] | None = getattr(skeleton, "input_names", None)
    if stated is not None:
        return stated
    parameters = list(inspect.signature(skeleton.forward).parameters)
    count = len(skeleton.example_inputs)
    return tuple(parameters[i] if i < len(parameters) else f"input_{i}" for i in range(count))


def run(key: str, folder: Path, role: str, inputs: Path, outputs: Path) -> None:
    """The simulator over all cases; the first chip's program."""
    what = f"{key}: running in the simulator"
    job = {"inputs": str(inputs), "outputs": str(outputs)}
    if key == "onnxruntime-qnn":
        soc = sorted(folder.glob("model.*.onnx"))[0].name.split(".")[1]
        model = folder / qnn.context_name(soc, role)
        vendor.work("qnn-run", {**job, "model": str(model.resolve()), "soc": soc}, what)
    elif key == "executorch-qualcomm":
        model = sorted(folder.glob("model.*.pte"))[0]
        vendor.work("qualcomm-run", {**job, "model": str(model.resolve()), "role": role}, what)
    else:
        vendor.work("tosa-run", {**job, "folder": str(folder.resolve())}, what)
