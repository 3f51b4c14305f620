"""How a traced program is prepared and given codes for what will run it: a CPU, Qualcomm's NPUs or Arm's."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch.export import ExportedProgram

from exporter.errors import LoweringError, PlanError
from exporter.schemes import QuantScheme
from exporter.static.decomposing import for_arm, for_qualcomm
from exporter.static.graph import fold_constants, functional, insert
from exporter.static.naming import module_path, operator_name
from exporter.static.params import StaticPlan
from exporter.static.placing import Placement, place
from exporter.static.tidying import flatten_products, split_biases, tidied
from exporter.static.whole import place_whole
from exporter.targets import Dialect

# Operators of a prepared program that were compiled and run on each maker's NPUs (tests/npu/test_npu_capabilities.py).
_BOTH = frozenset(
    {
        "_unsafe_view", "abs", "add", "alias", "avg_pool2d", "bmm", "cat", "chunk", "clamp", "clone",
        "contiguous", "conv1d", "conv2d", "detach", "dropout", "embedding", "exp", "expand", "flatten",
        "gelu", "getitem", "hardswish", "hardtanh", "linear", "max_pool2d", "mul", "neg", "pad", "permute",
        "relu", "relu6", "repeat", "reshape", "select", "sigmoid", "slice", "split", "split_with_sizes",
        "squeeze", "sub", "sum", "t", "tanh", "transpose", "unsqueeze", "view",
    }
)  # fmt: skip
OPERATORS: Mapping[Dialect, frozenset[str]] = {
    "qualcomm": _BOTH
    | {"adaptive_avg_pool2d", "div", "layer_norm", "matmul", "mean", "rms_norm", "softmax", "sqrt"},
    "arm": _BOTH | {"amax", "reciprocal", "rsqrt"},
}
_MAKERS = {"qualcomm": "Qualcomm's", "arm": "Arm's"}


def check_operators(program: ExportedProgram, dialect: Dialect) -> None:
    """Raise PlanError for the first operator of a prepared program that was not proven on the dialect's NPUs."""
    if dialect == "cpu":
        return
    for node in program.graph.nodes:
        name = operator_name(node) if node.op == "call_function" else ""
        if name and name not in OPERATORS[dialect]:
            where = f" in {path}" if (path := module_path(node)) else ""
            known = ", ".join(sorted(OPERATORS[dialect]))
            raise PlanError(
                f"operator {name}{where}: is not among those that were proven on {_MAKERS[dialect]} NPUs, and the CPU "
                f"may not run it; they are: {known}. Write the module with these, or take the CPU's targets"
            )


def in_blocks(schemes: Mapping[str, QuantScheme]) -> list[str]:
    """Names of the layers whose weights have scales for blocks, as `prepared` wants them."""
    return [name for name, scheme in schemes.items() if scheme.steps_scales]


def prepared(program: ExportedProgram, dialect: Dialect, blocks: Collection[str] = ()) -> ExportedProgram:
    """The program in the operators that will be run; the same one whenever the same model is traced.

    `blocks`: layers whose weights have scales for blocks (in_blocks).
    """
    if dialect == "cpu":
        return functional(program)
    if dialect == "arm":
        return tidied(for_arm(program))
    program = tidied(for_qualcomm(program))
    flatten_products(program)
    split_biases(program, blocks)
    return program


def placed(
    program: ExportedProgram,
    schemes: Mapping[str, QuantScheme],
    dialect: Dialect,
    others: Collection[str] = (),
) -> Placement:
    """Which values of a prepared program are integers. `schemes`: of the static layers, `others`: names of quantised
    layers with float activations. Raises PlanError."""
    if dialect == "cpu":
        return place(program, schemes, others)
    wide = any(scheme.activation_limits[1] > 255 for scheme in schemes.values())
    return place_whole(program, schemes, symmetric=dialect == "arm" and wide)


def with_integers(
    program: ExportedProgram,
    schemes: Mapping[str, QuantScheme],
    plan: StaticPlan | None,
    dialect: Dialect = "cpu",
) -> ExportedProgram:
    """The traced program of a model in which some layers are static, with integers between them.

    `schemes`: of every quantised layer. Without a static one, the program as it is. Raises PlanError, LoweringError.
    """
    static = {name: scheme for name, scheme in schemes.items() if scheme.is_static}
    if not static:
        return program
    if plan is None:
        raise LoweringError(
            f"layer {next(iter(static))}: is static and its ranges were not measured; calibrate first"
        )
    program = prepared(program, dialect, in_blocks(schemes))
    insert(program, placed(program, static, dialect, [name for name in schemes if name not in static]), plan)
    if dialect != "cpu":
        fold_constants(program)
    return program
