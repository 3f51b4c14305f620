"""The Android demo's core on a JVM: its own JUnit tests."""

from android_java import run_junit


def test_its_own_tests(tmp_path):
    run_junit("core", "--build", tmp_path)
