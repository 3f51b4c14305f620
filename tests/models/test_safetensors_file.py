"""A safetensors file filled tensor by tensor is read by the library that defines the format."""

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from exporter.models.safetensors_file import SafetensorsFile

SHAPES = {"a.weight": (3, 5), "b": (), "c.bias": (7,), "none": (0, 4)}


def test_it_is_a_safetensors_file(tmp_path):
    path = tmp_path / "model.safetensors"
    random = np.random.default_rng(0)
    values = {name: random.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    with SafetensorsFile(path, SHAPES) as file:
        for name in reversed(SHAPES):  # in any order
            file[name] = values[name]
        assert file.missing == [] and "b" in file
    loaded = load_file(path)
    assert loaded.keys() == values.keys()
    for name, array in values.items():
        assert np.array_equal(loaded[name], array) and loaded[name].dtype == np.float32
    with safe_open(path, framework="np") as stream:
        assert stream.metadata() == {"format": "pt"}


def test_a_tensor_in_pieces(tmp_path):
    """As the mapping of merged expert weights does: zeros first, then slices of what is in the file."""
    import torch

    path = tmp_path / "model.safetensors"
    with SafetensorsFile(path, {"a": (2, 3), "x": (4, 3)}) as file:
        assert "x" not in file
        file["x"] = torch.zeros(4, 3)
        file["x"].narrow(0, 2, 2).copy_(torch.ones(2, 3))
        assert file.missing == ["a"]
    assert load_file(path)["x"].tolist() == [[0.0] * 3] * 2 + [[1.0] * 3] * 2


def test_another_shape(tmp_path):
    with (
        SafetensorsFile(tmp_path / "m", {"a": (2, 3)}) as file,
        pytest.raises(ValueError, match=r"^a has shape \(3, 2\), config.json asks for \(2, 3\)$"),
    ):
        file["a"] = np.zeros((3, 2), np.float32)
