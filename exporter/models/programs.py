"""How the inputs, the outputs and the traced module of an encoder come about, whatever its architecture.

Inputs are those that the model's forward takes and that its tokenizer or image processor gives. What goes out, and
which of its axes vary, is read off two runs of different lengths on the meta device.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from exporter.errors import TraceError
from exporter.models.masks import attend
from exporter.models.sentence import OUTPUT, Sentence, embed
from exporter.models.skeleton import Program
from exporter.signatures import BATCH, Axis, Dtype, Port, Signature

IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"
LENGTH = "sequence_length"
MODEL = "model"  # name of an encoder's one program
_MOST_BATCH = 64
_SHAPES = "qexport_shapes"  # attention for runs on the meta device
_EXAMPLE = {
    BATCH: 2,
    LENGTH: 9,
}  # sizes to trace with: neither 0 nor 1, which torch.export takes for constants
_OTHER = {BATCH: 3, LENGTH: 11}


@dataclass(frozen=True)
class Wanted:
    """What an encoder gives: fields of transformers' output, and one vector of a text where the folder says how."""

    output: str  # TaskSpec.output
    sentence: Sentence | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Of the outputs."""
        return (self.output, OUTPUT) if self.sentence else (self.output,)


class Encoder(torch.nn.Module):
    """Inputs in the order of `names` -> outputs in the order of wanted.names."""

    def __init__(self, net: torch.nn.Module, names: Sequence[str], wanted: Wanted) -> None:
        super().__init__()
        self.net = net
        self.names, self.wanted = tuple(names), wanted
        self.options: dict[str, Any] = {}
        if "use_cache" in inspect.signature(net.forward).parameters:
            self.options["use_cache"] = False

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """See the class. Without a mask among the inputs, no token is padding."""
        given = dict(zip(self.names, inputs, strict=True))
        mask = given.get(MASK)
        options = dict(self.options)
        if IDS in given and mask is None:  # a mask of ones, so that no model guesses one from the token ids
            options[MASK] = torch.ones_like(given[IDS])
        found = self.net(**given, **options)
        states: torch.Tensor = found[self.wanted.output]
        if self.wanted.sentence is None:
            return (states,)
        return states, embed(self.net, self.wanted.sentence, states, mask)


def text_ports(forward: Any, given: Sequence[str]) -> tuple[Port, ...]:
    """Inputs of a text encoder: what `forward` takes and the tokenizer gives. Raises TraceError without token ids."""
    parameters = inspect.signature(forward).parameters
    names = [name for name in (IDS, MASK, TYPES) if name in parameters and (name in given or name == MASK)]
    if IDS not in names:
        raise TraceError(
            f"the model's forward takes {', '.join(parameters)}, and no {IDS}: it is no text encoder"
        )
    return tuple(Port(name, "int64", (BATCH, LENGTH)) for name in names)


def picture_ports(examples: Mapping[str, torch.Tensor]) -> tuple[Port, ...]:
    """Inputs of a model of pictures, all of one size: what its processor makes of one, (1, …) each."""
    return tuple(
        Port(name, _dtype(tensor), (BATCH, *tensor.shape[1:]))
        for name, tensor in examples.items()
        if tensor.is_floating_point()
    )


def encoder_program(net: torch.nn.Module, ports: Sequence[Port], wanted: Wanted, longest: int) -> Program:
    """The one program of an encoder; `net` on the meta device, built with `shapes_attention()`.

    `longest`: tokens that the model takes. Where the inputs have a mask, the program for one example at a time is
    without it.
    """
    axes = {BATCH: Axis(BATCH, 1, _MOST_BATCH)}
    if any(LENGTH in port.shape for port in ports):
        axes[LENGTH] = Axis(LENGTH, 1, longest)
    outputs = _outputs(net, ports, wanted)

    def program(inputs: Sequence[Port], unpadded: Program | None) -> Program:
        names = [port.name for port in inputs]
        return Program(
            MODEL,
            Signature(tuple(inputs), outputs, axes),
            lambda built: Encoder(built, names, wanted),
            lambda: tuple(_example(port, _EXAMPLE) for port in inputs),
            unpadded,
        )

    alone = [port for port in ports if port.name != MASK]
    return program(ports, program(alone, None) if len(alone) < len(ports) else None)


def used_parameters(net: torch.nn.Module, program: Program) -> tuple[frozenset[str], frozenset[str]]:
    """Parameters that an output depends on (every name of a shared one), and modules that a run enters.

    `net` as for encoder_program. A pooler that nobody asked for is in neither.
    """
    entered: set[str] = set()
    hooks = [
        module.register_forward_pre_hook(lambda module, args, name=name: entered.add(name))
        for name, module in net.named_modules()
    ]
    parameters = [parameter.requires_grad_(True) for parameter in net.parameters()]
    with torch.enable_grad():
        found = _run(net, program.unpadded or program, _EXAMPLE)
        total = sum(tensor.sum() for tensor in found)
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)  # type: ignore[arg-type]
    for hook in hooks:
        hook.remove()
    reached = {id(p) for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None}
    used = {name for name, p in net.named_parameters(remove_duplicate=False) if id(p) in reached}
    owners = {name.rpartition(".")[0] for name, p in net.named_parameters(remove_duplicate=False)}
    with_use = {name.rpartition(".")[0] for name in used}
    return frozenset(used), frozenset(entered - (owners - with_use))


def shapes_attention() -> str:
    """Register attention that runs on the meta device; the name to build a model with."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(_SHAPES, attend)
    AttentionMaskInterface.register(_SHAPES, lambda *args, **kwargs: None)
    return _SHAPES


