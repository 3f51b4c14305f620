"""Speed, memory and size of the files, and the estimate of energy."""

from __future__ import annotations

from exporter.backends import get_backend
from exporter.benching import bench_artifact, weight_bytes_per_token
from exporter.benchmarks.figures import Spread
from exporter.benchmarks.results import BenchSettings, RuntimeBench
from exporter.evaluation.energy import SOURCE, energy_per_token, products_per_token
from exporter.evaluation.scorecard import Better, Dimension, Figure
from exporter.evaluation.session import Session
from exporter.plan import FLOAT_BYTES

SUITE = "speed"
FOOTPRINT = "files"  # what the files and the plan alone say; no suite that can be left out
PAST = 128  # tokens that a decode step follows
PROMPT = 64  # tokens of a prompt
_REPEATS, _STARTS = 3, 2  # short: `qexport bench` takes longer and says more


def measure_speed(session: Session) -> dict[str, list[Figure]]:
    """A short benchmark, each runtime in processes of its own."""
    settings = BenchSettings(
        repeats=_REPEATS, past=(PAST,), prefill=(PROMPT,), starts=_STARTS, runtimes=tuple(session.runners)
    )
    with session.timed(SUITE, "all"):
        bench = bench_artifact(session.folder, settings, session.progress)
    session.notes += bench.notes
    how = f"{bench.processor}, {bench.threads} threads, {_REPEATS} runs, {_STARTS} starts; `qexport bench` says more"
    return {runtime.name: _figures(runtime, how) for runtime in bench.runtimes}


def _figures(runtime: RuntimeBench, how: str) -> list[Figure]:
    def figure(
        dimension: Dimension, name: str, spread: Spread, runs: int, unit: str, better: Better, form: str
    ) -> Figure:
        remark = f"{spread.minimum:{form}} to {spread.maximum:{form}} over the {runs} runs"
        return Figure(
            dimension, SUITE, name, spread.median, how, runs, "runs", unit, better=better, remark=remark
        )

    found = [
        figure("latency", "decode", one.tokens_per_second, _REPEATS, "tokens/s", "higher", ".1f")
        for one in runtime.decode
    ]
    found += [
        figure("latency", "prefill", one.tokens_per_second, _REPEATS, "tokens/s", "higher", ".1f")
        for one in runtime.prefill
    ]
    found.append(figure("latency", "first token", runtime.first_token_seconds, _STARTS, "s", "lower", ".3f"))
    peak = runtime.memory_after_generation.peak / 1e6
    remark = "on top of Python and the runtime's libraries"
    found.append(Figure("memory", SUITE, "peak memory", peak, how, _STARTS, "runs", "MB", remark=remark))
    return found


def footprint(session: Session) -> dict[str, list[Figure]]:
    """What needs no run: size of the files, of the KV cache, and the estimate of energy, beside the float model's."""
    plan = session.plan
    products = products_per_token(plan)
    found: dict[str, list[Figure]] = {}
    for forecast in plan.forecasts:
        name = forecast.target.key
        if name not in session.runners:
            continue
        cache = forecast.cache_bytes * PAST / forecast.target.max_context
        own = (session.folder / get_backend(name).folder).glob("model.*")
        file_bytes = sum(path.stat().st_size for path in own)
        ours = energy_per_token(weight_bytes_per_token(plan, forecast) + cache, *products)
        float_bytes = FLOAT_BYTES * (sum(products) + plan.other_parameters) + cache
        theirs = energy_per_token(float_bytes, 0, sum(products))
        found[name] = [
            Figure(
                "memory",
                FOOTPRINT,
                "model files",
                file_bytes / 1e6,
                "bytes of the model's files",
                1,
                "file",
                "MB",
                reference=plan.float_megabytes,
            ),
            Figure(
                "memory",
                FOOTPRINT,
                "KV cache",
                forecast.cache_bytes / 1e6,
                f"at {forecast.target.max_context} tokens, from the plan",
                1,
                "plan",
                "MB",
            ),
            Figure(
                "energy",
                FOOTPRINT,
                "energy, an estimate",
                ours.middle,
                f"ESTIMATE, not measured: bytes read and multiply-accumulates of a token behind {PAST} others, times "
                f"the constants of {SOURCE}; middle of the range that its DRAM figures give",
                1,
                "estimate",
                "mJ/token",
                reference=theirs.middle,
                remark=f"{ours.least:.1f} to {ours.most:.1f}, float {theirs.least:.1f} to {theirs.most:.1f} mJ",
            ),
        ]
    return found
