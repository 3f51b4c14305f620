"""What a model does: optimum's task names, and what each needs of transformers. Pure data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Task = Literal[
    "text-generation",
    "feature-extraction",
    "text-classification",
    "token-classification",
    "fill-mask",
    "image-classification",
    "automatic-speech-recognition",
    "text2text-generation",
    "image-to-text",
    "module",
]
TASKS: tuple[str, ...] = get_args(Task)

Family = Literal["causal", "encoder", "vision", "encoder-decoder", "module"]
Medium = Literal["text", "image", "audio", "tensors"]  # what a person gives the model


@dataclass(frozen=True)
class TaskSpec:
    """How a task is opened and run; `module` is a person's own function and has no transformers class."""

    task: Task
    family: Family
    medium: Medium
    auto_class: str | None  # of transformers
    output: str  # of the model's output, what is compared and shipped
    meaning: str  # one line for a person


_SPECS = (
    TaskSpec("text-generation", "causal", "text", "AutoModelForCausalLM", "logits", "continues a text"),
    TaskSpec("feature-extraction", "encoder", "text", "AutoModel", "last_hidden_state", "text to vectors"),
    TaskSpec(
        "text-classification",
        "encoder",
        "text",
        "AutoModelForSequenceClassification",
        "logits",
        "text to a label",
    ),
    TaskSpec(
        "token-classification",
        "encoder",
        "text",
        "AutoModelForTokenClassification",
        "logits",
        "a label for each token",
    ),
    TaskSpec("fill-mask", "encoder", "text", "AutoModelForMaskedLM", "logits", "words for masked places"),
    TaskSpec(
        "image-classification",
        "vision",
        "image",
        "AutoModelForImageClassification",
        "logits",
        "picture to a label",
    ),
    TaskSpec(
        "automatic-speech-recognition",
        "encoder-decoder",
        "audio",
        "AutoModelForSpeechSeq2Seq",
        "logits",
        "speech to text",
    ),
    TaskSpec(
        "text2text-generation",
        "encoder-decoder",
        "text",
        "AutoModelForSeq2SeqLM",
        "logits",
        "text to another text",
    ),
    TaskSpec(
        "image-to-text",
        "encoder-decoder",
        "image",
        "AutoModelForImageTextToText",
        "logits",
        "picture to text",
    ),
    TaskSpec("module", "module", "tensors", None, "output", "any torch.nn.Module of a person's own"),
)
SPECS: dict[str, TaskSpec] = {spec.task: spec for spec in _SPECS}
