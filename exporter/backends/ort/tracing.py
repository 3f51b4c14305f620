"""A skeleton's module -> torch.export program with the inputs and outputs that runtimes expect."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from exporter.backends.ort import attention
from exporter.backends.ort.modules import layer_factory
from exporter.backends.ort.names import EVERY_TOKEN, LOGITS_RANGE
from exporter.errors import TraceError
from exporter.models.exporting import export
from exporter.models.skeleton import static_plan
from exporter.static.dialects import with_integers

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from exporter.models.skeleton import Program, Skeleton

# Marks the position ids in the traced graph, so that what is computed from them alone (rotary
# tables) can be found; the pass takes the marker out again.
POSITIONS = "qexport::Positions"


@dataclass(frozen=True)
class Traced:
    """A program and the names of its inputs and outputs."""

    program: ExportedProgram
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dimensions: dict[str, tuple[str | int, ...]]  # symbolic shapes by input or output name
    context: int | None  # tokens that a language model is made for


class TextModel(torch.nn.Module):
    """A causal language model with its KV cache as inputs and outputs.

    Left padding: GroupQueryAttention wants each row's valid tokens first. Row b of input_ids is
    rotated left by its leading padding, the cache then holds valid tokens only, positions count from
    there, and the hidden states are rotated back before the output layer, which reads the last valid
    token of each row alone unless the caller asks for all (LOGITS_RANGE). Positions come from the
    mask, never from the cache's shape, so a runtime may pass a buffer of the full length.
    """

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(
        self,
        input_ids: torch.Tensor,  # (batch, new)
        attention_mask: torch.Tensor,  # (batch, total): 1 valid, 0 padding
        past_key_values: Sequence[tuple[torch.Tensor, torch.Tensor]],
        logits_range: torch.Tensor,  # (2,): see LOGITS_RANGE
    ) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
        """Logits (batch, new or 1, vocabulary) and the cache with the new tokens."""
        new = input_ids.shape[1]
        total = attention_mask.shape[1]
        of_new = attention_mask[:, total - new :]
        padding = of_new.argmax(dim=1, keepdim=True)  # (batch, 1): index of the first valid token
        steps = torch.arange(new)
        # torch.onnx cannot take a remainder by a symbolic size; both indices are off by one turn at most
        source = steps + padding  # (batch, new)
        source = torch.where(source >= new, source - new, source)
        valid, valid_new = attention_mask.sum(1), of_new.sum(1)
        positions = (valid - valid_new)[:, None] + steps
        positions = torch.onnx.ops.symbolic(
            POSITIONS, (positions,), dtype=positions.dtype, shape=positions.shape, version=1
        )
        back = steps - padding
        back = torch.where(back < 0, back + new, back)
        wanted = _range(torch.cat([back, valid_new[:, None] - 1], dim=1), logits_range, back.shape)
        cache = attention.KVCache(
            past=list(past_key_values),
            seqlens=(valid - 1).to(torch.int32),
            total=torch.scalar_tensor(total, dtype=torch.int32),
        )

        def pick(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            hidden, *rest = args  # (batch, new, hidden)
            return (_rows(hidden, wanted), *rest)

        head: torch.nn.Module = self.net.get_output_embeddings()  # type: ignore[operator]
        hook = head.register_forward_pre_hook(pick)
        try:
            with attention.kv_cache(cache):
                logits = self.net(
                    input_ids=input_ids.gather(1, source),
                    position_ids=positions,
                    attention_mask=None,
                    use_cache=False,
                ).logits
        finally:
            hook.remove()
        missing = [layer for layer in range(len(past_key_values)) if layer not in cache.present]
        if missing:
            raise TraceError(
                f"layers {missing} do not attend through transformers' attention interface, so they have"
                " no KV cache that ONNX Runtime could hold"
            )
        return logits, [cache.present[layer] for layer in range(len(past_key_values))]


def _range(columns: torch.Tensor, limits: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """columns[:, limits[0] : limits[1]] by a node whose size no trace can know; `shape` stands for it."""
    first, end = torch.split(limits, 1)
    axis = torch.ones(1, dtype=torch.long)
    return torch.onnx.ops.symbolic(
        "Slice", (columns, first, end, axis), dtype=columns.dtype, shape=shape, version=13
    )


def _rows(hidden: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """hidden[b, index[b]], however many there are: (batch, new, hidden), (batch, n) -> (batch, n, hidden)."""
    attributes: dict[str, int | float | str | bool] = {"batch_dims": 1}
    return torch.onnx.ops.symbolic(
        "GatherND",
        (hidden, index[:, :, None]),
        attributes,  # type: ignore[arg-type]  # torch's annotation is an invariant dict
        dtype=hidden.dtype,
        shape=hidden.shape,
        version=13,
    )


def trace_text(skeleton: Skeleton, max_context: int) -> Traced:
    """Trace a language model. Raises TraceError or LoweringError."""
    net = skeleton.build(layer_factory(), attention.register())
    if net.get_output_embeddings() is None:  # type: ignore[operator]
        raise TraceError(f"{type(net).__name__} has no output embeddings: it is not a causal language model")
    text = skeleton.config.get_text_config()
    layers, heads, size = text.num_hidden_layers, _kv_heads(text), head_size(text)
    batch, new, past = 2, 5, 7  # any sizes above 1: torch.export specialises 0 and 1
    # Only the attention operator reads the cache, so the trace need not know its sizes: two symbols for
    # each of its tensors would cost a quarter of the trace. `dimensions` below has the real shapes.
    kv = [(torch.zeros(1, heads, 1, size), torch.zeros(1, heads, 1, size)) for _ in range(layers)]
    inputs = {
        "input_ids": torch.zeros(batch, new, dtype=torch.long),
        "attention_mask": torch.ones(batch, past + new, dtype=torch.long),
        "past_key_values": kv,
        "logits_range": torch.tensor(EVERY_TOKEN),
    }
    dynamic = torch.export.Dim.DYNAMIC
    shapes = {
        "input_ids": {0: dynamic, 1: dynamic},
        "attention_mask": {0: dynamic, 1: dynamic},
        "past_key_values": [(None, None)] * layers,
        "logits_range": None,
    }
    program = export(TextModel(net), (), inputs, shapes, deferred=True)
    pairs = [f"{layer}.{part}" for layer in range(layers) for part in ("key", "value")]
    past_names = [f"past_key_values.{pair}" for pair in pairs]
    present_names = [f"present.{pair}" for pair in pairs]
    dimensions: dict[str, tuple[str | int, ...]] = {
        "input_ids": ("batch_size", "sequence_length"),
        "attention_mask": ("batch_size", "total_sequence_length"),
        # what a caller gets who does not set logits_range; onnxruntime-genai reads the size from here
        "logits": ("batch_size", 1, text.vocab_size),
    }
    dimensions |= dict.fromkeys(past_names, ("batch_size", heads, "past_sequence_length", size))
    dimensions |= dict.fromkeys(present_names, ("batch_size", heads, "total_sequence_length", size))
    return Traced(
        program,
        ("input_ids", "attention_mask", *past_names, LOGITS_RANGE),
        ("logits", *present_names),
        dimensions,
        min(max_context, int(text.max_position_embeddings)),
    )


def trace_module(skeleton: Skeleton) -> Traced:
    """Trace any other module; inputs are named as forward's parameters. Raises TraceError."""
    net = skeleton.build(layer_factory())
    parameters = list(inspect.signature(net.forward).parameters)
    program = export(
        _Named(net), tuple(skeleton.example_inputs), shapes=_wrap_shapes(skeleton.dynamic_shapes)
    )
    names = [
        parameters[i] if i < len(parameters) else f"input_{i}" for i in range(len(skeleton.example_inputs))
    ]
    flat = len(program.graph_signature.user_outputs)
    outputs = ("output",) if flat == 1 else tuple(f"output_{i}" for i in range(flat))
    return Traced(program, tuple(names), outputs, {}, None)


