"""scripts/bench.py as a person runs it, on the tiny model: every table is there, a failing peer is named."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def bench(*arguments: object, cache: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / "bench.py", *map(str, arguments)],
        env={**os.environ, "QEXPORT_CACHE": str(cache)},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("bench")
    done = bench(
        "--quick", "--only", "speed", "export", "--peers", "genai-builder", "llama.cpp", "--threads", 1, "--out", place,
        cache=place / "cache",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done, place


def test_figures_and_ratios(run):
    lines = run[0].stdout.splitlines()
    assert "| ours / peer, above 1 is better | onnxruntime / genai-builder |" in lines
    assert "|  | **ours, onnxruntime** | **ours, executorch** | genai-builder |" in lines
    for title in ("decode after 16", "prefill of 8", "load, s", "peak memory, MB", "file, MB"):
        figures, ratios = (line.split(" | ") for line in lines if line.startswith(f"| {title} |"))
        assert len(figures) == 4 and len(ratios) == 2
        assert all(float(cell.strip("| ").split(" ")[0]) >= 0 for cell in figures[1:])
        assert float(ratios[1].strip("| ").split(" ")[0]) > 0


def test_what_each_export_cost(run):
    rows = [
        line.strip("| ").split(" | ") for line in run[0].stdout.splitlines() if line.startswith("| tiny |")
    ]
    assert [row[2] for row in rows] == [
        "qexport, both runtimes and verify",
        "qexport, onnxruntime and verify",
        "qexport, executorch and verify",
        "genai-builder",
        "llama.cpp",
    ]
    both, onnxruntime, executorch, builder, llama_cpp = (row[3:] for row in rows)
    for _, stages, _ in (both, onnxruntime):
        assert "lower to onnxruntime " in stages and "verify " in stages
    assert "onnxruntime" not in executorch[1]
    assert builder[1] == "–" and int(builder[2].replace(",", "")) > 100
    assert llama_cpp == ["does not run: the model is no GGUF file", "–", "–"]


def test_a_peer_that_cannot_run_says_so(run):
    assert "- llama.cpp does not run: the model is no GGUF file" in run[0].stdout


def test_the_builders_graph_has_the_bits_that_were_asked_for(run):
    log = (run[1] / "quick" / "peers" / "genai-builder-tiny" / "build.log").read_text()
    assert "MatMulNBits: bits, block, accuracy level = [4, 32, 4]" in log


def test_other_bits_are_noticed(run):
    """The builder ignores options that it does not know, so its graph is read back."""
    check = "from genai_builder import check; from pathlib import Path; import sys; check(Path(sys.argv[1]), 8, 32)"
    path = run[1] / "quick" / "peers" / "genai-builder-tiny" / "model.onnx"
    done = subprocess.run(
        [sys.executable, "-c", check, path], cwd=ROOT / "scripts" / "peers", capture_output=True, text=True
    )
    assert done.returncode == 1
    said = done.stderr.strip()
    assert said.startswith(f"{path}: /") and said.endswith(" has 4 bits, not 8")


def test_an_unknown_peer_is_refused(tmp_path):
    done = bench("--peers", "tflite", cache=tmp_path)
    assert done.returncode == 2
    assert (
        "invalid choice: 'tflite' (choose from 'genai-builder', 'executorch-llama', 'llama.cpp')"
        in done.stderr
    )
