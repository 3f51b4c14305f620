"""The format of a recipe as tables of keys: what the reader checks and what the JSON Schema says."""

from __future__ import annotations

from dataclasses import dataclass

from exporter.errors import Place
from exporter.layers import KINDS, Kind
from exporter.recipe.data_format import CALIBRATION, LANGUAGES, PARITY_DATA, PREPROCESSING
from exporter.recipe.document import (
    MapNode,
    Node,
    Problems,
    ScalarNode,
    describe,
    did_you_mean,
)
from exporter.recipe.envelope_format import ENVELOPE
from exporter.recipe.fields import (
    Choice,
    Field,
    JsonSchema,
    ListOf,
    Located,
    MapOf,
    ModulePattern,
    Number,
    Record,
    Text,
    TextFile,
    refuse,
)
from exporter.recipe.patterns import Pattern
from exporter.recipe.qat_format import QAT
from exporter.recipe.scheme_format import SCHEME, SchemeDraft
from exporter.recipe.target_format import TARGET, fitting_targets
from exporter.recipe.types import (
    ON_UNSUPPORTED,
    Calibration,
    Dimension,
    Envelope,
    LoweringGate,
    ModelSource,
    OnUnsupported,
    Parity,
    Preprocessing,
    QuantisationGate,
    Rule,
    SchemeEntry,
    TaskGate,
    Training,
)
from exporter.schemes import FLOAT
from exporter.targets import Target
from exporter.tasks import TASKS, Task

FORMAT = 1
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_SCHEME_NAME = r"[A-Za-z][A-Za-z0-9_-]{0,31}"


@dataclass(frozen=True)
class RuleDraft:
    """A rule that names its scheme."""

    place: Place
    scheme: str
    scheme_place: Place
    match: Pattern | None
    match_place: Place | None
    kind: Kind | None
    shape: tuple[Dimension, ...] | None
    because: str | None

    def resolved(self, index: int, schemes: dict[str, SchemeEntry]) -> Rule:
        """The rule with the scheme that it names."""
        scheme = FLOAT if self.scheme == FLOAT.name else schemes[self.scheme].scheme
        return Rule(
            index,
            self.place,
            scheme,
            self.scheme_place,
            self.match,
            self.match_place,
            self.kind,
            self.shape,
            self.because,
        )


@dataclass(frozen=True)
class RecipeDraft:
    """A recipe whose rules still name their schemes."""

    name: str
    model: ModelSource
    schemes: dict[str, SchemeDraft]
    rules: tuple[RuleDraft, ...]
    rules_place: Place
    targets: tuple[tuple[Target, Place], ...]
    on_unsupported: OnUnsupported
    calibration: Calibration | None
    qat: Training | None
    parity: Parity
    envelope: Envelope | None


@dataclass(frozen=True)
class _SchemeName:
    """A name from `schemes`, or `float`. Without names (for the schema): any name."""

    names: tuple[str, ...] | None

    def read(self, node: Node, where: str, problems: Problems) -> str:
        known = (*(self.names or ()), FLOAT.name)
        value = node.value if isinstance(node, ScalarNode) else None
        if isinstance(value, str) and value in known:
            return value
        shown = f"unknown scheme '{value}'" if isinstance(value, str) else f"{where} is {describe(node)}"
        near = did_you_mean(value, known) if isinstance(value, str) else ""
        raise refuse(problems, node.place, f"{shown}; allowed: {', '.join(known)}{near}")

    def json_schema(self) -> JsonSchema:
        return {"type": "string", "pattern": f"^{_SCHEME_NAME}$"}


@dataclass(frozen=True)
class _Dimension:
    """One axis of a shape: its size, or "*" for any."""

    def read(self, node: Node, where: str, problems: Problems) -> Dimension:
        value = node.value if isinstance(node, ScalarNode) else None
        if value == "*":
            return "*"
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
        raise refuse(problems, node.place, f'{where} is {describe(node)}; expected a size or "*"')

    def json_schema(self) -> JsonSchema:
        return {"anyOf": [{"type": "integer", "minimum": 1}, {"const": "*"}]}


def _rule(
    node: MapNode,
    scheme: tuple[str, Place],
    match: tuple[Pattern, Place] | None = None,
    kind: Kind | None = None,
    shape: tuple[Dimension, ...] | None = None,
    because: str | None = None,
) -> RuleDraft:
    if match is None and kind is None and shape is None:
        raise ValueError("a rule needs at least one of match, kind, shape")
    pattern, pattern_place = match if match else (None, None)
    return RuleDraft(node.place, scheme[0], scheme[1], pattern, pattern_place, kind, shape, because)


def _recipe(
    node: MapNode,
    schema: int,
    name: str,
    model: ModelSource,
    rules: tuple[tuple[RuleDraft, ...], Place],
    targets: tuple[tuple[Target, Place], ...],
    schemes: dict[str, SchemeDraft] | None = None,
    on_unsupported: OnUnsupported = "error",
    calibration: Calibration | None = None,
    qat: Training | None = None,
    parity: Parity | None = None,
    envelope: Envelope | None = None,
) -> RecipeDraft:
    del node, schema  # checked by its field
    parity = parity or Parity()
    return RecipeDraft(
        name, model, schemes or {}, *rules, targets, on_unsupported, calibration, qat, parity, envelope
    )


