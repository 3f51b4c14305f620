"""Speed of the demo's classes on a JVM beside the same runtime called from Python, on the same file of a bundle.

    python scripts/android_bench.py android_demo/app/src/main/assets/models/mixed_int4

Greedy decode of one prompt, both in turns, each in a process of its own: tokens a second behind the first token, and
the ratio of each pair; then the time from the start of the JVM's process to the first token (every file's sha256
checked, model loaded, prompt computed). ONNX Runtime's library is the one of the installed Python package.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROMPT = "Write a short poem about the sea."
IN_PYTHON = """\
import json, sys, time
from pathlib import Path
import onnxruntime
from exporter.backends.ort.running import OrtTextRunner
folder, steps, prompt = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
text = json.loads((folder / "bundle.json").read_text())["text"]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.enable_cpu_mem_arena = int(sys.argv[4]), False
session = onnxruntime.InferenceSession(folder / "model.ort", options, providers=["CPUExecutionProvider"])
runner = OrtTextRunner(session, text["context"], {})
token = int(runner.forward(prompt)[-1].argmax())
start, answer = time.perf_counter(), [token]
while len(answer) < steps and token not in text["stop_ids"]:
    token = int(runner.forward([token])[-1].argmax())
    answer.append(token)
print(json.dumps({"answer": answer, "tokens_per_second": (len(answer) - 1) / (time.perf_counter() - start)}))
"""


def last_json(command: list[str], given: str = "") -> dict:
    """What the command's last line says."""
    done = subprocess.run(command, input=given, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command[:6]))} … ended with {done.returncode}: {done.stderr.strip()}")
    found: dict = json.loads(done.stdout.splitlines()[-1])
    return found


def host() -> list[str]:
    """The command that runs the app's classes."""
    import onnxruntime

    (library,) = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so*")
    command = [sys.executable, str(ROOT / "android_demo/jvm.py"), "host", "--library", str(library)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr.strip())
    java, *rest = json.loads(done.stdout.splitlines()[-1])
    return [java, "-Xmx64m", *rest]


def shown(name: str, values: list[float], unit: str) -> None:
    """One line: median and range."""
    print(f"{name:<28} {statistics.median(values):8.2f} {unit}  ({min(values):.2f} to {max(values):.2f})")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path, help="a folder that `qexport bundle` wrote, for ONNX Runtime")
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    bundle, threads = str(arguments.bundle.resolve()), str(arguments.threads)
    java, line = host(), PROMPT + "\n"
    prompt = last_json([*java, "chat", bundle, "1", threads], line)["prompt"]
    rates: dict[str, list[float]] = {"Java": [], "Python": []}
    for repeat in range(arguments.repeats):
        answers = {}
        for name in sorted(rates, reverse=bool(repeat % 2)):
            if name == "Java":
                found = last_json([*java, "chat", bundle, str(arguments.steps), threads], line)
            else:
                command = [sys.executable, "-c", IN_PYTHON, bundle, str(arguments.steps), json.dumps(prompt)]
                found = last_json([*command, threads])
            rates[name].append(found["tokens_per_second"])
            answers[name] = found["answer"]
        if answers["Java"] != answers["Python"]:
            sys.exit(f"the answers differ: {answers}")
    first = []
    for _ in range(arguments.repeats):
        start = time.perf_counter()
        last_json([*java, "chat", bundle, "1", threads], line)
        first.append(time.perf_counter() - start)
    for name, found in rates.items():
        shown(f"{name}, decode", found, "tokens/s")
    shown("Java / Python", [a / b for a, b in zip(rates["Java"], rates["Python"], strict=True)], "")
    shown(f"start to first of {len(prompt)} + 1", first, "s")


if __name__ == "__main__":
    main()
