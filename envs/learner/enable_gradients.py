"""Training inside a caller that has turned gradients off, as collectors of experience do."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

__all__ = ["with_gradients"]

P = ParamSpec("P")
R = TypeVar("R")


def with_gradients(function: Callable[P, R]) -> Callable[P, R]:
    """Return the function with gradients on while it runs, whatever its caller has set.

    Under `torch.no_grad` the learner's update would fail; under `torch.inference_mode` even tensors
    made there could not be trained later.
    """

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.inference_mode(mode=False), torch.enable_grad():
            return function(*args, **kwargs)

    return wrapped
