"""The gradient noise scale of a learner, measured on the gradients of its own updates."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gstds.common.state import Stateful
from gstds.observation.gradient_noise import NoiseScale, noise_share

__all__ = ["GradientMeter"]

_DECAY = 0.9


class GradientMeter(Stateful):
    """Compares each update's gradient with an average of those before it.

    It costs a pass over the parameters, as the optimizer's own arithmetic does, and as that is not
    counted in operations.

    Args:
        parameters: What is trained.
    """

    state = ("_average", "_weight", "_scale")

    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        self._parameters = list(parameters)
        self._average = [torch.zeros_like(p) for p in self._parameters]
        self._weight = 0.0
        self._scale = NoiseScale()

    @property
    def share(self) -> float:
        """The noise scale as it is observed, in [0, 1]; 0 before two updates."""
        return noise_share(self._scale.samples)

    @torch.no_grad()
    def measure(self, weights: torch.Tensor, normalizer: float) -> None:
        """Take in the gradients as they stand after a backward pass.

        Args:
            weights: Loss weights (n,) of the samples.
            normalizer: What the weighted loss was divided by.
        """
        total = float(weights.sum())
        size = total**2 / float(weights.square().sum())
        scale = normalizer / total  # the gradient's, if the weights summed to one
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
        if self._weight > 0.0:
            square = scale**2 * _product(gradients, gradients)
            product = scale * _product(gradients, self._average) / self._weight
            self._scale.update(size, square, product)
        torch._foreach_mul_(self._average, _DECAY)
        torch._foreach_add_(self._average, gradients, alpha=(1 - _DECAY) * scale)
        self._weight = _DECAY * self._weight + (1 - _DECAY)


def _product(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> float:
    parts = [(a.float() * b.float()).sum() for a, b in zip(one, other, strict=True)]
    return float(torch.stack(parts).sum())
