"""BatchNorm over what all processes train on: without it each would normalize by its own part."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from gstds.common.process_group import Group

__all__ = ["normalize_globally"]

_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def normalize_globally(model: nn.Module, group: Group) -> nn.Module:
    """Return a model whose BatchNorm layers take mean and variance over all processes.

    Parameters and buffers, and their names, stay what they were. torch's own `SyncBatchNorm` needs
    a GPU, and batches of more than one sample in each process.
    """
    if type(model) in _KINDS:
        return _GlobalBatchNorm(model, group)  # type: ignore[arg-type]
    for name, child in model.named_children():
        setattr(model, name, normalize_globally(child, group))
    return model


class _GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    def __init__(self, layer: nn.modules.batchnorm._BatchNorm, group: Group) -> None:
        super().__init__(
            layer.num_features,
            layer.eps,
            layer.momentum,
            affine=False,
            track_running_stats=layer.track_running_stats,
            device=torch.device("meta"),
        )
        self.affine, self.training, self._group = layer.affine, layer.training, group
        self._parameters.update(layer._parameters)
        self._buffers.update(layer._buffers)

    def _check_input_dim(self, input: torch.Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"BatchNorm needs a batch (n, C, ...), got shape {tuple(input.shape)}")

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        shape = (1, -1) + (1,) * (input.dim() - 2)
        over = [0, *range(2, input.dim())]
        x = input.float()
        local = x.new_full((1,), x.numel() / x.shape[1])
        sums = _total(torch.cat([x.sum(over), local]), self._group)
        count = sums[-1]
        mean = sums[:-1] / count
        centered = x - mean.view(shape)
        variance = _total(centered.square().sum(over), self._group) / count
        self._remember(mean, variance, count / self._group.copies)
        output = centered * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            output = output * self.weight.view(shape) + self.bias.view(shape)
        return output.to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: torch.Tensor, variance: torch.Tensor, count: torch.Tensor) -> None:
        if not self.track_running_stats:
            return
        assert self.num_batches_tracked is not None  # noqa: S101  (made with the running mean)
        self.num_batches_tracked.add_(1)
        seen = float(self.num_batches_tracked)
        momentum = 1.0 / seen if self.momentum is None else self.momentum
        unbiased = variance * count / (count - 1).clamp(min=1)
        for running, now in ((self.running_mean, mean), (self.running_var, unbiased)):
            assert running is not None  # noqa: S101
            running.lerp_(now.to(running.dtype), momentum)


class _Total(torch.autograd.Function):
    """The sum over the processes; the gradient of each term is the sum of all gradients."""

    @staticmethod
    def forward(context: Any, values: torch.Tensor, group: Group) -> torch.Tensor:
        context.group = group
        total = values.clone()
        group.add(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        total = gradient.clone()
        context.group.add(total)
        return total, None


def _total(values: torch.Tensor, group: Group) -> torch.Tensor:
    total: torch.Tensor = _Total.apply(values, group)  # type: ignore[no-untyped-call]
    return total
