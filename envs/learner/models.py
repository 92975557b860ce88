"""Learner networks by name, initialized from a generator of their own."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from gstds.common.checks import check_choice, import_attribute, users_code
from gstds.common.process_group import Group
from gstds.reference.vision import import_torchvision, mend_imports

Shape = tuple[int, int, int]
Builder = Callable[[Shape, int], nn.Module]
_SMALL_IMAGE_SIDE = 64


def _small_cnn(shape: Shape, classes: int) -> nn.Module:
    """Three 3×3 convolutions with BatchNorm, 16-32-64 channels, global average pooling."""
    widths = (shape[0], 16, 32, 64)
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(itertools.pairwise(widths)):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after)]
        layers += [nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)] if i < 2 else [nn.ReLU()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes)]
    return nn.Sequential(*layers)


def _mlp(shape: Shape, classes: int) -> nn.Module:
    """Two hidden layers of 256 units."""
    hidden = [nn.Linear(math.prod(shape), 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(256, classes))


def _resnet(name: str, shape: Shape, classes: int) -> nn.Module:
    model: nn.Module = getattr(import_torchvision().models, name)(num_classes=classes)
    if min(shape[1:]) < _SMALL_IMAGE_SIDE:
        model.conv1 = nn.Conv2d(shape[0], 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    elif shape[0] != 3:
        model.conv1 = nn.Conv2d(shape[0], 64, 7, stride=2, padding=3, bias=False)
    return model


LEARNERS: dict[str, tuple[Builder, str]] = {
    "small-cnn": (_small_cnn, "three 3x3 convolutions with BatchNorm, 24 thousand parameters"),
    "resnet18": (
        partial(_resnet, "resnet18"),
        "ResNet-18; 3x3 stem, no max-pooling, below 64 pixels",
    ),
    "resnet50": (
        partial(_resnet, "resnet50"),
        "ResNet-50; 3x3 stem, no max-pooling, below 64 pixels",
    ),
    "mlp": (_mlp, "two hidden layers of 256 units, no normalization"),
}


def build_model(name: str, shape: Shape, classes: int, seed: int) -> nn.Module:
    """Return a freshly initialized learner.

    Args:
        name: One of `LEARNERS`, or ``module:function`` of a user's own.
        shape: An image's shape (C, H, W).
        classes: Number of classes.
        seed: Seed of the initial weights.

    Raises:
        ValueError: If the name is unknown or the user's function cannot be found.
        TypeError: If the user's function does not return a module.
    """
    if ":" in name:
        return _user_model(name, shape, classes, seed)
    check_choice("learner", name, LEARNERS)
    # Torch's own weights are drawn and thrown away: off the meta device it would load its compiler,
    # which takes longer than a short run. The default generator is put back as it was.
    with torch.random.fork_rng(devices=[]):
        model = LEARNERS[name][0](shape, classes)
    _initialize(model, torch.Generator().manual_seed(seed % 2**63))
    return model


def _user_model(name: str, shape: Shape, classes: int, seed: int) -> nn.Module:
    mend_imports()
    function = import_attribute(f"learner {name!r}", name)
    known = inspect.signature(function).parameters
    given = {"shape": shape, "classes": classes, "generator": None}
    # A user's layers draw their weights from torch's default generator: it is borrowed, seeded, and
    # put back as it was.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed % 2**63)
        given["generator"] = torch.default_generator
        with users_code(f"learner {name!r}"):
            model = function(**{key: value for key, value in given.items() if key in known})
            if isinstance(model, nn.Module) and any(map(is_lazy, model.parameters())):
                with torch.no_grad():  # the shapes of lazy layers follow from their first input
                    model.eval()(torch.zeros((2, *shape)))
    if not isinstance(model, nn.Module):
        raise TypeError(f"learner {name!r} must return a torch.nn.Module, got {type(model)}")
    return model


@torch.no_grad()
def _initialize(model: nn.Module, generator: torch.Generator) -> None:
    """Fill every convolution and linear layer from ``generator``, in order.

    Convolutions, which have no bias here, get Kaiming's normal initialization (He et al., arXiv
    1502.01852), linear layers torch's own uniform one; normalization layers are made of ones and
    zeros.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(
                module.weight, mode="fan_out", nonlinearity="relu", generator=generator
            )
        elif isinstance(module, nn.Linear):
            bound = 1.0 / math.sqrt(module.in_features)
            for parameter in (module.weight, module.bias):
                nn.init.uniform_(parameter, -bound, bound, generator=generator)


def normalize_globally(model: nn.Module, group: Group) -> None:
    """Have the BatchNorm layers of a model take mean and variance over all processes.

    Parameters and buffers, and their names, stay what they were. torch's own `SyncBatchNorm` needs
    a GPU, and batches of more than one sample in each process.
    """
    for module in model.modules():
        if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            module.__class__ = _GlobalBatchNorm
            module.group = group  # type: ignore[assignment]


class _GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    group: Group

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
        sums = _total(torch.cat([x.sum(over), local]), self.group)
        count = sums[-1]
        mean = sums[:-1] / count
        centered = x - mean.view(shape)
        variance = _total(centered.square().sum(over), self.group) / count
        self._remember(mean, variance, count / self.group.copies)
        output = centered * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            output = output * self.weight.view(shape) + self.bias.view(shape)
        return output.to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: torch.Tensor, variance: torch.Tensor, count: torch.Tensor) -> None:
        if not self.track_running_stats:
            return
        assert self.num_batches_tracked is not None  # noqa: S101  (made with the running mean)
        assert self.running_mean is not None  # noqa: S101
        assert self.running_var is not None  # noqa: S101
        self.num_batches_tracked.add_(1)
        seen = float(self.num_batches_tracked)
        momentum = 1.0 / seen if self.momentum is None else self.momentum
        unbiased = variance * count / (count - 1).clamp(min=1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)


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
