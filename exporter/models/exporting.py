"""torch.export, with its many kinds of failure turned into one sentence for a person."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch.export import ExportedProgram

from exporter.errors import QexportError, TraceError, first_line

_SIZE = re.compile(r"L\['(\w+)'\](?:\[(\d+)\])?\.size\(\)\[(\d+)\]")
_NAMED = re.compile(rf"(\w+) = ({_SIZE.pattern})")
_FIXED = re.compile(r"You marked (\w+) as dynamic but your code specialized it to be a constant \((\d+)\)")
_GUARD = re.compile(
    r"Not all values of (\w+) = .*? in the specified range (.*?) satisfy the generated guard (.*)"
)
_EQUAL = re.compile(r"The values of (\w+) = .*? and (\w+) = .*? must always be equal")


def export(
    module: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None = None,
    shapes: Any = None,
    what: str = "model",
    deferred: bool = False,
) -> ExportedProgram:
    """The traced module, without gradients. Raises TraceError where torch.export refuses it.

    `deferred`: what the model asks of the axes becomes an assertion in the program, for axes whose lengths are ours to
    choose; otherwise an axis that the model does not take at every length is an error.
    """
    try:
        with torch.no_grad():
            return torch.export.export(
                module.eval(),
                args,
                kwargs or {},
                dynamic_shapes=shapes,
                strict=False,
                prefer_deferred_runtime_asserts_over_guards=deferred,
            )
    except QexportError:
        raise
    except Exception as problem:  # torch.export raises whatever the model's own code raises
        raise TraceError(refusal(problem, what)) from problem


def refusal(problem: Exception, what: str = "model") -> str:
    """What a person reads of torch.export's report."""
    text = str(problem)
    if "Constraints violated" not in text:
        way = (
            "give dynamic_shapes one entry for each input"
            if "`dynamic_shapes`" in first_line(problem)
            else "its forward must not depend on the values of its inputs: take out the branch or loop that asks for "
            "them"
        )
        return f"torch.export refused the {what}: {first_line(problem)} (--debug shows where); {way}"
    head, _, fixes = text.partition("Suggested fixes:")
    reasons = [_plain(line.strip()[2:]) for line in head.splitlines() if line.strip().startswith("- ")]
    suggested = [line.strip() for line in fixes.partition("\n\n")[0].splitlines() if line.strip()]
    way = f"torch.export suggests {', '.join(suggested)}" if suggested else "make the axis static"
    return (
        f"the {what} does not take every length that dynamic_shapes gives: {'; '.join(reasons)}. {way}; change "
        "dynamic_shapes, or the model's forward"
    )


def _plain(line: str) -> str:
    """One of torch.export's constraints in words; as it is where its form is not known."""
    if found := _FIXED.search(line):
        return f"axis {found[1]} can only be {found[2]}"
    if found := _EQUAL.search(line):
        return f"axes {found[1]} and {found[2]} must be equal"
    names = {source: name for name, source, *_ in _NAMED.findall(line)}
    if found := _GUARD.search(line):
        wanted = _SIZE.sub(lambda size: names.get(size[0]) or _axis(size), found[3]).rstrip(".")
        return f"axis {found[1]} ({found[2]}) must satisfy {wanted}"
    return line


def _axis(size: re.Match[str]) -> str:
    return f"axis {size[3]} of {size[1] if size[2] is None else f'input {size[2]}'}"
