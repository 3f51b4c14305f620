"""Finding a model, and what is said when it cannot be found."""

import os
from pathlib import Path

import pytest

from exporter.errors import SourceError
from exporter.models.sources import PythonFunction, resolve


def refusal(source, base=Path()):
    with pytest.raises(SourceError) as error:
        resolve(source, base)
    return str(error.value)


def test_folder_beside_the_recipe(tiny_checkpoint):
    assert resolve(tiny_checkpoint.name, tiny_checkpoint.parent).path == tiny_checkpoint
    assert resolve(str(tiny_checkpoint), Path("/")).path == tiny_checkpoint


def test_python_function():
    assert resolve("python:app.net:build", Path()) == PythonFunction(
        "python:app.net:build", "app.net", "build"
    )


def test_folder_without_config(tmp_path):
    assert refusal(str(tmp_path)) == (
        f"model source '{tmp_path}': folder {tmp_path} has no config.json; it must hold a Hugging Face checkpoint "
        "(config.json, tokenizer files and *.safetensors)"
    )


def test_nothing_there(tmp_path, monkeypatch):
    monkeypatch.setenv("QEXPORT_CACHE", "/cache")
    assert refusal("modle", tmp_path) == (
        f"model source 'modle': there is no {tmp_path / 'modle'} and modle and /cache/models/modle. A source "
        "is a local folder or .gguf file, hf:ORG/NAME@REV, package:DIST/FILE or python:module:function"
    )


def test_a_plain_name_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QEXPORT_CACHE", str(tmp_path))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "fetched.gguf").write_bytes(b"GGUF")
    assert resolve("fetched.gguf", Path("/")).path == tmp_path / "models" / "fetched.gguf"


def test_package_not_installed():
    assert refusal("package:no_such_dist/model.gguf") == (
        "model source 'package:no_such_dist/model.gguf': the package 'no_such_dist' is not installed in this "
        "environment. Install it (pip install no-such-dist) or set another source: a local folder or .gguf "
        "file, hf:ORG/NAME@REV, package:DIST/FILE or python:module:function"
    )


def test_package_without_that_file():
    from importlib.metadata import version

    assert refusal("package:click/cor.py") == (
        f"model source 'package:click/cor.py': package click {version('click')} holds no file 'cor.py'; "
        "did you mean 'core.py'?"
    )


def test_package_without_a_file():
    assert refusal("package:click").endswith("write package:DIST/FILE, the file's path inside the package")


def test_hub_offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = refusal("hf:org/name@v1")
    assert message.startswith("model source 'hf:org/name@v1': the hub could not be read (")
    assert message.endswith(
        "Offline, do this: on a machine with a network run `hf download org/name --revision v1 --local-dir FOLDER`, "
        "bring FOLDER here, and set `source: FOLDER` (or pass --model FOLDER)"
    )


def test_hub_name_form():
    assert refusal("hf:name") == "model source 'hf:name': write hf:ORG/NAME or hf:ORG/NAME@REVISION"


def test_cache_folder_can_be_moved(monkeypatch, tmp_path):
    from exporter.folders import cache_folder

    monkeypatch.setenv("QEXPORT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    assert os.environ["QEXPORT_CACHE"] == str(tmp_path)