def _outputs(net: torch.nn.Module, ports: Sequence[Port], wanted: Wanted) -> tuple[Port, ...]:
    """Names, types and shapes of what goes out."""
    program = Program(
        MODEL,
        Signature(tuple(ports), (), {name: Axis(name, 1, 64) for name in _EXAMPLE}),
        lambda built: Encoder(built, [port.name for port in ports if port.name != MASK], wanted),
        lambda: (),
    )
    with torch.no_grad():
        first, second = (_run(net, program, sizes) for sizes in (_EXAMPLE, _OTHER))
    axes = {(_EXAMPLE[name], _OTHER[name]): name for name in _EXAMPLE}
    found = []
    for name, a, b in zip(wanted.names, first, second, strict=True):
        shape: list[int | str] = []
        for sizes in zip(a.shape, b.shape, strict=True):
            if sizes[0] != sizes[1] and sizes not in axes:
                raise TraceError(
                    f"output {name}: an axis is {sizes[0]} for {_EXAMPLE[LENGTH]} tokens and {sizes[1]} for "
                    f"{_OTHER[LENGTH]}, which is neither the batch nor the sequence"
                )
            shape.append(axes[sizes] if sizes[0] != sizes[1] else int(sizes[0]))
        found.append(Port(name, _dtype(a), tuple(shape)))
    return tuple(found)


def _run(net: torch.nn.Module, program: Program, sizes: Mapping[str, int]) -> tuple[torch.Tensor, ...]:
    inputs = [_example(port, sizes).to("meta") for port in program.signature.inputs if port.name != MASK]
    found: tuple[torch.Tensor, ...] = program.wrap(net)(*inputs)
    return found


def _example(port: Port, sizes: Mapping[str, int]) -> torch.Tensor:
    """Ones: token ids and masks that any model takes; a picture of one colour."""
    shape = [size if isinstance(size, int) else sizes[size] for size in port.shape]
    return (
        torch.zeros(shape, dtype=torch.int64)
        if port.name == TYPES
        else torch.ones(shape, dtype=getattr(torch, port.dtype))
    )


def _dtype(tensor: torch.Tensor) -> Dtype:
    name: Dtype = str(tensor.dtype).removeprefix("torch.")  # type: ignore[assignment]
    return name
