"""Which values of a program stay integers, and where they come from float and go back to it.

Integers are what a static layer takes and gives. Of the operators between, those stay integer that both
runtimes have a kernel for, that only integers go into, and whose result something takes as integers.
Everything else is float, and the values that cross are the borders.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, prod

import torch
from torch.export import ExportedProgram

from exporter.errors import PlanError
from exporter.schemes import Observer, QuantScheme
from exporter.static.naming import is_product, operator_name, value_names

# Operators with a range of their own, and those that only move or choose values, which keep their input's.
_COMPUTING = ("add", "mul", "mean", "adaptive_avg_pool2d")
_MOVING = ("max_pool2d", "view", "reshape", "flatten", "unsqueeze", "permute", "cat")
_NOTHING = ("dropout", "contiguous", "alias", "detach")  # of a value, in a model that is not trained
_CLAMPS = ("relu", "relu6", "hardtanh", "clamp")
_PADS = ("pad", "constant_pad_nd")


@dataclass(frozen=True)
class Border:
    """One value that is turned from float into integers or back."""

    value: str
    into: str  # "integers" | "float"
    elements: int  # of one example
    other_side: str  # the operator, input or output that is float


@dataclass
class Placement:
    """The decisions, by nodes of one program; names are those of exporter.static.naming."""

    names: Mapping[torch.fx.Node, str]
    integer: dict[torch.fx.Node, str]  # node whose result is held as integers -> name of the value
    takers: dict[torch.fx.Node, set[torch.fx.Node]]  # integer value -> operators that take it as integers
    through: dict[torch.fx.Node, torch.fx.Node]  # node of _NOTHING, or a pad of a convolution -> its source
    clamps: dict[torch.fx.Node, torch.fx.Node]  # clamp that becomes the range of its producer -> the producer
    pads: set[torch.fx.Node]  # zero padding that belongs to the one convolution behind
    alike: list[set[str]]  # names of values that share a scale
    layers: dict[str, tuple[str, str]]  # static layer -> names of what it takes and gives
    convolves: dict[str, bool]  # whether the layer is a convolution, its channels the second axis
    codes: tuple[int, int]  # smallest and largest code, one kind for the whole model
    observers: dict[str, Observer]  # by value
    symmetric: bool = False  # zero is code 0 of every value
    fixed: Mapping[str, tuple[float, float]] = field(
        default_factory=dict
    )  # values whose range is known beforehand
    balanced: frozenset[str] = frozenset()  # values whose zero is the middle code
    wide: frozenset[str] = frozenset()  # constants with int32 codes
    scores: frozenset[str] = frozenset()  # values that go into a softmax
    constants: Mapping[str, str] = field(
        default_factory=dict
    )  # values that are constants -> name in the program
    borders: list[Border] = field(default_factory=list)
    left: list[str] = field(default_factory=list)  # why an operator between integers stays float

    @property
    def facts(self) -> dict[str, object]:
        """Counts for the manifest."""
        return {
            "values": len(set(self.integer.values())),
            "fused clamps": len(self.clamps),
            "borders": len(self.borders),
            "left": self.left,
        }


def place(
    program: ExportedProgram, schemes: Mapping[str, QuantScheme], others: Collection[str] = ()
) -> Placement:
    """Decide. `schemes`: those of the static layers; `others`: quantised layers with float activations.

    Raises PlanError where static layers differ in their codes, or a layer is called more than once or not at all.
    """
    limits = {scheme.activation_limits for scheme in schemes.values()}
    if len(limits) > 1:
        kinds = sorted({scheme.activations for scheme in schemes.values()})
        raise PlanError(
            f"static layers of one model share one kind of codes, and the recipe asks for {' and '.join(kinds)}; "
            "give all of them the same activations"
        )
    return _Placing(program, schemes, others).run(limits.pop())


class Passing:
    """Nodes that pass a value on: what changes nothing, and clamps that are the end of their producer's range."""

    through: dict[torch.fx.Node, torch.fx.Node]
    clamps: dict[torch.fx.Node, torch.fx.Node]

    def source(self, node: torch.fx.Node) -> torch.fx.Node:
        """The node whose value this one passes on."""
        while node in self.through or node in self.clamps:
            node = self.through[node] if node in self.through else self.clamps[node]
        return node

    def users(self, node: torch.fx.Node) -> list[torch.fx.Node]:
        """Who reads the value, through what passes it on."""
        found: list[torch.fx.Node] = []
        for user in node.users:
            found += self.users(user) if user in self.through or self.clamps.get(user) is node else [user]
        return found


