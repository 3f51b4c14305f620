"""The command line: options, messages, exit codes. Heavy imports wait until a command needs them.

Exit codes: 0 good, 1 a gate failed (parity), 2 usage, recipe, source or artifact error.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter import __version__
from exporter.commands.common import (
    PATH,
    console,
    given_options,
    json_option,
    load,
    model_option,
    recipe_option,
    required,
)
from exporter.commands.measuring import bench, evaluate
from exporter.commands.searching import search
from exporter.commands.verifying import verify
from exporter.errors import QexportError, first_line
from exporter.options import Bytes

if TYPE_CHECKING:
    from exporter.recipe import Recipe


_max_memory_option = click.option(
    "--max-memory",
    type=Bytes(),
    help="Most memory that this process may take, such as 3GB. [default: what is free]",
)


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@recipe_option
@model_option
@click.option("--out", "-o", type=PATH, metavar="DIR", help="Where the files go. [default: out/RECIPE-NAME]")
@click.option("--force", is_flag=True, help="Replace a folder that qexport wrote before.")
@click.option(
    "--resume", is_flag=True, help="Go on from what a killed run of the same recipe left in DIR.work."
)
@click.option("--dry-run", is_flag=True, help="Stop after the plan.")
@_max_memory_option
@click.option("--debug", is_flag=True, help="Show tracebacks and the libraries' own messages.")
@click.version_option(__version__, prog_name="qexport")
@click.pass_context
def cli(
    context: click.Context,
    recipe: Path | None,
    model: str | None,
    out: Path | None,
    force: bool,
    resume: bool,
    dry_run: bool,
    max_memory: int | None,
    debug: bool,
) -> None:
    """One recipe, one set of integers, two mobile runtimes, parity proven on this host.

    \b
    qexport --recipe recipes/mixed_int4.yaml          do the whole job
    qexport plan --recipe recipes/mixed_int4.yaml     what would be done to each layer
    qexport inspect out/mixed_int4                    what the written files really hold
    """
    if not debug:
        from exporter.quiet import hush

        hush()
    given = given_options(context)
    if context.invoked_subcommand is not None:
        if given:
            raise click.UsageError(
                f"{given[0]} before {context.invoked_subcommand} would have no effect; "
                f"see qexport {context.invoked_subcommand} --help for what goes behind it"
            )
        return
    if recipe is None:
        if given:
            raise click.UsageError(f"{given[0]} needs a recipe: qexport --recipe recipes/mixed_int4.yaml")
        click.echo(context.get_help())
        return
    if dry_run:
        _print_plan(load(recipe, model), as_json=False, unfold=False)
        return
    _run_job(load(recipe, model), out, force, resume, max_memory)


@cli.command()
@recipe_option
@model_option
@click.option("--all", "unfold", is_flag=True, help="A row for every layer, like ones not folded.")
@json_option
def plan(recipe: Path | None, model: str | None, unfold: bool, as_json: bool) -> None:
    """What becomes of each layer, and the size of the files. Loads no weights."""
    _print_plan(load(required(recipe, "plan"), model), as_json, unfold)


@cli.command()
@click.argument("artifact", type=PATH)
@json_option
def inspect(artifact: Path, as_json: bool) -> None:
    """Read the integers back from ARTIFACT: a folder that qexport wrote, an .onnx or a .pte file."""
    from exporter.inspecting import inspect_artifact, render_inspection

    found = inspect_artifact(artifact)
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        console(stderr=False).print(render_inspection(found))


@cli.command()
@click.argument("artifacts", type=PATH, nargs=-1, required=True, metavar="DIR...")
@click.option(
    "--app", type=PATH, required=True, metavar="DIR", help="The app: android_demo of the repository."
)
@click.option(
    "--runtime",
    type=click.Choice(["onnxruntime", "executorch"]),
    help="Whose files. [default: the first that an artifact holds]",
)
@click.option("--variants", is_flag=True, help="Artifacts of one model are sizes that the app chooses among.")
@click.option("--license", "licence", type=PATH, metavar="FILE", help="The model's licence, as text.")
@click.option("--force", is_flag=True, help="Replace bundles of the same names.")
def bundle(
    artifacts: tuple[Path, ...],
    app: Path,
    runtime: str | None,
    variants: bool,
    licence: Path | None,
    force: bool,
) -> None:
    """Put artifacts, folders that qexport wrote, into the assets of the Android app."""
    from exporter.bundling import bundle as bundle_into
    from exporter.bundling import render_bundled
    from exporter.progress import Stages

    found = bundle_into(
        artifacts,
        app,
        Stages(console()),
        runtime=runtime,
        variants=variants,
        licence=licence,
        force=force,
    )
    console(stderr=False).print(render_bundled(found, app))


@cli.command()
@click.option("--chips", is_flag=True, help="The chips that NPU targets are compiled for.")
@click.option("--json", "as_json", is_flag=True, help="Plain data.")
def targets(chips: bool, as_json: bool) -> None:
    """What can be lowered to, what each target computes, and what runs its files here."""
    from exporter import installed

    if as_json:
        click.echo(json.dumps([row.to_json() for row in installed.targets()], indent=1))
    elif chips:
        installed.print_chips(console(stderr=False))
    else:
        installed.print_targets(console(stderr=False))


@cli.command()
def doctor() -> None:
    """Which packages are here and how to mend what is not; exit code 2 where a needed one is missing."""
    from exporter import installed

    if not installed.print_packages(console(stderr=False)):
        raise SystemExit(2)


@cli.command()
def schema() -> None:
    """Print the recipe format's JSON Schema, for editors."""
    from exporter.recipe import recipe_json_schema

    click.echo(json.dumps(recipe_json_schema(), indent=2))


