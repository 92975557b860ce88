"""Before anything dear: can a network be trained, and what does one of its samples cost?"""

from __future__ import annotations

import contextlib
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
Make = Callable[[], nn.Module]
Forward = Callable[[nn.Module, torch.Tensor], Any]
_log = logging.getLogger(__name__)
_known_costs: dict[tuple[str, Shape, int], tuple[float, float, int]] = {}
_SAMPLES = 4
_MIXED = "rows are mixed up (a view, a flip), or normalized by the batch"
_FORGOTTEN = (
    "it keeps something outside (an attribute, a buffer with persistent=False), or draws by numpy "
    "or random; a resumed run may differ, and so may an equal one"
)


def try_network(
    name: str, model: nn.Module, shape: Shape, classes: int, forward: Forward, again: Make
) -> tuple[float, float, int]:
    """Return the operations of training on and scoring one sample, and the smallest batch.

    A user's network is made once more, and that one is taken through what training does, on the
    device of the first: its weights, statistics and gradients stay what they are. Two warnings may
    come of it: that an image's answer depends on the others beside it, and that something decides
    about answers which is not in the state. What a built-in network costs is kept, as counting
    takes longer than making it.

    Args:
        name: The learner's.
        model: The network.
        shape: An image's shape (C, H, W).
        classes: Number of classes.
        forward: Model and images (n, C, H, W) -> what the model answers; the same seed each time.
        again: Makes the network anew.

    Raises:
        ValueError: If a user's network cannot be trained; the message says why.
    """
    key = (name, shape, classes)
    if ":" in name:
        twin = again().to(next(iter(model.parameters()), torch.empty(0)).device)
        least = _rehearse(name, model, twin, shape, classes, forward)
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


def _rehearse(
    name: str, model: nn.Module, twin: nn.Module, shape: Shape, classes: int, forward: Forward
) -> int:
    """Take the twin through both modes, loss and backward, and back to the state of the model."""
    who = f"learner {name!r}"
    if not any(p.requires_grad for p in model.parameters()):
        count = sum(1 for _ in model.parameters())
        raise ValueError(
            f"{who} has nothing to train: all of its {count} parameters are frozen "
            "(requires_grad=False); leave some of them to train, such as the last layer's"
        )
    pairs = zip(model.parameters(), twin.parameters(), strict=False)
    if not all(
        not (a is b and a.requires_grad) and a.nan_to_num().equal(b.nan_to_num()) for a, b in pairs
    ):
        told = "with weights drawn by torch; it hands out one, or other weights by the same seed"
        raise ValueError(f"{who} must make a network anew whenever it is called, {told}")
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
        shown, alone = answer(images, train=False), answer(images[:1], train=False)
    size = float(shown.abs().max())
    if bool((shown >= 0).all() and ((shown.sum(1) - 1).abs() < 0.01).all()):
        raise ValueError(
            f"{who} answers with probabilities; leave the softmax out, the loss has it"
        )
    if not torch.allclose(shown[:1], alone, 0, 0.1 * size):
        _log.warning(
            f"{who} answers an image otherwise beside others, in evaluation mode: {_MIXED}"
        )
    trained = answer(images, train=True)
    loss = F.cross_entropy(trained, labels)
    if not loss.requires_grad:
        raise ValueError(
            f"{who} cannot be trained: its answer in training mode does not depend on its "
            "parameters (detach(), no_grad(), or numbers made anew)"
        )
    with users_code(f"{who}, in its backward pass,"):
        torch.autograd.backward(loss)
    with users_code(f"{who}, given the state_dict of its like,"):
        twin.load_state_dict(model.state_dict())
    later = torch.cat([answer(images, train=trains) for trains in (False, True)])
    slack = 0.0 if device.type == "cpu" else 0.01 * size
    if not torch.allclose(torch.cat([shown, trained]), later, 0, slack):
        _log.warning(f"{who} answers otherwise once its state_dict is put back: {_FORGOTTEN}")
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
