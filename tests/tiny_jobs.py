"""The tiny checkpoint through the command line: recipes for it, and qexport as a process or in this one."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import tiny_models

ROOT = Path(__file__).parent.parent
QEXPORT = Path(sys.executable).with_name("qexport")

# One window of text and one prompt: enough to tell right from wrong, and seconds instead of a minute.
TEXT = (
    "The harbour lay still under the morning fog. A boat moved slowly past the pier, and nobody on deck "
    "said a word about the storm that was coming from the west. Later the men would speak of little else.\n"
)
BOTH = "[{backend: onnxruntime, max_context: 256}, {backend: executorch, max_context: 256}]"
# The model's weights are random, so its logits are nearly flat and the gates must be loose.
LOOSE = "{lowering: {max_rel: 0.001}, quantisation: {max_kl: 10, min_top1: 0, max_ppl_ratio: 10}"
RULES = """\
  - {match: "model.layers.0.**", scheme: w8, because: the first block is sensitive}
  - {match: "**.embed_tokens", scheme: w8}
  - {match: "**", scheme: w4}
"""


def importable(folder: Path, monkeypatch: Any, code: str) -> str:
    """Run in the folder, and import the code from there: the name of its module, one of its own, since Python keeps
    what it imported."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    name = f"nets_{folder.name}"
    (folder / f"{name}.py").write_text(code)
    return name


def recipe_text(
    source: object,
    *,
    task: str = "text-generation",
    rules: str = RULES,
    targets: str = BOTH,
    parity: str = LOOSE + ', text: [text.txt], prompts: ["Hi"]}',
) -> str:
    """A recipe with a 4-bit and an 8-bit scheme."""
    return f"""\
schema: 1
name: tiny
model: {{source: "{source}", task: {task}}}
schemes:
  w4: {{weights: int4, group: 32, activations: dynamic-int8}}
  w8: {{weights: int8, group: channel, activations: dynamic-int8}}
rules:
{rules.rstrip()}
targets: {targets}
parity: {parity}
"""


def write_recipe(folder: Path, source: object, **changes: str) -> Path:
    """recipe.yaml, and the text that it names, in the folder."""
    (folder / "text.txt").write_text(TEXT)
    path = folder / "recipe.yaml"
    path.write_text(recipe_text(source, **changes))
    return path


def write_calibration(folder: Path) -> None:
    """A model in m, texts to calibrate on in cal.jsonl, and one to judge by in text.txt."""
    (folder / "m").mkdir()
    tiny_models.llama_with_tokenizer(folder / "m")
    words = TEXT.split()
    lines = [" ".join(words[(n + i * (n % 7 + 1)) % len(words)] for i in range(150)) for n in range(12)]
    (folder / "cal.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    (folder / "text.txt").write_text(TEXT)


class Ended(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


def started(*arguments: object, cwd: Path = ROOT, cache: Path) -> subprocess.Popen[str]:
    """qexport in a process of its own."""
    return subprocess.Popen(
        [QEXPORT, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "QEXPORT_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background jobs, and what they start, ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def ended(process: subprocess.Popen[str]) -> Ended:
    """Wait for it."""
    out, err = process.communicate()
    return Ended(process.returncode, out, err)


def called(capsys, monkeypatch, *arguments: object) -> Ended:
    """The same entry point in this process, which has torch loaded already."""
    from exporter.cli import main

    monkeypatch.setattr(sys, "argv", ["qexport", *map(str, arguments)])
    capsys.readouterr()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        main()
    except SystemExit as stop:
        code = stop.code
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    captured = capsys.readouterr()
    assert isinstance(code, int)
    return Ended(code, captured.out, captured.err)


def contents(folder: Path) -> dict[str, str]:
    """sha256 of every file below the folder, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
