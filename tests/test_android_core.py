"""The Android demo's core on a JVM: its own JUnit tests."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_its_own_tests(tmp_path):
    if shutil.which("javac") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("javac is not on this machine")
        pytest.skip("no JDK on this machine")
    command = [sys.executable, "android_demo/jvm.py", "core", "--build", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\nOK (" in done.stdout