for _command in (search, verify, bench, evaluate):
    cli.add_command(_command)


def main() -> None:
    """Entry point: the one place that catches. A message for a person, never a traceback without --debug."""
    for number in (signal.SIGTERM, signal.SIGHUP):  # so that drafts are removed as after Ctrl-C
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, _interrupt)
    sys.unraisablehook = _interrupt_again
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = "--debug" in sys.argv  # wherever it stands: people add it at the end of a line that failed
    if debug:
        arguments.insert(0, "--debug")
    sys.exit(_exit_code(lambda: cli.main(arguments, "qexport", standalone_mode=False), catch=not debug))


def _interrupt_again(ignored: sys.UnraisableHookArgs) -> None:
    """An interrupt that arrives in a destructor is swallowed by Python: send it once more, a little later."""
    if ignored.exc_type is KeyboardInterrupt:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
    else:
        sys.__unraisablehook__(ignored)


def _exit_code(command: Callable[[], Any], catch: bool) -> int:
    try:
        result = command()
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as problem:
        problem.show()
        return problem.exit_code
    except QexportError as problem:
        if not catch:
            raise
        click.echo(f"{click.style('error:', fg='red')} {problem}", err=True)
        return problem.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted: nothing was written", err=True)
        return 2
    except BrokenPipeError:
        sys.stdout = None  # the reader has gone; nothing is left to tell it
        return 0
    except MemoryError:
        if not catch:
            raise
        return _say("out of memory: close other programs, or use a machine with more; nothing was written")
    except OSError as problem:
        if not catch:
            raise
        place = f"{problem.filename}: " if problem.filename else ""
        return _say(f"{place}{_reason(problem)}; nothing was written")
    except Exception as problem:
        if not catch:
            raise
        return _say(
            f"this should not have happened ({type(problem).__name__}: {first_line(problem)}); nothing was written. "
            "Run again with --debug and report what it prints"
        )


def _say(message: str) -> int:
    click.echo(f"{click.style('error:', fg='red')} {message}", err=True)
    return 2


def _reason(problem: OSError) -> str:
    """What the system says. NumPy reports a short write in its own words and without a number."""
    if problem.errno is None and "requested and" in str(problem):
        return f"{os.strerror(errno.ENOSPC)} ({problem})"
    return problem.strerror or first_line(problem)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _print_plan(recipe: Recipe, as_json: bool, unfold: bool) -> None:
    from exporter.pipeline import plan_recipe
    from exporter.views import print_plan

    _, planned = plan_recipe(recipe)
    if as_json:
        click.echo(json.dumps(planned.to_json(), indent=1))
    else:
        print_plan(planned, console(stderr=False), unfold)


def _run_job(recipe: Recipe, out: Path | None, force: bool, resume: bool, max_memory: int | None) -> None:
    from exporter.progress import Stages
    from exporter.releasing import release
    from exporter.summary import render_result

    shown = console()
    folder = out or Path("out") / recipe.name
    result = release(recipe, folder, force, Stages(shown), max_memory, resume)
    if result.reused:
        shown.print("everything is already there and right, byte for byte: nothing was done")
    console(stderr=False).print(render_result(result.data, result.folder))
