"""Every value of a program as integers: what an NPU computes, which has no float beside them.

exporter.static.placing makes islands of integers for a CPU that has both. Here each float value of a tidied program
(exporter.static.tidying) gets codes of its own: inputs, constants, the result of every operator. Operators that only
move values keep their input's. What a softmax cannot tell from nothing is cut off the range of its scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch.export import ExportedProgram

from exporter.errors import PlanError
from exporter.schemes import Observer, QuantScheme
from exporter.static.naming import is_lookup, is_product, operator_name, value_names
from exporter.static.placing import Passing, Placement, clamp_bounds, is_float
from exporter.static.tidying import constants_of

# Operators that move or choose values and keep their input's scale.
MOVING = frozenset(
    {
        "max_pool2d", "view", "reshape", "flatten", "unsqueeze", "squeeze", "permute", "transpose", "cat", "stack",
        "expand", "slice", "select", "split", "split_with_sizes", "chunk", "getitem", "clone", "repeat", "t",
        "_unsafe_view", "unflatten", "embedding", "amax",
    }
)  # fmt: skip
_NOTHING = frozenset(
    ["dropout", "contiguous", "alias", "detach"]
)  # of a value, in a model that is not trained
_CLAMPS = frozenset(["relu", "relu6", "hardtanh", "clamp", "clamp_min"])
_FUSING = frozenset(
    ["conv1d", "conv2d", "convolution", "linear", "add", "sub", "mul"]
)  # end in a clamp at no cost
_UNIT = frozenset(["softmax", "_softmax", "sigmoid"])  # between 0 and 1, whatever goes in
_TINY = 1e-6  # a clamp there guards a division; no code lies below it


def place_whole(program: ExportedProgram, schemes: Mapping[str, QuantScheme], symmetric: bool) -> Placement:
    """Decide for every value.

    `schemes`: of the static layers, whose one kind of codes is that of all values. `symmetric`: zero is code 0, as
    TOSA wants of 16-bit values. Raises PlanError where layers differ in their codes or are not in the trace.
    """
    limits = {scheme.activation_limits for scheme in schemes.values()}
    if len(limits) != 1:
        kinds = sorted({scheme.activations for scheme in schemes.values()})
        raise PlanError(
            f"the values of one NPU program have one kind of codes, and the recipe asks for {' and '.join(kinds)}; "
            "give all layers the same activations"
        )
    return _Whole(program, schemes, limits.pop(), symmetric).placement()


def joined(placements: Sequence[Placement]) -> Placement:
    """Of programs of the same layers, as one: a value of the same name has one range in all of them."""
    first = placements[0]
    if len(placements) == 1:
        return first
    return replace(
        first,
        integer={node: name for each in placements for node, name in each.integer.items()},
        alike=merged(group for each in placements for group in each.alike),
        observers={name: found for each in placements for name, found in each.observers.items()},
        fixed={name: ends for each in placements for name, ends in each.fixed.items()},
        balanced=frozenset().union(*(each.balanced for each in placements)),
        wide=frozenset().union(*(each.wide for each in placements)),
        scores=frozenset().union(*(each.scores for each in placements)),
        constants={name: held for each in placements for name, held in each.constants.items()},
    )


class _Whole(Passing):
    """One walk over the graph for each decision."""

    def __init__(
        self,
        program: ExportedProgram,
        schemes: Mapping[str, QuantScheme],
        codes: tuple[int, int],
        symmetric: bool,
    ) -> None:
        self.schemes, self.codes, self.symmetric = schemes, codes, symmetric
        self.nodes = list(program.graph.nodes)
        self.names = value_names(program, schemes)
        names = constants_of(program)
        self.constants = {n: names[n.name] for n in self.nodes if n.op == "placeholder" and n.name in names}
        self.static = {n: self.names[n] for n in self.nodes if self.names.get(n) in schemes}
        missing = sorted(set(schemes) - set(self.static.values()))
        if missing:
            raise PlanError(
                f"layer {missing[0]}: no convolution, matrix product or lookup of it is in the traced model; set "
                "`scheme: float`"
            )
        self.through = {n: n.args[0] for n in self.nodes if self._changes_nothing(n)}
        self.clamps = {}

    def placement(self) -> Placement:
        """All decisions."""
        self._fuse_clamps()
        integer = dict(self._held())
        takers = {node: {user for user in self.users(node) if user.op == "call_function"} for node in integer}
        products = {n: name for n, name in self.static.items() if is_product(n)}
        return Placement(
            names=self.names,
            integer=integer,
            takers=takers,
            through=self.through,
            clamps=self.clamps,
            pads=set(),
            alike=merged(self._alike(integer)),
            layers={layer: (integer[self.source(_first(n))], integer[n]) for n, layer in products.items()},
            convolves={layer: operator_name(n) != "linear" for n, layer in products.items()},
            codes=self.codes,
            observers=self._observers(integer),
            symmetric=self.symmetric,
            fixed=dict(self._fixed(integer)),
            balanced=frozenset(self._balanced(integer)),
            wide=frozenset(self._wide(integer)),
            scores=frozenset(self._scores(integer)),
            constants={integer[n]: name for n, name in self.constants.items() if n in integer},
        )

    def _fixed(self, integer: Mapping[torch.fx.Node, str]) -> Iterator[tuple[str, tuple[float, float]]]:
        """Ranges that are known beforehand; steps are powers of two, as kernels for these functions have them."""
        steps = self.codes[1] if self.symmetric else self.codes[1] - self.codes[0]
        half = self.codes[1] / (self.codes[1] + 1)
        for node, name in integer.items():
            function = operator_name(node) if node.op == "call_function" else ""
            if function in _UNIT:
                yield name, (0.0, steps / (steps + 1))
            if function == "tanh":
                yield name, (-half, half)

    def _changes_nothing(self, node: torch.fx.Node) -> bool:
        if node.op != "call_function":
            return False
        if operator_name(node) in ("clamp", "clamp_min"):
            bounds = clamp_bounds(node)
            return bounds is not None and 0 < bounds[0] <= _TINY and bounds[1] == float("inf")
        return operator_name(node) in _NOTHING

    def _fuse_clamps(self) -> None:
        """A clamp at zero whose input nobody else reads becomes the range of what produces its input.

        Symmetric codes have no such end: there a clamp is an operator like others.
        """
        if self.symmetric:
            return
        for node in self.nodes:
            if node.op != "call_function" or operator_name(node) not in _CLAMPS or node in self.through:
                continue
            producer = self.source(_first(node))
            fuses = producer.op == "call_function" and operator_name(producer) in _FUSING
            bounds = clamp_bounds(node)
            if not fuses or bounds is None or self.users(producer) != [node] or bounds[0] != 0:
                continue
            self.clamps[node] = producer

    def _held(self) -> Iterator[tuple[torch.fx.Node, str]]:
        """Nodes whose value has codes, and its name."""
        weights = {a for n in self.static for a in _weights_of(n)}
        for node in self.nodes:
            if not is_float(node) or node in self.through or node in self.clamps or node in weights:
                continue
            if node.op == "call_function" and operator_name(node).startswith("dequantize"):
                continue
            if not self.users(node):
                continue
            if node in self.constants:
                if any(not operator_name(user).startswith("dequantize") for user in node.users):
                    yield node, f"constant:{self.constants[node].removeprefix('net.')}"
            elif node.op in ("placeholder", "call_function"):
                clamp = next((c for c, producer in self.clamps.items() if producer is node), node)
                yield node, self.names[clamp]

    def _alike(self, integer: Mapping[torch.fx.Node, str]) -> Iterator[set[str]]:
        """Names of values that share a scale."""
        for node in self.nodes:
            if node not in integer or node.op != "call_function" or operator_name(node) not in MOVING:
                continue
            if node in self.static:
                continue  # a table of its own codes
            sources = [self.source(n) for n in node.all_input_nodes]
            # what a split gives is taken out of it by getitem
            inner = [self.source(x) for s in sources if s not in integer for x in s.all_input_nodes]
            yield {integer[node], *(integer[s] for s in (*sources, *inner) if s in integer)}

    def _balanced(self, integer: Mapping[torch.fx.Node, str]) -> Iterator[str]:
        """16-bit values that Qualcomm's HTP takes with offset -32768 alone, as its own validation of an operator says:
        the second factor of a product of two values, the weight of a normalisation. And what tanh gives."""
        places = {"matmul": 1, "bmm": 1, "layer_norm": 2, "rms_norm": 2}
        for node in self.nodes:
            if node in integer and node.op == "call_function" and operator_name(node) == "tanh":
                yield integer[node]
            place = places.get(operator_name(node)) if node.op == "call_function" else None
            if place is None or self.codes[1] <= 255 or len(node.args) <= place:
                continue
            second = node.args[place]
            if isinstance(second, torch.fx.Node):
                yield integer[self.source(second)]

    def _wide(self, integer: Mapping[torch.fx.Node, str]) -> Iterator[str]:
        """What a normalisation adds in the end."""
        for node in self.nodes:
            if node.op == "call_function" and operator_name(node) == "layer_norm" and len(node.args) > 3:
                bias = node.args[3]
                if isinstance(bias, torch.fx.Node) and bias in integer:
                    yield integer[bias]

    def _scores(self, integer: Mapping[torch.fx.Node, str]) -> Iterator[str]:
        """Values that go into a softmax, whole or taken apart into amax, sub, exp."""
        for node in self.nodes:
            if node.op != "call_function":
                continue
            if operator_name(node) in ("softmax", "_softmax"):
                yield integer[self.source(_first(node))]
            if operator_name(node) == "exp":
                shifted = self.source(_first(node))
                if shifted.op == "call_function" and operator_name(shifted) == "sub":
                    yield integer[shifted]
                    yield integer[self.source(_first(shifted))]

    def _observers(self, integer: Mapping[torch.fx.Node, str]) -> dict[str, Observer]:
        """Of the layer that makes the value, else of the nearest before it."""
        found: dict[torch.fx.Node, Observer] = {}
        for node in self.nodes:
            if node in self.static:
                found[node] = self.schemes[self.static[node]].observer
            elif node.op == "call_function":
                before = (found[s] for s in node.all_input_nodes if s in found)
                found[node] = next(before, "minmax")
        return {name: found.get(node, "minmax") for node, name in integer.items()}


def merged(groups: Iterable[set[str]]) -> list[set[str]]:
    """Groups that share a member become one."""
    found: list[set[str]] = []
    for group in groups:
        touching = [other for other in found if other & group]
        found = [other for other in found if not other & group]
        found.append(group.union(*touching))
    return found


def _first(node: torch.fx.Node) -> torch.fx.Node:
    source = node.args[0]
    assert isinstance(source, torch.fx.Node)
    return source


def _weights_of(node: torch.fx.Node) -> list[torch.fx.Node]:
    """Weight and bias of a static layer: they have integers from the plan."""
    places = node.args[:1] if is_lookup(node) else node.args[1:3]
    return [argument for argument in places if isinstance(argument, torch.fx.Node)]
