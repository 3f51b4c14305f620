"""`qexport targets` and `qexport doctor`: what is here, what each target takes, and how to mend what is not."""

from __future__ import annotations

import json

from exporter import installed
from exporter.backends import NAMES
from exporter.backends.npu import vendor
from exporter.socs import SOCS


def test_every_backend_is_a_target(qexport):
    done = qexport("targets", "--json")
    assert done.code == 0
    assert [row["target"] for row in json.loads(done.out)] == list(NAMES)


def test_a_target_that_is_not_here_says_the_command(qexport, monkeypatch):
    monkeypatch.setattr(vendor, "missing", lambda key: f"{key} lacks something; pip install it")
    done = qexport("targets")
    assert "onnxruntime-qnn  not here" in done.out
    assert "runs here: no: onnxruntime-qnn lacks something; pip install it" in done.out
    assert (
        "conv: int8 or int4, channel or tensor, activations static-int8 or static-int16; int4 from HTP v73 on"
        in (" ".join(done.out.split()))
    )


def test_every_chip_is_listed(qexport):
    done = qexport("targets", "--chips")
    assert done.code == 0
    assert all(name in done.out for name in SOCS)
    assert "Snapdragon 8 Elite" in done.out


def test_the_doctor(qexport, monkeypatch):
    done = qexport("doctor")
    assert done.code == 0
    assert "executorch" in done.out
    monkeypatch.setattr(installed, "_version", lambda name: None if name == "torch" else "1")
    done = qexport("doctor")
    assert done.code == 2
    assert "torch is not installed; pip install qexport" in " ".join(done.out.split())
