"""`qexport verify`: the ladder, and golden values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from exporter.commands.common import (
    PATH,
    console,
    given_options,
    json_option,
    load,
    model_option,
    recipe_option,
)

if TYPE_CHECKING:
    from exporter.recipe import Recipe
    from exporter.replay.settings import Settings


@click.command()
@click.argument("artifact", type=PATH)
@recipe_option
@model_option
@click.option("--layers", is_flag=True, help="Show the error of every layer.")
@click.option(
    "--abi",
    type=click.Choice(["arm64", "x86_64"]),
    help="Instead of the ladder, replay the golden values there; arm64 is emulated.",
)
@click.option(
    "--cpu",
    type=click.Choice(["cortex-a76", "max"]),
    default="cortex-a76",
    show_default=True,
    help="For arm64.",
)
@click.option(
    "--runtime", type=click.Choice(["onnxruntime", "executorch"]), help="Its files only. [default: all]"
)
@click.option("--steps", type=click.IntRange(1), default=8, show_default=True, help="Tokens of each answer.")
@click.option("--examples", type=click.IntRange(1), help="Only so many of the golden ones. [default: all]")
@click.option(
    "--download", is_flag=True, help="Fetch the ARM64 runtimes and the emulator where they are not there."
)
@json_option
@click.pass_context
def verify(
    context: click.Context,
    artifact: Path,
    recipe: Path | None,
    model: str | None,
    layers: bool,
    abi: str | None,
    cpu: str,
    runtime: str | None,
    steps: int,
    examples: int | None,
    download: bool,
    as_json: bool,
) -> None:
    """Run the parity ladder again over ARTIFACT, with the integers that its files hold.

    The recipe is the one in the artifact's manifest unless --recipe names another. With --abi, each runtime's files
    give their golden values again, on this host or an emulated ARM64 processor; where arm64's lie within what is
    allowed they are written beside, for `qexport bundle`.
    """
    from exporter.replay.settings import Settings

    given = set(given_options(context))
    if abi is None:
        _no_effect(given & {"--cpu", "--runtime", "--steps", "--examples", "--download"}, "needs --abi arm64")
        _verify_ladder(artifact, load(recipe, model) if recipe else None, model, layers, as_json)
        return
    _no_effect(
        given & {"--recipe", "--model", "--layers"}, "has no effect with --abi, which replays golden values"
    )
    if abi == "x86_64":
        _no_effect(given & {"--cpu", "--download"}, "has no effect with --abi x86_64, which is this host")
    _verify_golden(artifact, Settings(abi, runtime, cpu, examples, steps), download, as_json)


def _no_effect(options: set[str], why: str) -> None:
    if options:
        raise click.UsageError(f"{min(options)} {why}")


def _verify_ladder(
    artifact: Path, recipe: Recipe | None, model: str | None, layers: bool, as_json: bool
) -> None:
    from exporter.errors import GateFailed
    from exporter.pipeline import verify_artifact
    from exporter.progress import Stages
    from exporter.summary import render_parity

    parity = verify_artifact(artifact, recipe, model, Stages(console()))
    if as_json:
        click.echo(json.dumps(parity.to_json(), indent=1))
    else:
        console(stderr=False).print(render_parity(parity.to_json(), layers))
    if not parity.passed:
        raise GateFailed("parity failed:\n" + "\n".join(f"  - {sentence}" for sentence in parity.failures))


def _verify_golden(artifact: Path, settings: Settings, download: bool, as_json: bool) -> None:
    from exporter.errors import GateFailed
    from exporter.progress import Stages
    from exporter.replay.replaying import replay
    from exporter.replay.summary import render_replay, replay_json

    found = replay(artifact, settings, download, Stages(console()))
    if as_json:
        click.echo(json.dumps(replay_json(found), indent=1))
    else:
        console(stderr=False).print(render_replay(found))
    if found.failures:
        lines = "\n".join(f"  - {sentence}" for sentence in found.failures)
        raise GateFailed(f"golden values differ on {found.machine}:\n{lines}")
