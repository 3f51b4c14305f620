"""What rounding a language model's activations to int8 costs, its weights left in float, and what takes it away.

    python scripts/activation_study.py out/smollm2_permuted

Mean KL divergence to the float model in nats, on the development share of Wikipedia: one article of each of nine
languages, 512 tokens, the second half scored. For each way every linear layer's input is rounded:

- token: one scale and zero point for each token, as XNNPACK does;
- block N: a scale for every N channels of a token, as ONNX Runtime's MatMulNBits does for its own blocks;
- smoothed: channels divided by the root of their root mean square before, multiplied after, as scales folded into the
  layers on either side would do (Xiao et al., SmoothQuant, ICML 2023; the output layer stays, its table being tied);
- rotated N: mixed by a Hadamard matrix of N channels before, and back after (exporter/rotation.py).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from exporter.models.activations import fake_quantize_activations
from exporter.models.rotating import rotate
from exporter.quiet import hush
from exporter.samples.shares import LANGUAGES, articles

WINDOW, SCORED = 512, 256
Rounding = Callable[[torch.Tensor], torch.Tensor]
Layers = Mapping[str, torch.nn.Module]


def by_block(x: torch.Tensor, size: int) -> torch.Tensor:
    """Symmetric int8, a scale for every `size` neighbours."""
    blocks = x.unflatten(-1, (-1, size))
    scale = (blocks.abs().amax(-1, keepdim=True) / 127).clamp(min=1e-12)
    return (torch.round(blocks / scale) * scale).flatten(-2)


def turned(rounding: Rounding, size: int) -> Rounding:
    return lambda x: rotate(rounding(rotate(x, size)), size)


def smoothed(rounding: Rounding, power: torch.Tensor) -> Rounding:
    factor = power.clamp(min=1e-12) ** 0.25
    return lambda x: rounding(x / factor) * factor


def windows(tokenizer: Callable[[str], object], share: str) -> list[torch.Tensor]:
    """The first article of each language that holds one."""
    found = []
    for language in LANGUAGES:
        texts = (tokenizer(text).input_ids for text in articles(language, share))  # type: ignore[attr-defined]
        found.append(torch.tensor(next(ids for ids in texts if len(ids) >= WINDOW)[:WINDOW]))
    return found


class Study:
    """One model, and what it says in float."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        self.layers: Layers = {n: m for n, m in self.model.named_modules() if isinstance(m, torch.nn.Linear)}
        self.texts = windows(tokenizer, "development")
        self.exact = [self._said(text) for text in self.texts]
        self.power = self._power(windows(tokenizer, "calibration"))

    def _said(self, text: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return torch.log_softmax(self.model(text[None], logits_to_keep=WINDOW - SCORED).logits[0], -1)

    def _power(self, texts: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Mean square of each layer's input channels, the texts' first tokens left out: they are like no other."""
        power: dict[str, torch.Tensor] = {}

        def watch(name: str) -> Callable[[torch.nn.Module, tuple[torch.Tensor, ...]], None]:
            def before(module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
                square = given[0][0, 4:].square().mean(0)
                power[name] = power.get(name, torch.zeros_like(square)) + square

            return before

        handles = [m.register_forward_pre_hook(watch(name)) for name, m in self.layers.items()]
        for text in texts:
            self._said(text)
        for handle in handles:
            handle.remove()
        return power

    def kl(self, roundings: Mapping[str, Rounding]) -> float:
        """Nats, each of these layers' inputs rounded."""
        handles = [
            self.layers[name].register_forward_pre_hook(lambda m, given, f=f: (f(given[0]),))
            for name, f in roundings.items()
        ]
        lost = [
            (exact.exp() * (exact - self._said(text))).sum(-1).mean()
            for text, exact in zip(self.texts, self.exact, strict=True)
        ]
        for handle in handles:
            handle.remove()
        return float(torch.stack(lost).mean())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reference", type=Path, help="a folder in Hugging Face's layout (scripts/permute.py)")
    given = parser.parse_args()
    hush()
    study = Study(given.reference)
    token = fake_quantize_activations
    smooth = {n: smoothed(token, p) if n != "lm_head" else token for n, p in study.power.items()}
    ways: dict[str, Mapping[str, Rounding]] = {
        "token": dict.fromkeys(study.layers, token),
        **{f"block {n}": dict.fromkeys(study.layers, lambda x, n=n: by_block(x, n)) for n in (64, 32)},
        "smoothed, token": smooth,
        **{f"rotated {n}, token": dict.fromkeys(study.layers, turned(token, n)) for n in (32, 64)},
        "rotated 64, block 32": dict.fromkeys(study.layers, turned(lambda x: by_block(x, 32), 64)),
    }
    print("| activations in int8 | mean KL |\n| --- | --- |")
    for name, roundings in ways.items():
        print(f"| {name} | {study.kl(roundings):.4f} |", flush=True)


if __name__ == "__main__":
    main()
