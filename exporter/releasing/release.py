"""A recipe with an envelope: as written first, then down its ladder until a candidate is what the envelope asks for.

Every candidate is exported and verified as any recipe is, and judged before it takes the place of what was released
before. Nothing that misses the envelope ever does.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.artifacts import changed_files, read_manifest
from exporter.errors import ArtifactError, EnvelopeMissed, GateFailed, QexportError
from exporter.jobs import job_hash
from exporter.pipeline import Result, failed_place, plan_recipe, run
from exporter.plan import QuantPlan
from exporter.progress import Stages
from exporter.recipe import Envelope, Recipe
from exporter.releasing.judging import judge_of, judged_by, shortly
from exporter.releasing.steps import MARGIN, with_int8, with_method, with_mix, with_training
from exporter.workplace import Workplace, workplace

_AS_WRITTEN = "as written"
_MIXES = 2  # how often a mix that missed is aimed lower


def release(
    recipe: Recipe,
    out: Path,
    force: bool,
    stages: Stages,
    max_memory: int | None = None,
    resume: bool = False,
) -> Result:
    """pipeline.run(), and where the recipe has an envelope, down its ladder.

    Raises GateFailed, with every step and its price, where no step is what the envelope asks for; what was released
    before is then untouched.
    """
    if recipe.envelope is None:
        return run(recipe, out, force, stages, max_memory, resume)
    with workplace(out, resume, stages.say) as place:
        return _Release(recipe, recipe.envelope, out, force, stages, max_memory, place).result()


@dataclass(frozen=True)
class _Missed:
    """A step that did not end in a release."""

    step: str
    recipe: Recipe | None  # None where no candidate could be made
    figures: Mapping[str, float]  # by limit's key; none where it was not exported
    misses: tuple[str, ...]

    def line(self) -> str:
        """`mix: 94.6 MB, KL 0.1136: …`."""
        shown = shortly(self.figures)
        return f"{self.step}: {shown + '. Missed: ' if shown else ''}{'; '.join(self.misses)}"


class _Release:
    """One way down one ladder."""

    def __init__(
        self,
        recipe: Recipe,
        envelope: Envelope,
        out: Path,
        force: bool,
        stages: Stages,
        max_memory: int | None,
        place: Workplace,
    ) -> None:
        self.recipe, self.envelope, self.out, self.force = recipe, envelope, out, force
        self.stages, self.max_memory, self.place = stages, max_memory, place
        self.missed: list[_Missed] = []
        model, plan = plan_recipe(recipe)
        self.asked = job_hash(recipe, plan, model)
        self.known = {
            entry["candidate"]: entry
            for entry in place.noted().get("steps", [])
            if place.noted().get("asked") == self.asked
        }

    def result(self) -> Result:
        """The first candidate that is what was asked for."""
        if (held := self._held()) is not None:
            return held
        for step, candidate in self._candidates():
            found = self._tried(step, candidate)
            if found is not None:
                return found
        raise GateFailed(self._told())

    def _held(self) -> Result | None:
        """The release that is there, where this very recipe led to it."""
        try:
            manifest = read_manifest(self.out)
        except ArtifactError:
            return None
        made = manifest["summary"].get("envelope") or {}
        if made.get("asked") != self.asked or changed_files(self.out, manifest):
            return None
        return Result(self.out, manifest["summary"], reused=True)

    def _candidates(self) -> Iterator[tuple[str, Recipe]]:
        """Steps in turn; one that cannot be made is said and passed over."""
        yield _AS_WRITTEN, self.recipe
        for step in self.envelope.ladder:
            if step == "mix":
                yield from self._mixes()
                continue
            make = {"method": with_method, "qat": with_training, "int8": with_int8}[step]
            try:
                yield step, make(self._base(step))
            except QexportError as problem:
                self._pass_over(step, " ".join(str(problem).split()))

    def _base(self, step: str) -> Recipe:
        """What a step starts from: training from the candidate that lost least within max_mb, the others from the
        recipe as written."""
        if step != "qat":
            return self.recipe
        limit = self.envelope.max_mb or float("inf")
        tried = [
            m for m in self.missed if m.recipe is not None and m.figures.get("max_mb", limit + 1) <= limit
        ]
        best = min(tried, key=lambda m: m.figures.get("max_kl", float("inf")), default=None)
        return best.recipe if best is not None and best.recipe is not None else self.recipe

    def _mixes(self) -> Iterator[tuple[str, Recipe]]:
        """A mix for the loss that is allowed, or half of what was lost; where it misses, one aimed lower."""
        from exporter.searching import Goal  # imports torch

        base = self._base("mix")
        with suppress(QexportError):  # calibrated already, or the search will say what is missing
            base = with_method(base)
        lost = min((m.figures["max_kl"] for m in self.missed if "max_kl" in m.figures), default=None)
        limit = self.envelope.max_kl or (lost / 2 if lost else None)
        aim = limit and limit * MARGIN
        for number in range(_MIXES):
            step = "mix" if number == 0 else f"mix, aimed lower ({aim:.4f})"
            goal = Goal(kl=aim) if aim else Goal(megabytes=self.envelope.max_mb)
            try:
                candidate, predicted = with_mix(base, goal, self.stages)
            except QexportError as problem:
                self._pass_over(step, " ".join(str(problem).split()))
                return
            self.stages.say(f"step {step}: predicted KL {predicted:.4f}")
            yield step, candidate
            measured = self.missed[-1].figures.get("max_kl")
            if measured is None or not aim or not limit or measured < limit:
                return  # too large, or another limit than that of KL was missed
            aim *= limit / measured * MARGIN

    def _tried(self, step: str, candidate: Recipe) -> Result | None:
        """The release, or None with what it missed kept for the end."""
        number = 1 + len({m.step.partition(",")[0] for m in self.missed} - {step.partition(",")[0]})
        self.stages.say(f"step {number} of {1 + len(self.envelope.ladder)}: {step}")
        if (known := self.known.get(candidate.sha256)) is not None:
            self._miss(_Missed(step, candidate, known["figures"], tuple(known["misses"])))
            return None
        started = time.monotonic()
        try:
            model, plan = plan_recipe(candidate)
        except QexportError as problem:
            if step == _AS_WRITTEN:
                raise
            self._pass_over(step, " ".join(str(problem).split()))
            return None
        if (large := self._too_large(plan)) is not None:
            self._miss(_Missed(step, candidate, *large))
            return None
        judge = judge_of(candidate, self.envelope, self.stages)

        def judged(*given: Any) -> Mapping[str, Any]:
            steps = [{"step": m.step, "missed": list(m.misses)} for m in self.missed]
            return {**judge(*given), "asked": self.asked, "step": step, "steps": steps}

        try:
            found = run(
                candidate, self.out, self.force, self.stages, self.max_memory, place=self.place, judge=judged
            )
            self._released(step, found)
            return found
        except EnvelopeMissed as missed:
            verdict = missed.verdict
            failed = _Missed(step, candidate, verdict["figures"], tuple(verdict["misses"]))
        except GateFailed as missed:
            failed = _Missed(step, candidate, {}, (" ".join(str(missed).split()),))
        self.place.forget(job_hash(candidate, plan, model))
        self._miss(failed, time.monotonic() - started)
        return None

    def _released(self, step: str, result: Result) -> None:
        """Say so; what a step before left in OUT.failed is of no more use."""
        if any(missed.recipe is not None for missed in self.missed):
            shutil.rmtree(failed_place(self.out), ignore_errors=True)
        figures = result.data.get("envelope", {}).get("figures", {})
        self.stages.say(f"released: {step}: {shortly(figures)}; its recipe stands in report.html")

    def _too_large(self, plan: QuantPlan) -> tuple[dict[str, float], tuple[str, ...]] | None:
        """Known before any work."""
        if self.envelope.max_mb is None:
            return None
        largest = max(plan.forecasts, key=lambda forecast: forecast.total_bytes)
        only = Envelope(max_mb=self.envelope.max_mb)
        found = judged_by(only, {"max_mb": (largest.total_bytes / 1e6, f"{largest.target.key}, forecast")})
        return None if found["passed"] else (found["figures"], tuple(found["misses"]))

    def _pass_over(self, step: str, reason: str) -> None:
        self._miss(_Missed(step, None, {}, (f"no candidate: {reason}",)))

    def _miss(self, missed: _Missed, seconds: float | None = None) -> None:
        self.missed.append(missed)
        price = "" if seconds is None else f" ({seconds:,.0f} s)"
        self.stages.say(f"step {missed.line()}{price}")
        steps = [
            {"candidate": m.recipe.sha256, "figures": dict(m.figures), "misses": list(m.misses)}
            for m in self.missed
            if m.recipe is not None
        ]
        self.place.note({"asked": self.asked, "steps": steps})

    def _told(self) -> str:
        lines = ["no step of the ladder is what the envelope asks for:"]
        lines += [f"  - {missed.line()}" for missed in self.missed]
        held = (self.out / "manifest.json").is_file()
        lines.append(
            f"  {self.out}: {'what was released before is untouched' if held else 'nothing was released'}; allow more, "
            "or take a larger model"
        )
        return "\n".join(lines)