def _model(
    node: MapNode,
    source: tuple[str, Place],
    task: Task,
    preprocessing: Preprocessing | None = None,
    languages: tuple[str, ...] = (),
) -> ModelSource:
    return ModelSource(source[0], task, source[1], preprocessing, languages)


def recipe_record(scheme_names: tuple[str, ...] | None) -> Record[RecipeDraft]:
    """The whole format. `scheme_names` are those of the recipe at hand; None for the JSON Schema."""
    scheme_name = "a name of at most 32 letters, digits, '_' and '-', a letter first"
    schemes = MapOf(SCHEME, _SCHEME_NAME, scheme_name, reserved=(FLOAT.name,))
    rules = Located(ListOf(_rule_record(scheme_names)))
    return Record(
        _recipe,
        {
            "schema": Field(Choice((FORMAT,)), "version of the recipe format", required=True),
            "name": Field(
                Text(_NAME, "a name of letters, digits, '.', '_' and '-'"),
                "names the output folder",
                required=True,
            ),
            "model": Field(_MODEL, "which model, and what it does", required=True),
            "schemes": Field(schemes, "ways to store a layer, under names of your choice"),
            "rules": Field(
                rules, "which layer takes which scheme; the first that fits decides", required=True
            ),
            "on_unsupported": Field(
                Choice(ON_UNSUPPORTED),
                "a layer that a target has no kernel for: stop, or keep it float on every target",
                default="error",
            ),
            "calibration": Field(CALIBRATION, "samples that activations are observed on"),
            "qat": Field(QAT, "train integers and scales by what the whole model then says"),
            "targets": Field(
                ListOf(Located(TARGET), check=fitting_targets), "runtimes to write for", required=True
            ),
            "parity": Field(_PARITY, "limits that verify judges by; without one a figure is only reported"),
            "envelope": Field(ENVELOPE, "what a release must be, and what is tried until it is"),
        },
    )


def _rule_record(scheme_names: tuple[str, ...] | None) -> Record[RuleDraft]:
    return Record(
        _rule,
        {
            "match": Field(
                Located(ModulePattern()),
                "module paths: * within one segment, ** any number of segments, {a,b} or {0..9} choices",
            ),
            "kind": Field(Choice(KINDS), "layers of one kind"),
            "shape": Field(
                ListOf(_Dimension(), maximum=8), 'weights of one shape, (out, in) for linear; "*" is any size'
            ),
            "scheme": Field(
                Located(_SchemeName(scheme_names)),
                "a name from schemes, or float to keep the weights",
                required=True,
            ),
            "because": Field(Text(), "the reason, for whoever reads the recipe or the report"),
        },
        {"anyOf": [{"required": ["match"]}, {"required": ["kind"]}, {"required": ["shape"]}]},
    )


_MODEL = Record(
    _model,
    {
        "source": Field(
            Located(Text(expected="a folder, hf:ORG/NAME@REV, package:DIST/FILE or python:module:function")),
            "a Hugging Face folder, hf:ORG/NAME@REV, package:DIST/FILE or python:module:function",
            required=True,
        ),
        "task": Field(
            Choice(TASKS),
            "what the model does, by optimum's name; module for any torch.nn.Module of your own",
            required=True,
        ),
        "preprocessing": Field(
            PREPROCESSING, "what becomes of a picture first, for a model without a preprocessor_config.json"
        ),
        "languages": Field(LANGUAGES, "languages that the model is used in"),
    },
)

_LOWERING = Record(
    lambda node, **values: LoweringGate(**values),
    {"max_rel": Field(Number(0, 1), "largest error of a logit, over the logits' RMS")},
)

_QUANTISATION = Record(
    lambda node, **values: QuantisationGate(**values),
    {
        "max_kl": Field(Number(0, 100), "largest mean KL divergence, nats per token"),
        "min_top1": Field(Number(0, 1), "smallest share of tokens with the same most likely next token"),
        "max_ppl_ratio": Field(Number(1, 1000), "largest perplexity over the float model's"),
        "min_cosine": Field(
            Number(-1, 1), "smallest mean cosine of an embedding to the float model's, of feature-extraction"
        ),
        "min_language_cosine": Field(Number(-1, 1), "the same, of the language where it is lowest"),
    },
)

_TASKS = Record(
    lambda node, **values: TaskGate(**values),
    {
        "max_accuracy_loss": Field(
            Number(0, 1),
            "largest share of examples lost of those the float model has right: top-1, exact match",
        ),
        "min_agreement": Field(
            Number(0, 1), "smallest share of examples with the float model's label, or its whole text"
        ),
        "max_word_error_rise": Field(
            Number(0, 1), "largest rise of the word error rate over the float model's"
        ),
    },
)

_PARITY = Record(
    lambda node, **values: Parity(**values),
    {
        "lowering": Field(_LOWERING, "the runtime against the dequantised weights in PyTorch"),
        "quantisation": Field(_QUANTISATION, "the dequantised weights against the float model"),
        "tasks": Field(
            _TASKS, "each runtime against the float model on parity.data, in the task's own figures"
        ),
        "text": Field(ListOf(TextFile()), "running text, relative to the recipe's folder"),
        "prompts": Field(ListOf(Text()), "prompts to continue"),
        "data": Field(PARITY_DATA, "what the metrics of the task are measured on"),
    },
)
