"""What scripts/quality.py compares: our files and those of peers, how each is made, opened and asked for logits."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from peers.catalog import HERE, timed
from peers.llama_cpp import PACKAGE, Engine, bindings
from quality_tables import FLOAT_ACTIVATIONS, OWN

from exporter.artifacts import read_manifest, target_bytes
from exporter.folders import cache_folder

if TYPE_CHECKING:
    from exporter.backends.base import ActivationMode, TextRunner

Logits = NDArray[np.float32]

# Mixtures as llama.cpp makes them; and with a table of fewer bits, as it is the better part of small models.
LLAMA_FORMATS: dict[str, tuple[str, ...]] = {
    "llama": (
        *("Q8_0", "Q5_K_M", "Q4_K_M", "Q4_K_M, token_embd q5_0"),
        *("Q4_0", "Q4_0, token_embd q4_0"),
    ),
    "gemma3_text": (
        *("Q8_0", "Q5_K_M", "Q4_K_M", "Q5_K_M, token_embd q5_0"),
        *("Q4_1, token_embd q4_1", "Q4_K_M, token_embd q4_0", "Q4_0, token_embd q4_0"),
    ),
}
PLAIN = ("Q8_0", "Q5_K_M", "Q4_K_M", "Q4_0")  # of every other model_type
GENAI_FORMATS: dict[str, tuple[str, ...]] = {
    "int4 k_quant_mixed": ("--algorithm", "k_quant_mixed"),
    "int4 k_quant_last": ("--algorithm", "k_quant_last"),
    "int4 default, block 32": ("--block", "32"),
    "int4 default, block 128": ("--block", "128"),
}


class Unmade(Exception):
    """A peer's file that could not be made."""


class Scorer(Protocol):
    """A model that is open in a runtime."""

    def logits(self, tokens: Sequence[int], first: int) -> Logits:
        """(len(tokens) - first, vocabulary): of every position from `first` on, after an empty cache."""

    def close(self) -> None:
        """Give its memory back."""


@dataclass(frozen=True)
class Subject:
    """One file to measure."""

    who: str  # qexport or a peer's name
    format: str
    runtime: str
    version: str  # of the runtime
    bytes: Callable[[], int]  # of all its model's files; once they are made
    make: Callable[[], None]  # where they are not there yet; raises Unmade
    open: Callable[[], Scorer]


class OwnScorer:
    """What one of our backends opened."""

    def __init__(self, runner: TextRunner) -> None:
        self._runner: TextRunner | None = runner

    def logits(self, tokens: Sequence[int], first: int) -> Logits:
        assert self._runner is not None, "closed"
        self._runner.reset()
        if self._runner.full_logits:
            return self._runner.forward(tokens)[first:]
        rows = [self._runner.forward(tokens[: first + 1])[-1]]
        rows += [self._runner.forward([token])[-1] for token in tokens[first + 1 :]]
        return np.stack(rows)

    def close(self) -> None:
        self._runner = None


class GenaiScorer:
    """The model builder's folder in onnxruntime-genai, whose KV caches of windowed layers onnxruntime alone lacks."""

    def __init__(self, folder: Path, threads: int, context: int) -> None:
        import onnxruntime_genai

        config = onnxruntime_genai.Config(str(folder))
        options = {"session_options": {"intra_op_num_threads": threads}}
        config.overlay(json.dumps({"model": {"decoder": options}}))
        self._genai, self._context = onnxruntime_genai, context
        self._model = onnxruntime_genai.Model(config)

    def logits(self, tokens: Sequence[int], first: int) -> Logits:
        parameters = self._genai.GeneratorParams(self._model)
        parameters.set_search_options(max_length=self._context, do_sample=False)
        generator = self._genai.Generator(self._model, parameters)
        generator.append_tokens(np.asarray(tokens, np.int32))
        logits = generator.get_output("logits")  # (1, tokens, vocabulary)
        return np.asarray(logits[0, first:], np.float32)

    def close(self) -> None:
        del self._model


