"""A reference network of another domain: what is lost when the reference knows other images.

As a reference it is named ``gstds.envs.task.foreign_reference:digits_network``.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from gstds.common.files import cache_root, sha256, write_bytes
from gstds.envs.data.named import digits
from gstds.envs.learner.models import build_model
from gstds.envs.learner.optimizers import SGD

_SIDE = 32
_EPOCHS = 8
_BATCH = 64
_SEED = 20250704


class _Input(nn.Module):
    """Gray, 32 by 32, in [0, 1]."""

    def forward(self, images: Tensor) -> Tensor:
        """Return floats (n, 1, 32, 32) of uint8 images (n, C, H, W)."""
        gray = images.float().mean(1, keepdim=True) / 255.0
        return F.interpolate(gray, (_SIDE, _SIDE), mode="bilinear", antialias=True)


def digits_network() -> nn.Module:
    """Return a small network trained on handwritten digits, without its head.

    Three convolutions; 64 features, pooled after a ReLU. It is trained once, in seconds, and kept
    in the cache.

    Raises:
        OSError: If the cache cannot be written.
    """
    digest = sha256(Path(__file__).read_bytes())[:16]
    path = cache_root() / "networks" / f"digits-{digest}.safetensors"
    model = build_model("small-cnn", (1, _SIDE, _SIDE), 10, _SEED)
    if not path.exists():
        _train(model)
        write_bytes(path, save(model.state_dict()))
    model.load_state_dict(load_file(path))
    return nn.Sequential(_Input(), *list(model.children())[:-1]).eval()


def _train(model: nn.Module) -> None:
    pixels, classes = digits()
    images = _Input()(torch.from_numpy(pixels)[:, None])
    labels = torch.from_numpy(classes)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    generator = torch.Generator().manual_seed(_SEED)
    model.train()
    for _ in range(_EPOCHS):
        order = torch.randperm(len(labels), generator=generator)
        for rows in order.split(_BATCH):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            F.cross_entropy(model(images[rows]), labels[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