def trace_program(net: torch.nn.Module, program: Program) -> Traced:
    """Trace one program with every named axis dynamic. Raises TraceError or LoweringError."""
    module = program.wrap(net).eval()
    signature = program.signature
    dims = {name: torch.export.Dim(name, max=axis.maximum) for name, axis in signature.axes.items()}
    shapes: list[Any] = [
        {place: dims[axis] for place, axis in enumerate(port.shape) if isinstance(axis, str)}
        for port in signature.inputs
    ]
    exported = export(
        module, program.examples(), shapes=_as_parameters(module, shapes), what=program.name, deferred=True
    )
    ports = (*signature.inputs, *signature.outputs)
    return Traced(
        exported,
        tuple(port.name for port in signature.inputs),
        tuple(port.name for port in signature.outputs),
        {port.name: port.shape for port in ports},
        None,
    )


def _as_parameters(module: torch.nn.Module, shapes: list[Any]) -> tuple[Any, ...]:
    """One entry for each named parameter of forward, and one tuple for *args."""
    parameters = inspect.signature(module.forward).parameters.values()
    named = sum(parameter.kind is not parameter.VAR_POSITIONAL for parameter in parameters)
    gathers = named < len(parameters)
    return (*shapes[:named], tuple(shapes[named:])) if gathers else tuple(shapes)


class _Named(torch.nn.Module):
    """Gives a module's parameters the same prefix as TextModel does."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *args: Any) -> Any:
        return self.net(*args)


def _wrap_shapes(shapes: Any) -> Any:
    """dynamic_shapes of forward(a, b) -> those of forward(*args)."""
    if shapes is None:
        return None
    values = tuple(shapes.values()) if isinstance(shapes, dict) else tuple(shapes)
    return (values,)


def head_size(config: Any) -> int:
    """Size of one attention head, from a transformers configuration."""
    size = getattr(config, "head_dim", None)
    return int(size) if size else int(config.hidden_size // config.num_attention_heads)


def _kv_heads(config: Any) -> int:
    """Heads of keys and values, from a transformers configuration."""
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def with_codes(traced: Traced, skeleton: Skeleton) -> Traced:
    """With integers between the static layers: 8-bit codes as uint8, 128 higher where the plan's are int8.

    Off ARM, ONNX Runtime turns int8 activations into uint8 by itself (QDQS8ToU8Transformer), except a value with
    several readers: both sides of every skip connection would stay float. Its kernels for ARM take either.
    """
    schemes = {name: planned.scheme for name, planned in skeleton.layers.items()}
    plan = static_plan(skeleton)
    return replace(traced, program=with_integers(traced.program, schemes, plan.unsigned() if plan else None))