def own_subjects(folder: Path, float_activations: bool = False) -> list[Subject]:
    """One for each runtime of an artifact folder; with `float_activations` another for ONNX Runtime's file, opened so
    that the same integers meet activations in float (XNNPACK has no kernel for that)."""
    from exporter.backends import get_backend

    targets = read_manifest(folder)["summary"]["targets"]

    def subject(name: str, form: str, activations: ActivationMode) -> Subject:
        return Subject(
            OWN,
            form,
            name,
            f"{name} {version(name)}",
            lambda: target_bytes(targets[name]),
            lambda: None,
            lambda: OwnScorer(get_backend(name).open_text(folder / name, activations)),
        )

    found = [subject(name, folder.name, "as-shipped") for name in targets]
    if float_activations and "onnxruntime" in targets:
        found.append(subject("onnxruntime", folder.name + FLOAT_ACTIVATIONS, "float"))
    return found


def run(command: Sequence[object], draft: Path, target: Path) -> None:
    """Where `target` is not there: a command that writes `draft`, which becomes it. Raises Unmade."""
    if target.exists():
        return
    print(f"making {target.name} …", file=sys.stderr)
    target.parent.mkdir(parents=True, exist_ok=True)
    log = target.with_name(target.name + ".log")
    done = timed((sys.executable, *command), log)
    if done.error:
        raise Unmade(f"{done.error} (whole log: {log})")
    draft.rename(target)


def llama_home() -> Path:
    """Where llama.cpp is compiled: in the cache, or already by scripts/bench.py."""
    places = (Path("out/bench/peers/llama-cpp"), cache_folder() / "peers/llama-cpp")
    return next((place for place in places if (place / "llama_cpp").is_dir()), places[-1])


def llama_subjects(reference: Path, gguf: str, work: Path, threads: int, context: int) -> list[Subject]:
    """llama.cpp's formats, the first of them float32, which must give the reference's own logits.

    `gguf`: where tokenizer and hyperparameters come from, as in a recipe's model.source.
    """
    script, whole = HERE / "llama_cpp.py", work / "F32.gguf"

    def install() -> None:
        home = llama_home()
        run((script, "install", home), home / "llama_cpp", home / "llama_cpp")

    def make_whole() -> None:
        install()
        draft = work / "F32.gguf.partial"
        run((HERE / "llama_gguf.py", reference, gguf, draft), draft, whole)

    def subject(name: str) -> Subject:
        path = whole if name == "F32" else work / f"{name.replace(', ', '-').replace(' ', '-')}.gguf"

        def make() -> None:
            make_whole()
            if path != whole:
                draft = path.with_name(path.name + ".draft")
                run((script, "quantize", llama_home(), whole, draft, name), draft, path)

        return Subject(
            "llama.cpp",
            name,
            "llama.cpp",
            PACKAGE.replace("==", " "),
            lambda: path.stat().st_size,
            make,
            lambda: Engine(quiet(bindings(llama_home())), path, threads, context),
        )

    model_type = json.loads((reference / "config.json").read_text(encoding="utf-8"))["model_type"]
    return [subject(name) for name in ("F32", *LLAMA_FORMATS.get(model_type, PLAIN))]


_kept: list[Any] = []  # callbacks that C holds


def quiet(api: Any) -> Any:
    """llama.cpp's bindings, started, whose log goes nowhere."""
    if not _kept:
        _kept.append(api.llama_log_callback(lambda level, text, data: None))
        api.llama_log_set(_kept[0], None)
        api.llama_backend_init()
    return api


def genai_subjects(reference: Path, work: Path, threads: int, context: int) -> list[Subject]:
    """The model builder's formats, the first of them float32, which must give the reference's own logits."""

    def subject(name: str, options: Sequence[str]) -> Subject:
        folder = work / f"genai-{name.replace(', ', '-').replace(' ', '-')}"
        draft = folder.with_name(folder.name + ".draft")
        command = (HERE / "genai_builder.py", reference.resolve(), draft, *options)
        return Subject(
            "genai builder",
            name,
            "onnxruntime-genai",
            f"onnxruntime-genai {version('onnxruntime-genai')}, onnxruntime {version('onnxruntime')}",
            lambda: sum(
                entry.stat().st_size for entry in os.scandir(folder) if entry.name.startswith("model.onnx")
            ),
            lambda: run(command, draft, folder),
            lambda: GenaiScorer(folder, threads, context),
        )

    return [subject("fp32", ("--bits", "32")), *(subject(*entry) for entry in GENAI_FORMATS.items())]