class _Placing(Passing):
    """Walks the graph once forward and narrows what stays integer until nothing changes."""

    def __init__(
        self, program: ExportedProgram, schemes: Mapping[str, QuantScheme], others: Collection[str]
    ) -> None:
        self.nodes = list(program.graph.nodes)
        self.schemes = schemes
        self.names = value_names(program, schemes, others)
        self.through, self.clamps = {}, {}
        self.pads: set[torch.fx.Node] = set()
        self.left: list[str] = []
        self.static = self._static_layers()
        self.candidates: set[torch.fx.Node] = set()

    def run(self, codes: tuple[int, int]) -> Placement:
        """All decisions."""
        for node in self.nodes:
            if node.op == "call_function" and operator_name(node) in _NOTHING:
                self.through[node] = node.args[0]
            elif self._pads_a_layer(node):
                self.pads.add(node)
                self.through[node] = node.args[0]
        self.candidates = {node for node in self.nodes if self._could(node)}
        self._fuse_clamps()
        self._narrow()
        self._drop_unlike()
        return self._placement(codes)

    def _static_layers(self) -> dict[torch.fx.Node, str]:
        found: dict[torch.fx.Node, str] = {}
        for node in self.nodes:
            name = self.names.get(node, "")
            layer, _, again = name.partition("@")
            if is_product(node) and layer in self.schemes:
                if again:
                    raise PlanError(
                        f"layer {layer}: is called more than once, with ranges that may differ; a layer with static "
                        "activations is called once. Give it activations: float or dynamic-int8"
                    )
                found[node] = layer
        missing = sorted(set(self.schemes) - set(found.values()))
        if missing:
            raise PlanError(
                f"layer {missing[0]}: no convolution or matrix product of it is in the traced model, so that it has "
                "no input to measure; set `scheme: float`"
            )
        return found

    def _pads_a_layer(self, node: torch.fx.Node) -> bool:
        """Zero padding of height and width whose one reader is a static convolution."""
        if node.op != "call_function" or operator_name(node) not in _PADS or len(node.users) != 1:
            return False
        amounts = node.args[1]
        assert isinstance(amounts, list | tuple)
        mode = node.args[2] if operator_name(node) == "pad" and len(node.args) > 2 else "constant"
        value = node.args[-1] if len(node.args) > (3 if operator_name(node) == "pad" else 2) else 0.0
        positive = all(isinstance(amount, int) and amount >= 0 for amount in amounts)
        return (
            next(iter(node.users)) in self.static
            and len(amounts) <= 4
            and positive
            and mode == "constant"
            and not value
        )

    def _could(self, node: torch.fx.Node) -> bool:
        """Whether both runtimes have an integer kernel for this operator as it is called."""
        if node.op != "call_function" or node in self.through or not is_float(node):
            return False
        name = operator_name(node)
        if name in _COMPUTING or name in _MOVING:
            reason = _unfit(node)
            if reason is None:
                return True
            self.left.append(f"{self.names[node]}: {reason}")
        return False

    def _fuse_clamps(self) -> None:
        """A clamp at zero whose input nobody else reads becomes the range of what produces its input."""
        for node in self.nodes:
            if node.op != "call_function" or operator_name(node) not in _CLAMPS:
                continue
            producer = self.source(node.args[0])
            makes = producer in self.static or (
                producer in self.candidates and operator_name(producer) in _COMPUTING
            )
            bounds = clamp_bounds(node)
            if not makes or bounds is None or self.users(producer) != [node]:
                continue
            if bounds[0] != 0:
                self.left.append(f"{self.names[node]}: clamps at {bounds[0]:g}, and only zero has a code")
                continue
            self.clamps[node] = producer

    def _narrow(self) -> None:
        """Of the candidates, keep those between integers."""
        while True:
            kept = {
                node
                for node in self.candidates
                if all(self._gives(source) for source in self._inputs(node))
                and any(user in self.static or user in self.candidates for user in self.users(node))
            }
            if kept == self.candidates:
                return
            self.candidates = kept
            self.clamps = {c: p for c, p in self.clamps.items() if p in self.static or p in kept}

    def _drop_unlike(self) -> None:
        """Values that must share a scale are clamped alike, or the operator that joins them stays float."""
        while True:
            for group in self._groups():
                bounds = {self._bounds(node) for node in group if operator_name(node) not in _MOVING}
                joins = [n for n in group if n in self.candidates and operator_name(n) == "cat"]
                if len(bounds) > 1 and joins:
                    self.left.append(
                        f"{self.names[joins[0]]}: joins values that are clamped differently, and its kernels have "
                        "one scale for all"
                    )
                    self.candidates.discard(joins[0])
                    self._narrow()
                    break
            else:
                return

    def _groups(self) -> list[set[torch.fx.Node]]:
        """Values that share a scale, transitively."""
        parent: dict[torch.fx.Node, torch.fx.Node] = {}

        def root(node: torch.fx.Node) -> torch.fx.Node:
            while parent.get(node, node) is not node:
                node = parent[node]
            return node

        for node in self.nodes:
            if node in self.candidates and operator_name(node) in _MOVING:
                for source in self._inputs(node):
                    parent[root(source)] = root(node)
        groups: dict[torch.fx.Node, set[torch.fx.Node]] = {}
        for node in (*parent, *parent.values()):
            groups.setdefault(root(node), set()).add(node)
        return list(groups.values())

    def _bounds(self, node: torch.fx.Node) -> tuple[float, float] | None:
        """What the value is clamped to."""
        clamp = next((clamp for clamp, producer in self.clamps.items() if producer is node), None)
        if clamp is not None:
            return clamp_bounds(clamp)
        return (-inf, inf)

    def _inputs(self, node: torch.fx.Node) -> list[torch.fx.Node]:
        """Sources of the tensors that an operator takes."""
        return [self.source(n) for n in node.all_input_nodes if is_float(n)]

    def _gives(self, node: torch.fx.Node) -> bool:
        return node in self.static or node in self.candidates

    def _placement(self, codes: tuple[int, int]) -> Placement:
        held = [n for n in self.nodes if n in self.static or n in self.candidates]
        entering = {self.source(node.args[0]) for node in self.static}  # type: ignore[arg-type]
        integer: dict[torch.fx.Node, str] = {}
        for node in self.nodes:
            if node in entering or node in self.static or node in self.candidates:
                integer[node] = self._value_name(node)
        takers = {
            node: {user for user in self.users(node) if user in self.static or user in self.candidates}
            for node in integer
        }
        placement = Placement(
            names=self.names,
            integer=integer,
            takers=takers,
            through=self.through,
            clamps=self.clamps,
            pads=self.pads,
            alike=[{self._value_name(node) for node in group} for group in self._groups()],
            layers={
                layer: (self._value_name(self.source(node.args[0])), self._value_name(node))  # type: ignore[arg-type]
                for node, layer in self.static.items()
            },
            convolves={layer: operator_name(node) != "linear" for node, layer in self.static.items()},
            codes=codes,
            observers=self._observers(integer, takers),
            left=self.left,
        )
        placement.borders += self._borders(placement, held)
        return placement

    def _value_name(self, node: torch.fx.Node) -> str:
        """A value that is clamped is what comes out of the clamp."""
        clamp = next((c for c, producer in self.clamps.items() if producer is node), node)
        return self.names[clamp]

    def _observers(
        self, integer: Mapping[torch.fx.Node, str], takers: Mapping[torch.fx.Node, set[torch.fx.Node]]
    ) -> dict[str, Observer]:
        """Of the layer that makes the value, else of the first that takes it; between them, of the nearest before."""
        found: dict[torch.fx.Node, Observer] = {}
        for node in self.nodes:
            if node in self.static:
                found[node] = self.schemes[self.static[node]].observer
            elif node in self.candidates:
                found[node] = next((found[s] for s in self._inputs(node) if s in found), "minmax")
            elif node in integer:
                layer = next(user for user in self.nodes if user in takers[node] and user in self.static)
                found[node] = self.schemes[self.static[layer]].observer
        return {integer[node]: observer for node, observer in found.items()}

    def _borders(self, placement: Placement, held: Sequence[torch.fx.Node]) -> list[Border]:
        borders = []
        for node, name in placement.integer.items():
            if node not in held:
                borders.append(Border(name, "integers", _elements(node), self.names.get(node, str(node))))
                continue
            outside = [user for user in self.users(node) if user not in placement.takers[node]]
            if outside:
                side = "output" if outside[0].op == "output" else self.names.get(outside[0], str(outside[0]))
                borders.append(Border(name, "float", _elements(node), side))
        return borders


