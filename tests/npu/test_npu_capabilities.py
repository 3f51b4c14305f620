"""Every entry of every capability table through the real compiler, and its codes against the simulator's."""

from __future__ import annotations

import pytest
from nets import entries_recipe, operators_recipe

from exporter.artifacts import read_manifest
from exporter.backends.npu.capabilities import TABLES

HTP = "{backend: onnxruntime, ep: qnn, soc: SM8750}, {backend: executorch, delegate: qualcomm, soc: SM8750}"
TOSA = "{backend: executorch, delegate: tosa}"
ETHOS = "{backend: executorch, delegate: ethos-u, variant: ethos-u85-256}"


@pytest.mark.npu
@pytest.mark.parametrize(
    ("targets", "activations"),
    [(HTP, "static-int8"), (HTP, "static-int16"), (f"{TOSA}, {ETHOS}", "static-int8")],
    ids=["htp a8", "htp a16", "tosa and ethos-u a8"],
)
def test_each_entry_compiles_and_computes_its_codes(tmp_path, monkeypatch, qexport, targets, activations):
    """TOSA's with 16-bit activations are those of test_npu_jobs."""
    recipe = entries_recipe(tmp_path, monkeypatch, activations, targets)
    done = qexport("--recipe", recipe, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    summary = read_manifest(tmp_path / "out")["summary"]
    planned = {
        (layer["kind"], layer["scheme"]["weights"], layer["scheme"]["group"], activations)
        for layer in summary["plan"]["layers"]
    }
    for key, facts in summary["targets"].items():
        entries = {
            (e.kind, e.weights, e.group, e.activations) for e in TABLES[key] if e.activations == activations
        }
        assert entries <= planned
        assert facts["on_npu"] == "100 %"


@pytest.mark.npu
@pytest.mark.parametrize(
    ("targets", "activations"), [(HTP, "static-int16"), (TOSA, "static-int8")], ids=["htp a16", "tosa a8"]
)
def test_each_operator_computes_its_codes(tmp_path, monkeypatch, qexport, targets, activations):
    recipe = operators_recipe(tmp_path, monkeypatch, activations, targets)
    done = qexport("--recipe", recipe, "--out", tmp_path / "out")
    assert done.code == 0, done.err


def test_a_table_says_where_each_entry_is_written_down():
    for key, entries in TABLES.items():
        assert entries, key
        for entry in entries:
            assert len(entry.source) > 20
