"""Before anything dear: can a network be trained, and what does one of its samples cost?"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from gstds.common.checks import users_code
from gstds.observation.cost import count_flops, count_layers

Shape = tuple[int, int, int]
Forward = Callable[[nn.Module, torch.Tensor], Any]
_log = logging.getLogger(__name__)
_known_costs: dict[tuple[str, Shape, int], tuple[float, float, int]] = {}
_SAMPLES = 4


def try_network(
    name: str, model: nn.Module, shape: Shape, classes: int, forward: Forward
) -> tuple[float, float, int]:
    """Return the operations of training on and scoring one sample, and the smallest batch.

    A user's network is first taken through what training does, on the device that it lies on; a
    copy of it is: weights, statistics and gradients stay what they are. What a built-in network
    costs is kept, as counting takes longer than making it.

    Args:
        name: The learner's.
        model: The network.
        shape: An image's shape (C, H, W).
        classes: Number of classes.
        forward: Model and images (n, C, H, W) -> what the model answers.

    Raises:
        ValueError: If a user's network cannot be trained; the message says why.
    """
    key = (name, shape, classes)
    if ":" in name:
        least = _rehearse(name, model, shape, classes, forward)
        return *_users_costs(name, model, shape), least
    if key not in _known_costs:
        train, score = (count_layers(model, shape, train=trains) for trains in (True, False))
        least = 1
        try:
            count_layers(model, shape, train=True, batch=1)
        except ValueError:  # BatchNorm refuses one value per channel
            least = 2
        _known_costs[key] = train, score, least
    return _known_costs[key]


def _rehearse(name: str, model: nn.Module, shape: Shape, classes: int, forward: Forward) -> int:
    """Forward in both modes, loss and backward of a few made-up images."""
    who = f"learner {name!r}"
    if not any(p.requires_grad for p in model.parameters()):
        count = sum(1 for _ in model.parameters())
        raise ValueError(
            f"{who} has nothing to train: all of its {count} parameters are frozen "
            "(requires_grad=False); leave some of them to train, such as the last layer's"
        )
    with users_code(f"{who} cannot be copied: it"):
        twin = copy.deepcopy(model)
    device = next(model.parameters()).device
    labels = torch.arange(_SAMPLES, device=device) % classes

    def answer(images: torch.Tensor, *, train: bool) -> torch.Tensor:
        mode, n = "training" if train else "evaluation", len(images)
        twin.train(train)
        with users_code(f"{who}, on {n} images of shape {shape} in {mode} mode,{_odd(twin)}"):
            output = forward(twin, images)
        wanted = f"{who} must return a tensor (n, {classes}) in {mode} mode, of logits"
        if not isinstance(output, torch.Tensor):
            raise ValueError(f"{wanted}, got {_described(output)}")
        if tuple(output.shape) != (n, classes):
            raise ValueError(f"{wanted}, got {tuple(output.shape)} of {n} images {shape}")
        if not bool(torch.isfinite(output).all()):
            raise ValueError(
                f"{who} answers with numbers that are not finite before any training, in {mode} "
                "mode; look at its initial weights, and for a division by zero or a log of it"
            )
        return output.float()

    noise = np.random.default_rng(0).standard_normal((_SAMPLES, *shape), dtype=np.float32)
    images = torch.from_numpy(noise).to(device)
    with torch.inference_mode():
        answer(images, train=False)
        answer(images[:1], train=False)
    loss = F.cross_entropy(answer(images, train=True), labels)
    if not loss.requires_grad:
        raise ValueError(
            f"{who} cannot be trained: its answer in training mode does not depend on its "
            "parameters (detach(), no_grad(), or numbers made anew)"
        )
    with users_code(f"{who}, in its backward pass,"):
        torch.autograd.backward(loss)
    try:
        answer(images[:1], train=True)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):  # BatchNorm's words
            raise
        return 2
    return 1


def _odd(model: nn.Module) -> str:
    """Return a word about parameters that are not float32, as images are; "" if all are."""
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()} - {torch.float32}
    told = ", ".join(sorted(map(str, kinds)))
    return f" whose parameters are {told} (images are float32: return model.float())," * bool(kinds)


def _described(output: Any) -> str:
    """Say what a network answers instead of a tensor, and what it should return of that."""
    kind = type(output).__name__
    if isinstance(output, Mapping):
        return f"{kind} with {', '.join(map(repr, output)) or 'nothing'}; return one of its entries"
    if isinstance(output, tuple | list):
        return f"{kind} of {len(output)}; return one of its items"
    return kind


def _users_costs(name: str, model: nn.Module, shape: Shape) -> tuple[float, float]:
    """Count on the meta device, or with values where the network reads them."""
    for device in ("meta", next(model.parameters()).device):
        with contextlib.suppress(Exception):  # whatever a user's code does where it has no values
            train, score = (
                count_flops(model, shape, train=trains, device=device) for trains in (True, False)
            )
            if train and score:
                return train, score
    parameters = sum(p.numel() for p in model.parameters())
    _log.warning(
        "learner %r: torch's counter finds no operations; taken as 2 a parameter and sample "
        "forward, 6 with the backward pass. Charged compute is an estimate",
        name,
    )
    return 6.0 * parameters, 2.0 * parameters