def clamp_bounds(node: torch.fx.Node) -> tuple[float, float] | None:
    """Smallest and largest value that a clamp gives; None where they are no constants."""
    name, args = operator_name(node), node.args
    if name == "relu":
        return 0.0, inf
    if name == "relu6":
        return 0.0, 6.0
    defaults = (-1.0, 1.0) if name == "hardtanh" else (None, None)
    low, high = (args[i] if len(args) > i else defaults[i - 1] for i in (1, 2))
    numbers = (int, float, type(None))
    if not isinstance(low, numbers) or not isinstance(high, numbers):
        return None
    return (-inf if low is None else float(low)), (inf if high is None else float(high))


def _unfit(node: torch.fx.Node) -> str | None:
    """Why the integer kernels do not take this call of the operator, or None."""
    name, args = operator_name(node), node.args
    tensors = [n for n in node.all_input_nodes if is_float(n)]
    if name in ("add", "mul"):
        if (
            len([a for a in args[:2] if isinstance(a, torch.fx.Node)]) != 2
            or node.kwargs.get("alpha", 1) != 1
        ):
            return "adds or multiplies a number, and the integer kernels take two tensors"
        return None if len(tensors) in (1, 2) else "takes a tensor that is no float"
    shape = tensors[0].meta["val"].shape if tensors else ()
    if name == "mean":
        given = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ()
        axes = sorted(axis % 4 for axis in given if isinstance(axis, int))
        keep = len(args) > 2 and bool(args[2])
        if len(shape) != 4 or axes != [2, 3] or not keep:
            return "is a mean of other axes than height and width of four, kept as axes of one"
    if name == "adaptive_avg_pool2d" and (len(shape) != 4 or list(args[1]) != [1, 1]):  # type: ignore[arg-type]
        return "pools to more than one place, for which XNNPACK's integer kernels are not reached"
    if name == "max_pool2d" and len(args) > 5 and args[5]:
        return "pools with ceil_mode, which XNNPACK's integer kernel has not"
    return None


def is_float(node: torch.fx.Node) -> bool:
    """Whether the node gives one float32 tensor."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dtype == torch.float32


def _elements(node: torch.fx.Node) -> int:
    """Of one example: an axis of unknown length counts as it was traced."""
    shape = node.meta["val"].shape
    return prod(int(size) if isinstance(size, int) else size.node.hint or 1 for size in shape)
