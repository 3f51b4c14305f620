"""qexport bench, and --max-memory: what they answer and what they refuse."""

# ruff: noqa: E501  (a message stands in one line, as a person sees it)

import json

import pytest


def test_bench_measures_both_runtimes(tiny_job, qexport):
    _, folder, _ = tiny_job
    done = qexport("bench", folder, "--quick", "--threads", "1", "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert [runtime["name"] for runtime in result["runtimes"]] == ["onnxruntime", "executorch"]
    assert result["threads"] == 1
    for runtime in result["runtimes"]:
        assert runtime["file_bytes"] > 0 and runtime["cache_bytes"] > 0
        assert all(decode["tokens_per_second"]["minimum"] > 0 for decode in runtime["decode"])


def test_bench_of_one_runtime_as_a_table(tiny_job, qexport):
    _, folder, _ = tiny_job
    done = qexport("bench", folder, "--quick", "--runtime", "executorch")
    assert done.code == 0, done.err
    assert "decode after 16" in done.out and "executorch" in done.out and "onnxruntime" not in done.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--past", "16,x"), "Invalid value for '--past': '16,x' is not a list of numbers above zero such as 16,128,512"),
        (("--past", "0"), "Invalid value for '--past': '0' is not a list of numbers above zero such as 16,128,512"),
        (("--repeats", "0"), "Invalid value for '--repeats': 0 is not in the range x>=1."),
    ],
)  # fmt: skip
def test_bench_refuses_figures_that_mean_nothing(tiny_job, qexport, options, message):
    done = qexport("bench", tiny_job[1], *options)
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[-1] == f"Error: {message}"


def test_bench_of_another_runtime(tiny_job, qexport):
    done = qexport("bench", tiny_job[1], "--runtime", "coreml")
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[-1] == (
        "error: runtime 'coreml' is not known; there are: onnxruntime, executorch"
    )


def test_max_memory_must_be_a_size(tmp_path, qexport):
    done = qexport("--recipe", tmp_path / "r.yaml", "--max-memory", "much")
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[-1] == (
        "Error: Invalid value for '--max-memory': 'much' is not a size such as 3GB or 900MB"
    )
