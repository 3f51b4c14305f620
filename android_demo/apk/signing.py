"""A signature for an APK: the demo's own key, made once, or the person's."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from common import JDK, cache, run, run_quietly, tool

from apk.classes import share

_PASSWORD = "android"  # as Android Studio's debug keys have it: a key for trying out proves nothing
_ALIAS = "demo"


def apksigner() -> list[str]:
    """The command."""
    classpath = f"{share('apksigner-31.0.2.jar')}:{share('apksig-0.9.jar')}"
    return [tool("java", JDK), "-cp", classpath, "com.android.apksigner.ApkSignerTool"]


def demo_key() -> Path:
    """A keystore with a key for trying out, the same for every build on this machine."""
    target = cache() / "demo-key.p12"
    if not target.is_file():
        with tempfile.TemporaryDirectory(prefix=".key-", dir=cache()) as scratch:
            draft = Path(scratch) / target.name
            command = [tool("keytool", JDK), "-genkeypair", "-keystore", str(draft), "-storetype", "PKCS12"]
            command += ["-storepass", _PASSWORD, "-alias", _ALIAS, "-keyalg", "RSA", "-keysize", "3072"]
            run_quietly([*command, "-validity", "10000", "-dname", "CN=qexport demo"], "making a key")
            os.replace(draft, target)
    return target


def sign(unsigned: Path, target: Path, keystore: Path | None, min_sdk: str) -> None:
    """v2 and v3 signatures; the entries stay where they lie. A keystore of the person's: apksigner asks its password,
    or takes it from the environment variable QEXPORT_KEYSTORE_PASSWORD."""
    command = [*apksigner(), "sign", "--min-sdk-version", min_sdk, "--v1-signing-enabled", "false"]
    command += [
        "--v2-signing-enabled",
        "true",
        "--v3-signing-enabled",
        "true",
        "--v4-signing-enabled",
        "false",
    ]
    if keystore is None:
        command += ["--ks", str(demo_key()), "--ks-key-alias", _ALIAS, "--ks-pass", f"pass:{_PASSWORD}"]
    else:
        command += ["--ks", str(keystore)]
        if "QEXPORT_KEYSTORE_PASSWORD" in os.environ:
            command += ["--ks-pass", "env:QEXPORT_KEYSTORE_PASSWORD"]
    run([*command, "--in", unsigned, "--out", target], "signing")
