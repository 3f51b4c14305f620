"""What a search decides on: layers that must have the same bits, and what each of them may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from exporter.layers import LayerInfo


@dataclass(frozen=True)
class Unit:
    """Layers that get one scheme: those that take one input, and those that share a weight."""

    layers: tuple[str, ...]  # module paths, in the model's order
    owners: tuple[str, ...]  # those that have a weight of their own, which a rule decides
    parameters: int  # a shared weight once

    @property
    def name(self) -> str:
        """For a person: `model.layers.3.self_attn.{q_proj,k_proj,v_proj}`."""
        return joined(self.owners)


def joined(names: Sequence[str]) -> str:
    """`self_attn.{q_proj,k_proj}`: paths as one pattern, their common parents once."""
    if len(names) == 1:
        return names[0]
    parts = [name.split(".") for name in names]
    shared = 0
    while all(len(part) > shared + 1 and part[shared] == parts[0][shared] for part in parts):
        shared += 1
    rest = "{" + ",".join(".".join(part[shared:]) for part in parts) + "}"
    return ".".join([*parts[0][:shared], rest])


def units_of(layers: Sequence[LayerInfo], inputs: Mapping[str, str]) -> tuple[Unit, ...]:
    """`inputs`: layer -> the first layer that takes the same tensor, of those that were watched; layers of one name
    there are packed into one product by the backends, which needs one scheme. Tied layers join their owners."""
    members: dict[str, list[LayerInfo]] = {}
    for layer in layers:
        owner = layer.tied_to or layer.name
        members.setdefault(inputs.get(owner, owner), []).append(layer)
    return tuple(
        Unit(
            tuple(layer.name for layer in group),
            tuple(layer.name for layer in group if layer.tied_to is None),
            sum(layer.parameters for layer in group if layer.tied_to is None),
        )
        for group in members.values()
    )
