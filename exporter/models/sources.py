"""Where a model comes from: `source` of the recipe -> a Hugging Face folder, or a Python function.

    path/to/folder             config.json, tokenizer files, *.safetensors or pytorch_model.bin
    path/to/file.gguf          one GGUF file; a plain name is also looked for in the cache's models folder
    hf:ORG/NAME@REV            the hub, through huggingface_hub and its cache
    package:DIST/FILE          a file or folder inside an installed Python package (.gguf too)
    python:module:function     returns (torch.nn.Module, example_inputs[, dynamic_shapes])

Nothing here imports torch: `qexport plan` must answer in seconds.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from exporter.errors import SourceError, first_line
from exporter.folders import cache_folder

FORMS = "a local folder or .gguf file, hf:ORG/NAME@REV, package:DIST/FILE or python:module:function"


@dataclass(frozen=True)
class ModelFiles:
    """A checkpoint on this disk, not opened yet."""

    source: str  # as the recipe has it
    path: Path  # a folder in Hugging Face's layout, or one .gguf file
    revision: str | None

    @property
    def is_gguf(self) -> bool:
        """True for one GGUF file, which is converted once into the cache before use."""
        return self.path.suffix == ".gguf"


@dataclass(frozen=True)
class PythonFunction:
    """A function of the user's own code that builds the model."""

    source: str
    module: str
    function: str


def models_folder() -> Path:
    """Where scripts/fetch_models.py puts model files, and where a plain file name is looked for last."""
    return cache_folder() / "models"


def resolve(source: str, relative_to: Path) -> ModelFiles | PythonFunction:
    """Find the files of a recipe's source. A relative path counts from the recipe's own folder, then from
    the working folder; a plain name is then looked for in models_folder(). Raises SourceError naming what
    was looked for and the way out."""
    scheme, _, rest = source.partition(":")
    if scheme == "hf" and rest:
        return _from_hub(source, rest)
    if scheme == "package" and rest:
        return _from_package(source, rest)
    if scheme == "python" and rest:
        module, _, function = rest.partition(":")
        if not module or not function:
            raise SourceError(
                f"model source {source!r}: write python:module:function, e.g. python:my_app.net:build"
            )
        return PythonFunction(source, module, function)
    return _from_folder(source, relative_to)


def file_sha256(path: Path) -> str:
    """sha256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _from_folder(source: str, relative_to: Path) -> ModelFiles:
    candidates = [Path(source).expanduser()]
    if not candidates[0].is_absolute():
        candidates.insert(0, relative_to / source)
    if source == candidates[-1].name:
        candidates.append(models_folder() / source)
    for path in candidates:
        if path.suffix == ".gguf" and path.is_file():
            return ModelFiles(source, path, None)
        if (path / "config.json").is_file():
            return ModelFiles(source, path, None)
    for path in candidates:
        if path.is_dir():
            raise SourceError(
                f"model source {source!r}: folder {path} has no config.json; it must hold a Hugging Face "
                "checkpoint (config.json, tokenizer files and *.safetensors)"
            )
    looked = " and ".join(str(path) for path in candidates)
    raise SourceError(f"model source {source!r}: there is no {looked}. A source is {FORMS}")


def _from_package(source: str, rest: str) -> ModelFiles:
    from importlib import metadata

    name, _, inner = rest.partition("/")
    if not inner:
        raise SourceError(
            f"model source {source!r}: write package:DIST/FILE, the file's path inside the package"
        )
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        raise SourceError(
            f"model source {source!r}: the package {name!r} is not installed in this environment. "
            f"Install it (pip install {name.replace('_', '-')}) or set another source: {FORMS}"
        ) from None
    files = [str(file) for file in distribution.files or []]
    wanted = [file for file in files if file == inner or file.endswith(f"/{inner}")]
    folder = [file for file in files if f"/{file}".endswith(f"/{inner.rstrip('/')}/config.json")]
    for match in wanted + [str(Path(file).parent) for file in folder]:
        path = Path(str(distribution.locate_file(match)))
        if path.exists():
            return ModelFiles(source, path, f"{name}=={distribution.version}")
    close = difflib.get_close_matches(inner, [Path(file).name for file in files], n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise SourceError(
        f"model source {source!r}: package {name} {distribution.version} holds no file {inner!r}{hint}"
    )


def _from_hub(source: str, rest: str) -> ModelFiles:
    repo, _, revision = rest.partition("@")
    if repo.count("/") != 1:
        raise SourceError(f"model source {source!r}: write hf:ORG/NAME or hf:ORG/NAME@REVISION")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "pytorch_model*.bin"]
    try:
        folder = snapshot_download(repo, revision=revision or None, allow_patterns=patterns)
    except Exception as problem:  # the hub's and the HTTP library's errors share no base class
        raise SourceError(
            f"model source {source!r}: the hub could not be read ({type(problem).__name__}: {first_line(problem)}). "
            f"Offline, do this: on a machine with a network run `hf download {repo}"
            + (f" --revision {revision}" if revision else "")
            + " --local-dir FOLDER`, bring FOLDER here, and set `source: FOLDER` (or pass --model FOLDER)"
        ) from problem
    path = Path(folder)
    return ModelFiles(source, path, path.name)
