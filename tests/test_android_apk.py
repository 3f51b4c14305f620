"""The offline build of the demo's APK, with a tiny real model: what Android's own tools and its bytes say of it."""

import json
import shutil
import subprocess
import sys
import zipfile

import pytest
from android_java import build_apk, bundled
from apk.checking import _assets, _stored_entries
from apk.packing import alignment_of
from common import Failed
from conftest import require_java
from tiny_jobs import ROOT, contents

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def models(tiny_job, tmp_path_factory):
    """The assets' folder of models with the tiny one."""
    require_java()
    return bundled(tiny_job[1], tmp_path_factory.mktemp("app")).parent


@pytest.fixture(scope="module")
def apk(models, tmp_path_factory):
    """The built one."""
    out = tmp_path_factory.mktemp("apk") / "demo.apk"
    done = build_apk("build", "--models", models, "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "next  adb install" in done.stdout
    return out


def test_what_android_s_tools_say(apk, models):
    done = build_apk("verify", apk)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    files = len(json.loads((models / "tiny/bundle.json").read_text())["files"])
    assert lines[:2] == [
        "✓ signature: v2 and v3 hold (apksigner)",
        "✓ manifest: Android API 26 to 35, arm64-v8a, no permission (aapt2)",
    ]
    assert lines[3:] == [
        "✓ libraries: libonnxruntime.so, libonnxruntime4j_jni.so at and for pages of 16384 bytes",
        "✓ models: 1 stored and aligned",
        f"✓ assets: {files + 1} files of models as their bundle.json says",
    ]
    with zipfile.ZipFile(apk) as archive:
        assert archive.read("assets/models/tiny/model.ort") == (models / "tiny/model.ort").read_bytes()
        assert {"assets/licenses/onnxruntime.txt", "assets/models/tiny/LICENSE.txt"} <= set(
            archive.namelist()
        )


def test_a_second_build_is_the_same(apk, models, tmp_path):
    again = tmp_path / "again.apk"
    assert build_apk("build", "--models", models, "--out", again).returncode == 0
    assert again.read_bytes() == apk.read_bytes()


@pytest.mark.parametrize("name", ["assets/models/tiny/model.ort", "classes.dex", "resources.arsc"])
def test_one_byte_changed(apk, tmp_path, name):
    content = bytearray(apk.read_bytes())
    with zipfile.ZipFile(apk) as archive:
        content[archive.getinfo(name).header_offset + 30 + len(name) + 5000] ^= 1
    broken = tmp_path / "broken.apk"
    broken.write_bytes(content)
    done = build_apk("verify", broken)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"build_apk.py: {broken}: its signature does not hold: DOES NOT VERIFY")


def repacked(apk, target, change):
    """Without alignment; change(name, content) -> content."""
    with zipfile.ZipFile(apk) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as copy:
        for name in source.namelist():
            copy.writestr(name, change(name, source.read(name)))
    return target


def test_a_model_that_cannot_be_mapped(apk, tmp_path):
    other = repacked(apk, tmp_path / "other.apk", lambda name, content: content)
    with pytest.raises(
        Failed, match=r"lies compressed or at byte [\d,]+, not stored at a multiple of \d+: it cannot"
    ):
        _stored_entries(other)
    assert alignment_of("assets/models/tiny/model.ort") == 4096
    assert alignment_of("lib/arm64-v8a/libonnxruntime.so") == 16384
    assert alignment_of("assets/models/tiny/tokenizer.json") == 0


def test_an_asset_that_is_not_the_bundles(apk, tmp_path):
    def change(name, content):
        return content + b" " if name.endswith("golden.json") else content

    other = repacked(apk, tmp_path / "other.apk", change)
    with pytest.raises(Failed) as problem:
        _assets(other)
    assert str(problem.value) == (
        f"{other}: assets/models/tiny/golden.json has not the sha256 of its bundle.json"
    )


def refused(done, out, message):
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"build_apk.py: {message}\n")
    assert not out.exists() and not list(out.parent.glob(".*"))


@pytest.mark.parametrize(
    ("harm", "what"),
    [
        (
            lambda path: path.write_bytes(path.read_bytes() + b" "),
            "not as bundled (bundle.json has another sha256)",
        ),
        (lambda path: path.unlink(), "missing"),
    ],
)
def test_assets_that_are_not_as_bundled(models, tmp_path, harm, what):
    copy, out = shutil.copytree(models, tmp_path / "models"), tmp_path / "out" / "demo.apk"
    out.parent.mkdir()
    harm(copy / "tiny/tokenizer.json")
    again = "bundle it again (qexport bundle … --force), or delete the folder"
    refused(
        build_apk("build", "--models", copy, "--out", out),
        out,
        f"{copy / 'tiny/tokenizer.json'}: {what}; {again}",
    )


def test_a_model_for_executorch(tiny_job, tmp_path):
    require_java()
    models, out = bundled(tiny_job[1], tmp_path / "app", "executorch").parent, tmp_path / "out" / "demo.apk"
    out.parent.mkdir()
    refused(
        build_apk("build", "--models", models, "--out", out),
        out,
        f"{models / 'tiny-executorch'}: is for executorch, this build carries onnxruntime alone; bundle the model with "
        "--runtime onnxruntime, or build with Gradle, which takes both from Maven (android_demo/app/README.md)",
    )


def test_no_model(tmp_path):
    require_java()
    (tmp_path / "models").mkdir()
    out = tmp_path / "out" / "demo.apk"
    out.parent.mkdir()
    refused(
        build_apk("build", "--models", tmp_path / "models", "--out", out),
        out,
        f"{tmp_path / 'models'}: no model is bundled; run qexport bundle DIR --app android_demo first, or pass "
        "--without-models",
    )


def test_a_file_of_the_person_s_stays(models, apk):
    before = contents(apk.parent)
    done = build_apk("build", "--models", models, "--out", apk)
    assert (done.returncode, done.stderr) == (
        1,
        f"build_apk.py: {apk}: exists; pass --force to replace it, or another --out\n",
    )
    assert contents(apk.parent) == before


def test_the_demo_s_own_tests_on_the_classes_of_the_dex(tmp_path):
    require_java()
    jar = tmp_path / "classes.jar"
    done = build_apk("classes", "--out", jar)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(jar) as archive:
        majors = {archive.read(name)[7] for name in archive.namelist() if name.endswith(".class")}
    assert max(majors) <= 52  # of Java 8, and no lambdas: ProGuard was told Java 7
    command = [
        sys.executable,
        "android_demo/jvm.py",
        "core",
        "app",
        "--build",
        tmp_path / "build",
        "--jar",
        jar,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\nOK (") == 2
