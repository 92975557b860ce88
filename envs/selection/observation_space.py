"""The observation space of a drawn batch, and arrays that always lie inside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from gstds.observation.batch_view import (
    EMBEDDING_BOUND,
    LOSS_BOUND,
    checked_weights,
    fitted,
    observation_bounds,
    padded,
)

__all__ = [
    "EMBEDDING_BOUND",
    "LOSS_BOUND",
    "batch_space",
    "checked_action",
    "fit_to_space",
    "no_batch",
    "padded",
    "padded_indices",
]

Array = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


def batch_space(
    observe: Mapping[str, Any],
    n: int,
    classes: int,
    feature_dim: int | None,
    embedding_width: int | None = None,
) -> spaces.Dict:
    """Return the observation space.

    Args:
        observe: Optional observations by name.
        n: Size of a drawn batch.
        classes: Number of classes.
        feature_dim: Width of the features, where they are observed.
        embedding_width: Width of the learner's embeddings, where they are observed.
    """
    bounds = observation_bounds(observe, n, classes, feature_dim, embedding_width)
    return spaces.Dict(
        {
            name: spaces.Box(low, high, shape, np.float32)
            for name, (low, high, shape) in bounds.items()
        }
    )


def fit_to_space(raw: Mapping[str, npt.ArrayLike], space: spaces.Dict) -> dict[str, Array]:
    """Return fresh float32 arrays, clipped to the space; scalars become (1,), short rows padded."""
    arrays: dict[str, Array] = {}
    for name, box in space.spaces.items():
        assert isinstance(box, spaces.Box)  # noqa: S101  (narrows the type)
        arrays[name] = fitted(raw[name], box.low, box.high, box.shape[0])
    return arrays


def no_batch(space: spaces.Dict) -> dict[str, Array]:
    """Return an observation's arrays without any sample: what is left when a run has ended."""
    empty: dict[str, Array] = {}
    for name, box in space.spaces.items():
        shape = box.shape or (0,)
        empty[name] = np.zeros((0, *shape[1:]), dtype=np.float32)
    return empty


def checked_action(
    action: npt.ArrayLike, n: int, high: float, drop_below: float, step: int
) -> Array:
    """Return an action's weights (n,) as float32, those below ``drop_below`` as 0.

    Raises:
        ValueError: If the action has another shape, a NaN, or a weight outside [0, high].
    """
    weights = checked_weights(
        action, n, high, where=f"(step {step})", mend="raise w_max for larger weights"
    )
    return np.where(weights < drop_below, np.float32(0), weights)


def padded_indices(indices: Indices, n: int) -> Indices:
    """Return sample indices (m,) with -1 up to n."""
    out = np.full(n, -1, dtype=np.int64)
    out[: len(indices)] = indices
    return out
