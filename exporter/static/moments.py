"""Second moments of what each layer takes, over the calibration samples: what rounding by error needs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from exporter.errors import PlanError
from exporter.static.naming import is_product, module_path, operator_name, wrapper_prefix


def second_moments(
    program: ExportedProgram, layers: Collection[str], samples: Iterable[tuple[torch.Tensor, ...]]
) -> Mapping[str, NDArray[np.float64]]:
    """Layer -> (groups, k, k) mean of x xT; k are the places of one filter, or a linear layer's inputs.

    Memory: k squared doubles for each layer and group, whatever the number of samples. Raises PlanError for a
    layer whose product takes its inputs in a way that is not built.
    """
    prefix = wrapper_prefix(program.graph, layers)
    module = program.module()
    assert isinstance(module, torch.fx.GraphModule)
    wanted = {}
    for node in module.graph.nodes:
        path = module_path(node).removeprefix(prefix)
        if is_product(node) and path in layers:
            wanted[node] = path
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}

    class Watching(torch.fx.Interpreter):
        """Runs the program and adds up what the products take."""

        def run_node(self, n: torch.fx.Node) -> Any:
            """See torch.fx.Interpreter."""
            name = wanted.get(n)
            if name is not None:
                seen = _inputs(name, n, *self.fetch_args_kwargs_from_env(n)[0])
                sums[name] = sums.get(name, torch.zeros(())) + (seen.transpose(1, 2) @ seen).double()
                counts[name] = counts.get(name, 0) + seen.shape[1]
            return super().run_node(n)

    watching = Watching(module)
    watching.extra_traceback = False  # it would be added to our own message
    with torch.no_grad():
        for sample in samples:
            watching.run(*sample)
    return {name: (total / counts[name]).numpy() for name, total in sums.items()}


def _inputs(
    layer: str,
    node: torch.fx.Node,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = (1,),
    padding: Any = (0,),
    dilation: Any = (1,),
    groups: int = 1,
) -> torch.Tensor:
    """(groups, n, k): everything that one output value of the layer is summed from, for n of them."""
    if operator_name(node) == "linear":
        return x.reshape(1, -1, x.shape[-1])
    if operator_name(node) != "conv2d" or isinstance(padding, str):
        raise PlanError(
            f"layer {layer}: method gptq is built for linear layers and conv2d with padding in numbers; set `method: "
            "mse` for it"
        )

    def both(value: Any) -> tuple[int, int]:
        pair = (value,) if isinstance(value, int) else tuple(value)
        return (pair[0], pair[-1])

    patches = torch.nn.functional.unfold(
        x, weight.shape[2:], both(dilation), both(padding), both(stride)
    )  # (batch, channels * places of a filter, n)
    return patches.transpose(0, 1).reshape(groups, patches.shape[1] // groups, -1).transpose(1, 2)
