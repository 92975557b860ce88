"""Optimizers of torch that do not load torch's compiler, and what is read off their gradients.

An optimizer of torch imports ``torch._dynamo`` when it is made and whenever it steps, to tell the
compiler what not to compile. Nothing here is compiled, and the import takes seconds of every
process: as long as some whole runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from gstds.common.state import Stateful
from gstds.observation.gradient_noise import NoiseScale, noise_share
from gstds.options.world import LearnerOptions

Optimizer = TypeVar("Optimizer", bound=torch.optim.Optimizer)
_DECAY = 0.9
_REGISTER = 16  # float32 values of the widest vector register
_WRAPPED = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")


def eager(kind: type[Optimizer]) -> type[Optimizer]:
    """Return the optimizer's class without its ties to the compiler: same arithmetic, same hooks.

    Args:
        kind: A class of ``torch.optim``; its steps are not differentiated.
    """
    bare: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in _WRAPPED}
    bare["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), bare)


SGD = eager(torch.optim.SGD)
AdamW = eager(torch.optim.AdamW)


def make_optimizer(
    options: LearnerOptions, parameters: Sequence[nn.Parameter], device: torch.device
) -> torch.optim.Optimizer:
    """Return the optimizer of a learner's options; SGD updates large tensors in one pass.

    That is one pass over memory instead of four. On the processor, whole vector registers round as
    the plain update does, to the bit; what is left over at a tensor's end would not, so tensors
    that have such an end keep the plain update.
    """
    rate, decay = options.peak_rate, options.weight_decay
    if options.optimizer == "adamw":
        return AdamW(parameters, lr=rate, weight_decay=decay)
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for p in parameters:
        whole = p.numel() % _REGISTER == 0 and p.dtype == torch.float32
        groups[whole or device.type != "cpu"].append(p)
    return SGD(
        [{"params": ps} | ({"fused": True} if whole else {}) for whole, ps in groups.items() if ps],
        lr=rate,
        momentum=options.momentum,
        nesterov=options.momentum > 0,
        weight_decay=decay,
    )


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
