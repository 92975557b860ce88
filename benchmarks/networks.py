"""Learners of the comparisons that do not ship: ``--learner networks:conv_fc``."""

from __future__ import annotations

from torch import nn


def conv_fc(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Two 3x3 convolutions, a hidden layer of 128 units, BatchNorm: 207 thousand weights at 28x28.

    It has room to learn labels by heart, wrong ones too, which the small CNN has not.
    """
    side = -(-shape[1] // 4)
    return nn.Sequential(
        *_block(shape[0], 16),
        *_block(16, 32),
        nn.Flatten(),
        nn.Linear(32 * side * -(-shape[2] // 4), 128, bias=False),
        nn.BatchNorm1d(128),
        nn.ReLU(),
        nn.Linear(128, classes),
    )


def _block(before: int, after: int) -> list[nn.Module]:
    convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)]
