"""What a job is told apart by: two of one hash write the same files."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from exporter import __version__
from exporter.models.loading import Model
from exporter.models.sources import file_sha256
from exporter.plan import QuantPlan
from exporter.recipe import Recipe
from exporter.samples.drawing import calibration_key
from exporter.samples.labelled import data_key

_VERSIONS = (
    "torch",
    "transformers",
    "onnx",
    "onnxruntime",
    "onnxruntime-genai",
    "onnxscript",
    "executorch",
    "torchao",
)


def job_hash(recipe: Recipe, plan: QuantPlan, model: Model) -> str:
    """Two jobs of one hash write the same files: same plan, gates, weights and tool versions."""
    content = {
        "plan": plan.to_json(),
        "recipe": recipe.sha256,
        "texts": [file_sha256(path) for path in recipe.parity.text],
        "calibration": calibration_key(recipe.calibration) if recipe.calibration else None,
        "data": data_key(recipe.parity.data) if recipe.parity.data else None,
        "model": model.identity(),
        "versions": versions(),
        "code": _code_sha256(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _code_sha256() -> str:
    """Hash of this package's own files: between releases the version alone does not tell them apart."""
    digest = hashlib.sha256()
    root = Path(__file__).parent
    for path in sorted(path for path in root.rglob("*") if path.suffix in (".py", ".txt", ".json", ".j2")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Of qexport and the packages that files depend on."""
    found = {"qexport": __version__}
    for name in _VERSIONS:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
