"""A learner that no agent was taught with: LeNet-5 with rectifiers, `unseen_learner:lenet`."""

from __future__ import annotations

from torch import nn

__all__ = ["lenet"]


def lenet(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Return a network for images of ``shape`` (C, H, W), both sides of at least 16."""
    side = 4
    return nn.Sequential(
        nn.Conv2d(shape[0], 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(side),
        nn.Flatten(),
        nn.Linear(16 * side * side, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, classes),
    )
