"""The parity ladder over written files: float model -> dequantised weights -> each runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from exporter.memory import VerifyRoom
from exporter.models.causal_lm import CausalLM, CausalLMSkeleton
from exporter.models.encoder_decoder import EncoderDecoder, EncoderDecoderSkeleton
from exporter.models.loading import Model
from exporter.models.pretrained import Pretrained, PretrainedSkeleton
from exporter.models.python_module import ModuleSkeleton, PythonModule
from exporter.parity import Limits
from exporter.parity.task_limits import missed, told
from exporter.recipe import Recipe, TaskGate
from exporter.verify.encoders import verify_encoder
from exporter.verify.material import material_for
from exporter.verify.modules import verify_module
from exporter.verify.npu import verify_npu
from exporter.verify.outcome import Verified
from exporter.verify.seq2seq import verify_seq2seq
from exporter.verify.text import verify_text

__all__ = ["Verified", "verify_model"]


def verify_model(
    model: Model,
    skeleton: CausalLMSkeleton | PretrainedSkeleton | ModuleSkeleton | EncoderDecoderSkeleton,
    folder: Path,
    recipe: Recipe,
    progress: Callable[[str, float], None],
    room: VerifyRoom | None = None,
) -> Verified:
    """Run the recipe's ladder over the files in `folder`, one folder per target; `room` bounds memory."""
    gates = recipe.parity
    limits = Limits(
        max_rel=gates.lowering.max_rel,
        max_kl=gates.quantisation.max_kl,
        min_top1=gates.quantisation.min_top1,
        max_ppl_ratio=gates.quantisation.max_ppl_ratio,
        min_cosine=gates.quantisation.min_cosine,
        min_group_cosine=gates.quantisation.min_language_cosine,
    )
    if isinstance(model, PythonModule):
        assert isinstance(skeleton, ModuleSkeleton)
        ladder = verify_module if skeleton.dialect == "cpu" else verify_npu
        found = ladder(model, skeleton, folder, recipe, limits, progress)
    elif isinstance(model, EncoderDecoder):
        assert isinstance(skeleton, EncoderDecoderSkeleton)
        found = verify_seq2seq(model, skeleton, folder, recipe, limits, progress)
    elif isinstance(skeleton, PretrainedSkeleton):
        assert isinstance(model, Pretrained)
        found = verify_encoder(model, skeleton, folder, recipe, limits, progress, room)
    else:
        assert isinstance(model, CausalLM) and isinstance(skeleton, CausalLMSkeleton)
        material = material_for(model, recipe)
        found = verify_text(model, skeleton, folder, recipe.targets, limits, material, progress, room)
    return _judged(found, gates.tasks)


def _judged(found: Verified, gate: TaskGate) -> Verified:
    """With the limits of the task's own figures, beside those of the ladder."""
    sentences = missed(gate, found.tasks)
    tasks = found.tasks
    if tasks is not None and told(gate):
        outcome = "missed, see above" if sentences else "held"
        tasks = replace(tasks, notes=(*tasks.notes, f"limits of parity.tasks ({told(gate)}): {outcome}"))
    parity = replace(found.parity, other_failures=(*found.parity.other_failures, *sentences))
    return replace(found, parity=parity, tasks=tasks)
