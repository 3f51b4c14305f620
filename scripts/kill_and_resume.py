"""Kill a job at random moments, go on with --resume each time, and compare with a run that nobody disturbed.

    python scripts/kill_and_resume.py recipes/mixed_int4.yaml --kills 10

Each kill is SIGKILL, which no process can answer. Prints the stage that each kill met; exit code 1 where the sha256 of
a file differs at the end.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def command(recipe: Path, out: Path, *options: str) -> list[str]:
    """The main job as a person types it."""
    program = Path(sys.executable).with_name("qexport")
    return [str(program), "--recipe", str(recipe), "--out", str(out), *options]


def hashes(out: Path) -> dict[str, str]:
    """Relative path -> sha256, as the manifest has them."""
    manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    return {entry["path"]: entry["sha256"] for entry in manifest["files"]}


def whole(recipe: Path, out: Path, *options: str) -> float:
    """Seconds of a run that ends by itself. Raises SystemExit where it fails."""
    started = time.monotonic()
    done = subprocess.run(command(recipe, out, *options), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"the job itself failed:\n{done.stderr[-2000:]}")
    return time.monotonic() - started


def killed(recipe: Path, out: Path, seconds: float) -> str | None:
    """The stage that was under way when it was killed; None where it had ended before."""
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command(recipe, out, "--resume"), stderr=said, stdout=subprocess.DEVNULL)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            said.seek(0)
            lines = [line.strip() for line in said if line.strip()]
            return lines[-1] if lines else "start"
        if code:
            said.seek(0)
            sys.exit(f"a resumed job failed:\n{said.read()[-2000:]}")
        return None


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    drawn = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder, "undisturbed", "artifact")
        seconds = whole(given.recipe, first)
        print(f"undisturbed: {seconds:.0f} s, {len(hashes(first))} files", flush=True)
        expected = hashes(first)
        out = Path(folder, "killed", "artifact")
        kills = ends = 0
        while kills < given.kills:
            after = drawn.uniform(0, seconds)
            stage = killed(given.recipe, out, after)
            if stage is None:  # it had gone far enough by earlier runs to end: another begins
                ends += 1
                if hashes(out) != expected:
                    return _differ(expected, hashes(out))
                out = Path(folder, f"killed{ends}", "artifact")
                continue
            kills += 1
            print(f"kill {kills} after {after:.1f} s: {stage}", flush=True)
        whole(given.recipe, out, "--resume")
        if hashes(out) != expected:
            return _differ(expected, hashes(out))
        left = sorted(path.name for path in out.parent.iterdir() if path != out)
        print(
            f"{kills} kills, {ends + 1} jobs ended: all {len(expected)} files the same; "
            f"left beside: {left or 'nothing'}"
        )
    return 0


def _differ(expected: dict[str, str], found: dict[str, str]) -> int:
    for path in sorted(expected.keys() | found.keys()):
        if expected.get(path) != found.get(path):
            print(f"differs: {path}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
