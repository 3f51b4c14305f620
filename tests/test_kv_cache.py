"""kv_cache: int8 through the whole job: lowered, compared with PyTorch over the same rounding, its loss told apart."""

from tiny_jobs import write_recipe

from exporter.artifacts import read_manifest
from exporter.parity import ParityReport

TARGETS = (
    '[{backend: onnxruntime, min_runtime: "1.28", max_context: 256, kv_cache: int8}, '
    "{backend: executorch, max_context: 256, kv_cache: int8}]"
)


def test_an_int8_cache_in_both_runtimes(tiny_checkpoint, tmp_path, qexport):
    recipe = write_recipe(tmp_path, tiny_checkpoint, targets=TARGETS)
    done = qexport("--recipe", recipe, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    summary = read_manifest(tmp_path / "out")["summary"]
    rungs = {rung.name: rung for rung in ParityReport.from_json(summary["parity"]).rungs}
    losses = [rung for name, rung in rungs.items() if name.startswith("KV cache in int8")]
    # ONNX Runtime's scales are fixed, ExecuTorch's one per token: two roundings, each told by itself
    assert len(losses) == 2 and len({rung.candidate for rung in losses}) == 2
    assert all(0 < rung.result.kl_mean < 0.01 for rung in losses)
    for forecast in summary["plan"]["targets"]:
        assert forecast["target"]["kv_cache"] == "int8"
    assert "scales are measured on the package's own text" in " ".join(summary["plan"]["notes"])


def test_a_runtime_too_old_for_it(tiny_checkpoint, tmp_path, qexport):
    targets = '[{backend: onnxruntime, min_runtime: "1.23", max_context: 256, kv_cache: int8}]'
    recipe = write_recipe(tmp_path, tiny_checkpoint, targets=targets)
    done = qexport("plan", "--recipe", recipe)
    assert (done.code, done.out) == (2, "")
    assert "min_runtime is 1.23" in done.err and "1.28" in done.err
