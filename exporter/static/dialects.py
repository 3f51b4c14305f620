"""How a traced program is prepared and given codes for what will run it: a CPU, Qualcomm's NPUs or Arm's."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch.export import ExportedProgram

from exporter.errors import LoweringError
from exporter.schemes import QuantScheme
from exporter.static.decomposing import for_arm, for_qualcomm
from exporter.static.graph import fold_constants, functional, insert
from exporter.static.params import StaticPlan
from exporter.static.placing import Placement, place
from exporter.static.tidying import flatten_products, tidied
from exporter.static.whole import place_whole
from exporter.targets import Dialect


def prepared(program: ExportedProgram, dialect: Dialect) -> ExportedProgram:
    """The program in the operators that will be run; the same one whenever the same model is traced."""
    if dialect == "cpu":
        return functional(program)
    if dialect == "arm":
        return tidied(for_arm(program))
    program = tidied(for_qualcomm(program))
    flatten_products(program)
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
    program = prepared(program, dialect)
    insert(program, placed(program, static, dialect, [name for name in schemes if name not in static]), plan)
    if dialect != "cpu":
        fold_constants(program)
    return program
