"""How much each layer's rounding should cost in KL divergence, from gradients of the float model. PyTorch.

To second order, KL(p || q) of a text is half the expectation of (d log p(y))^2, where y is drawn from the model's own
distribution and d is the change that the rounding makes, to first order: the sum over tokens t of g_t . dW x_t, g_t the
gradient of log p(y) by the layer's output. (The Fisher information as the metric of KL; Martens, "New Insights and
Perspectives on the Natural Gradient Method", JMLR 21, 2020, section 5, applied to the change that the integers make
instead of to a gradient step.) One backward pass serves every layer and every candidate.

Two scores come of it: `fisher` squares the sum over the whole text, `fisher_tokens` adds up the squares of each token's
part, which leaves out how tokens act together and varies less from one drawn y to the next. The third, `output`, is the
share of the outputs' power that a unit loses, whatever comes behind it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch

from exporter.blockwise.blocks import Blocks
from exporter.blockwise.sensitivity import sampled_backward
from exporter.models.gradients import Told, tell_all
from exporter.models.reference import StreamedEmbedding, StreamedLinear, own_rows, product
from exporter.numerics import QuantizedTensor

Load = Callable[[], QuantizedTensor]
Progress = Callable[[str, float], None]
Predicted = dict[str, dict[str, dict[str, float]]]  # unit -> scheme -> score's name -> value
SCORES = ("fisher", "fisher_tokens", "output")
_LOGIT_ELEMENTS = 1 << 25  # of a block of logits, 128 MB
_OUTPUT_EVERY = 4  # the error of outputs varies little from text to text


class FisherScores:
    """Collects, over texts, what each candidate of each layer does to the drawn tokens' log likelihood."""

    def __init__(self, model: torch.nn.Module, candidates: Mapping[str, Mapping[str, Load]]) -> None:
        """`model`: streamed, in float. `candidates`: layer -> scheme's name -> its integers."""
        self.blocks = Blocks(model, candidates)
        self.rows = max(16, _LOGIT_ELEMENTS // int(model.config.vocab_size))  # type: ignore[union-attr,arg-type]
        self.candidates = candidates
        self.changes: dict[tuple[str, str], torch.Tensor] = {}  # (layer, scheme) -> (tokens,), of one text
        self.lost: dict[tuple[str, str], float] = defaultdict(float)  # sum of squares that outputs lose
        self.power: dict[str, float] = defaultdict(float)  # sum of squares of outputs
        self.told: dict[tuple[str, str], int] = {}  # how many of the text's tokens that is
        self.length = 0
        self.measures_output = False
        tell_all(model, {name: self._told_by(name, model.get_submodule(name)) for name in candidates})

    def add(self, layer: str, scheme: str, change: torch.Tensor) -> None:
        """(tokens,) of one use of a layer, or the next tokens' part of one."""
        key = (layer, scheme)
        start = self.told.get(key, 0) % self.length
        self.changes.setdefault(key, torch.zeros(self.length))[start : start + len(change)] += change
        self.told[key] = start + len(change)

    def run(
        self,
        windows: Sequence[torch.Tensor],
        units: Mapping[str, Sequence[str]],
        seed: int,
        progress: Progress,
    ) -> Predicted:
        """Unit -> scheme -> score: the first two predict KL in nats per token.

        `windows`: (length,) token ids each; `units`: name -> layers.
        """
        generator = torch.Generator().manual_seed(seed)
        self.blocks.record(windows[0][None])
        found: dict[str, dict[str, dict[str, float]]] = {
            unit: defaultdict(lambda: dict.fromkeys(SCORES, 0.0)) for unit in units
        }
        for number, window in enumerate(windows):
            progress(f"gradients of text {number + 1} of {len(windows)}", number / len(windows))
            self.changes.clear()
            self.told.clear()
            self.length = len(window)
            self.measures_output = number % _OUTPUT_EVERY == 0
            sampled_backward(self.blocks, window[None], self.rows, generator)
            share = 0.5 / len(window) / len(windows)
            for unit, layers in units.items():
                for scheme in self.candidates[layers[0]]:
                    change = sum(
                        self.changes[layer, scheme] for layer in layers if (layer, scheme) in self.changes
                    )
                    assert isinstance(change, torch.Tensor)
                    scores = found[unit][scheme]
                    scores["fisher"] += share * float(change.sum()) ** 2
                    scores["fisher_tokens"] += share * float(change.square().sum())
        for unit, layers in units.items():
            power = sum(self.power.get(layer, 0.0) for layer in layers) or 1.0
            for scheme, scores in found[unit].items():
                scores["output"] = sum(self.lost.get((layer, scheme), 0.0) for layer in layers) / power
        return {
            unit: {scheme: dict(each) for scheme, each in schemes.items()} for unit, schemes in found.items()
        }

    def _told_by(self, name: str, module: torch.nn.Module) -> Told:
        if isinstance(module, StreamedLinear):
            return partial(self._linear, name, module)
        assert isinstance(module, StreamedEmbedding)
        return partial(self._table, name, module)

    def _linear(self, name: str, module: StreamedLinear, taken: torch.Tensor, upstream: torch.Tensor) -> None:
        loaded = {scheme: load() for scheme, load in self.candidates[name].items()}
        moved = {scheme: torch.zeros_like(taken) for scheme in loaded}
        for start, stop, weight in module.source.blocks(upstream.shape[1], taken.shape[1]):
            part = upstream[:, start:stop]
            if self.measures_output:
                self.power[name] += float((taken @ weight.T).square().sum())
            for scheme, tensor in loaded.items():
                change = own_rows(tensor, slice(start, stop)).sub_(weight)
                moved[scheme] += product(part, change.T.contiguous())
                if self.measures_output:
                    self.lost[name, scheme] += float((taken @ change.T).square().sum())
        for scheme, total in moved.items():
            self.add(name, scheme, (total * taken).sum(dim=1))

    def _table(
        self, name: str, module: StreamedEmbedding, index: torch.Tensor, upstream: torch.Tensor
    ) -> None:
        rows = index.numpy()
        exact = module.source.take(rows)
        for scheme, load in self.candidates[name].items():
            change = own_rows(load(), rows).sub_(exact)
            self.add(name, scheme, (change * upstream).sum(dim=1))
