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
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter import __version__
from exporter.errors import QexportError, first_line
from exporter.options import Bytes, Counts, Names

if TYPE_CHECKING:
    from rich.console import Console

    from exporter.recipe import Recipe
    from exporter.replay.settings import Settings

_PATH = click.Path(path_type=Path, readable=False)  # whoever opens it says what is wrong
_recipe_option = click.option("--recipe", "-r", type=_PATH, metavar="R", help="The recipe, a YAML file.")
_model_option = click.option("--model", "-m", metavar="M", help="A model source in place of the recipe's.")


_max_memory_option = click.option(
    "--max-memory",
    type=Bytes(),
    help="Most memory that this process may take, such as 3GB. [default: what is free]",
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@_recipe_option
@_model_option
@click.option("--out", "-o", type=_PATH, metavar="DIR", help="Where the files go. [default: out/RECIPE-NAME]")
@click.option("--force", is_flag=True, help="Replace a folder that qexport wrote before.")
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
    given = _given_options(context)
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
        _print_plan(_load(recipe, model), as_json=False, unfold=False)
        return
    _run_job(_load(recipe, model), out, force, max_memory)


@cli.command()
@_recipe_option
@_model_option
@click.option("--all", "unfold", is_flag=True, help="A row for every layer, like ones not folded.")
@_json_option
def plan(recipe: Path | None, model: str | None, unfold: bool, as_json: bool) -> None:
    """What becomes of each layer, and the size of the files. Loads no weights."""
    _print_plan(_load(_required(recipe, "plan"), model), as_json, unfold)


@cli.command()
@_recipe_option
@_model_option
@click.option("--target-mb", type=float, metavar="N", help="MB that each target's model file may have.")
@click.option("--target-bpw", type=float, metavar="B", help="Bits a weight, scales counted.")
@click.option(
    "--max-kl", type=float, metavar="K", help="Predicted KL divergence to the float model, nats per token."
)
@click.option(
    "--out", "-o", type=_PATH, metavar="FILE", help="The new recipe. [default: beside R, named by the goal]"
)
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@_json_option
def search(
    recipe: Path | None,
    model: str | None,
    target_mb: float | None,
    target_bpw: float | None,
    max_kl: float | None,
    out: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Find the best mix of R's schemes for a size, or the smallest for a loss, and write it as a recipe.

    What each layer loses in each scheme is measured once, which takes minutes; another budget then takes seconds.
    """
    from exporter.pipeline import plan_recipe
    from exporter.progress import Stages
    from exporter.searching import Goal, curve_picture, render_found, write_new
    from exporter.searching import search as search_for

    try:
        goal = Goal(target_mb, target_bpw, max_kl)
    except ValueError as problem:
        raise click.UsageError(str(problem)) from None
    given = _load(_required(recipe, "search"), model)
    path = out or given.path.with_name(f"{given.path.stem}_{goal.file_words}.yaml")
    if path.exists() and not force:
        raise click.UsageError(
            f"{path}: is there already; name another with --out, or replace it with --force"
        )
    opened, planned = plan_recipe(given)
    found = search_for(given, opened, planned, goal, Stages(_console()))
    write_new(path, found.recipe, force)
    picture = path.with_suffix(".svg")
    points = {f"all {name}": (megabytes, true) for name, (megabytes, _, true) in found.uniform.items()}
    write_new(
        picture, curve_picture(found.curve, points, (max(found.megabytes.values()), found.loss)), force=True
    )
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=1))
    else:
        _console(stderr=False).print(render_found(found, path, picture))


@cli.command()
@click.argument("artifact", type=_PATH)
@_json_option
def inspect(artifact: Path, as_json: bool) -> None:
    """Read the integers back from ARTIFACT: a folder that qexport wrote, an .onnx or a .pte file."""
    from exporter.inspecting import inspect_artifact, render_inspection

    found = inspect_artifact(artifact)
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        _console(stderr=False).print(render_inspection(found))


@cli.command()
@click.argument("artifact", type=_PATH)
@_recipe_option
@_model_option
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
@_json_option
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

    given = set(_given_options(context))
    if abi is None:
        _no_effect(given & {"--cpu", "--runtime", "--steps", "--examples", "--download"}, "needs --abi arm64")
        _verify_ladder(artifact, _load(recipe, model) if recipe else None, model, layers, as_json)
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

    parity = verify_artifact(artifact, recipe, model, Stages(_console()))
    if as_json:
        click.echo(json.dumps(parity.to_json(), indent=1))
    else:
        _console(stderr=False).print(render_parity(parity.to_json(), layers))
    if not parity.passed:
        raise GateFailed("parity failed:\n" + "\n".join(f"  - {sentence}" for sentence in parity.failures))


def _verify_golden(artifact: Path, settings: Settings, download: bool, as_json: bool) -> None:
    from exporter.errors import GateFailed
    from exporter.progress import Stages
    from exporter.replay.replaying import replay
    from exporter.replay.summary import render_replay, replay_json

    found = replay(artifact, settings, download, Stages(_console()))
    if as_json:
        click.echo(json.dumps(replay_json(found), indent=1))
    else:
        _console(stderr=False).print(render_replay(found))
    if found.failures:
        lines = "\n".join(f"  - {sentence}" for sentence in found.failures)
        raise GateFailed(f"golden values differ on {found.machine}:\n{lines}")


@cli.command()
@click.argument("artifact", type=_PATH)
@click.option(
    "--threads",
    type=click.IntRange(0),
    default=0,
    help="Threads for every runtime. [default: all that there are]",
)
@click.option("--runtime", multiple=True, metavar="NAME", help="Only this one; may be repeated.")
@click.option(
    "--repeats", type=click.IntRange(1), default=5, show_default=True, help="Runs of each measurement."
)
@click.option(
    "--past",
    type=Counts(),
    default="16,128,512,2048",
    show_default=True,
    help="Decode behind so many tokens.",
)
@click.option(
    "--prefill", type=Counts(), default="64,256,1024", show_default=True, help="Prompts of so many tokens."
)
@click.option("--quick", is_flag=True, help="One short run of everything: shows that it works, not how fast.")
@_json_option
def bench(
    artifact: Path,
    threads: int,
    runtime: tuple[str, ...],
    repeats: int,
    past: tuple[int, ...],
    prefill: tuple[int, ...],
    quick: bool,
    as_json: bool,
) -> None:
    """Speed, memory and load time of ARTIFACT, a folder that qexport wrote, on this machine."""
    from exporter.benching import bench_artifact, render_bench
    from exporter.benchmarks.results import BenchSettings
    from exporter.progress import Stages

    settings = BenchSettings(
        threads=threads, repeats=repeats, past=past, prefill=prefill, runtimes=tuple(dict.fromkeys(runtime))
    )
    settings = settings.quick() if quick else settings
    with Stages(_console()).stage("bench") as progress:
        result = bench_artifact(artifact, settings, progress)
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=1))
    else:
        _console(stderr=False).print(render_bench(result))


@cli.command()
@click.argument("artifact", type=_PATH)
@_recipe_option
@_model_option
@click.option("--suites", type=Names(), help="Only these, with commas between.  [default: all]")
@click.option("--no-speed", is_flag=True, help="All but the speed suite, which wants a quiet machine.")
@click.option(
    "--items",
    type=click.IntRange(1),
    help="Of each suite, long texts a quarter of it.  [default: 9 to 50]",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Which examples are drawn."
)
@click.option(
    "--context",
    type=click.IntRange(256),
    default=2048,
    show_default=True,
    help="Tokens of a long text, at most.",
)
@click.option("--runtime", multiple=True, metavar="NAME", help="Only this one; may be repeated.")
@click.option(
    "--out", "-o", type=_PATH, metavar="FILE", help="The scorecard.  [default: DIR.evaluation.json]"
)
@_json_option
def evaluate(
    artifact: Path,
    recipe: Path | None,
    model: str | None,
    suites: tuple[str, ...] | None,
    no_speed: bool,
    items: int | None,
    seed: int,
    context: int,
    runtime: tuple[str, ...],
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure the files of ARTIFACT, a language model, against the float model: text in nine languages, multiple-choice
    questions, code, refusals, long texts, speed. Writes a scorecard as JSON and a page beside it."""
    from exporter.evaluation.measuring import measure
    from exporter.evaluation.rendering import render_scorecard, write_pages
    from exporter.evaluation.settings import SUITES, EvaluationSettings
    from exporter.progress import Stages, in_words

    asked = tuple(name for name in suites or SUITES if not (no_speed and name == "speed"))
    settings = EvaluationSettings(asked, items, seed, context, runtimes=tuple(dict.fromkeys(runtime)))
    own = _load(recipe, None) if recipe else None
    out = out or Path(f"{artifact.resolve()}.evaluation.json")
    console = _console()
    with Stages(console).stage("evaluate") as progress:
        scorecard = measure(artifact, settings, own, model, in_words(progress, console))
    page = write_pages(scorecard, out)
    console.print(f"written: {out}, {page.name}", soft_wrap=True)
    if as_json:
        click.echo(json.dumps(scorecard.to_json(), indent=1))
    else:
        _console(stderr=False).print(render_scorecard(scorecard))


@cli.command()
@click.argument("artifacts", type=_PATH, nargs=-1, required=True, metavar="DIR...")
@click.option(
    "--app", type=_PATH, required=True, metavar="DIR", help="The app: android_demo of the repository."
)
@click.option(
    "--runtime",
    type=click.Choice(["onnxruntime", "executorch"]),
    help="Whose files. [default: the first that an artifact holds]",
)
@click.option("--variants", is_flag=True, help="Artifacts of one model are sizes that the app chooses among.")
@click.option("--license", "licence", type=_PATH, metavar="FILE", help="The model's licence, as text.")
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
        Stages(_console()),
        runtime=runtime,
        variants=variants,
        licence=licence,
        force=force,
    )
    _console(stderr=False).print(render_bundled(found, app))


@cli.command()
@click.option("--chips", is_flag=True, help="The chips that NPU targets are compiled for.")
@click.option("--json", "as_json", is_flag=True, help="Plain data.")
def targets(chips: bool, as_json: bool) -> None:
    """What can be lowered to, what each target computes, and what runs its files here."""
    from exporter import installed

    if as_json:
        click.echo(json.dumps([row.to_json() for row in installed.targets()], indent=1))
    elif chips:
        installed.print_chips(_console(stderr=False))
    else:
        installed.print_targets(_console(stderr=False))


@cli.command()
def doctor() -> None:
    """Which packages are here and how to mend what is not; exit code 2 where a needed one is missing."""
    from exporter import installed

    if not installed.print_packages(_console(stderr=False)):
        raise SystemExit(2)


@cli.command()
def schema() -> None:
    """Print the recipe format's JSON Schema, for editors."""
    from exporter.recipe import recipe_json_schema

    click.echo(json.dumps(recipe_json_schema(), indent=2))


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


def _given_options(context: click.Context) -> list[str]:
    """Options of the whole job that were typed, --debug aside."""
    source = click.core.ParameterSource.COMMANDLINE
    return [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name
        and parameter.name != "debug"
        and context.get_parameter_source(parameter.name) is source
    ]


def _required(recipe: Path | None, command: str) -> Path:
    if recipe is None:
        raise click.UsageError(f"name a recipe: qexport {command} --recipe recipes/mixed_int4.yaml")
    return recipe


def _load(recipe: Path, model: str | None) -> Recipe:
    from exporter.recipe import load_recipe

    loaded = load_recipe(recipe)
    return replace(loaded, model=replace(loaded.model, source=model)) if model else loaded


def _print_plan(recipe: Recipe, as_json: bool, unfold: bool) -> None:
    from exporter.pipeline import plan_recipe
    from exporter.views import print_plan

    _, planned = plan_recipe(recipe)
    if as_json:
        click.echo(json.dumps(planned.to_json(), indent=1))
    else:
        print_plan(planned, _console(stderr=False), unfold)


def _run_job(recipe: Recipe, out: Path | None, force: bool, max_memory: int | None) -> None:
    from exporter.pipeline import run
    from exporter.progress import Stages
    from exporter.summary import render_result

    console = _console()
    result = run(recipe, out or Path("out") / recipe.name, force, Stages(console), max_memory)
    if result.reused:
        console.print("everything is already there and right, byte for byte: nothing was done")
    _console(stderr=False).print(render_result(result.data, result.folder))


def _console(stderr: bool = True) -> Console:
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 120  # a log or a pipe has no width of its own; tables need about a hundred
    return console
