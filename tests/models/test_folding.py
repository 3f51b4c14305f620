"""Batch norms folded into the layer before them: the same numbers, and what cannot be folded says why."""

from __future__ import annotations

import torch

from exporter.models.folding import fold_batch_norms


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """In eval mode, with running statistics of a model that was trained."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.normal_(module.weight)
            torch.nn.init.normal_(module.bias)
    return model.eval()


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 6, 3, bias=False)
        self.norm = torch.nn.BatchNorm2d(6)
        self.deep = torch.nn.Conv2d(6, 12, 3, groups=6)
        self.deep_norm = torch.nn.BatchNorm2d(12)
        self.read_twice = torch.nn.Conv2d(12, 4, 1)
        self.kept = torch.nn.BatchNorm2d(4)
        self.fc = torch.nn.Linear(4, 5)
        self.fc_norm = torch.nn.BatchNorm1d(5)
        self.first = torch.nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(self.first(x))))
        x = self.read_twice(self.deep_norm(self.deep(x)))
        x = (self.kept(x) + x).mean((2, 3))
        return self.fc_norm(self.fc(x))


def test_what_is_folded_and_what_is_left():
    model = randomised(Net())
    x = torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        before = model(x)
        outcome = fold_batch_norms(model, (x,))
        after = model(x)
    assert outcome.folded == {"norm": "conv", "deep_norm": "deep", "fc_norm": "fc"}
    assert outcome.left == {
        "kept": "the output of read_twice is read elsewhere too",
        "first": "does not follow a convolution or linear layer",
    }
    assert outcome.describe() == "3 batch norms folded, 2 left"
    # Sums over 27, 9 and 4 products whose factors were rounded once more: some hundred roundings of 2^-24 each.
    torch.testing.assert_close(after, before, rtol=0, atol=200 * 2.0**-24 * float(before.abs().max()))


def test_a_layer_that_is_called_twice_keeps_its_norm():
    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = torch.nn.Conv2d(3, 3, 1), torch.nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.conv(self.conv(x)))

    outcome = fold_batch_norms(randomised(Twice()), (torch.randn(1, 3, 4, 4),))
    assert outcome.left == {"norm": "it or the layer before it is called more than once"}


def test_a_shared_weight_keeps_its_norm():
    class Shared(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.norm = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4)
            self.b.weight = self.a.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.norm(self.a(x)))

    outcome = fold_batch_norms(randomised(Shared()), (torch.randn(2, 4),))
    assert outcome.left == {"norm": "the weight of a is shared with b.weight"}


def test_a_model_without_norms_is_not_traced():
    class Branches(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    assert fold_batch_norms(Branches(), (torch.randn(2),)).describe() == ""
