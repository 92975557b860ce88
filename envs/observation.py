"""The observation space of a drawn batch, and arrays that always lie inside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

__all__ = [
    "EMBEDDING_BOUND",
    "LOSS_BOUND",
    "batch_space",
    "checked_action",
    "fit_to_space",
    "no_batch",
    "padded",
]

LOSS_BOUND = 100.0
"""Losses in nats are clipped here, so that every bound is finite."""

EMBEDDING_BOUND = 1000.0
"""The learner's embeddings are clipped here, either side of 0."""

Array = npt.NDArray[np.float32]

_BATCH_BOUNDS = {
    "last_losses": (0.0, LOSS_BOUND),
    "visited": (0.0, 1.0),
    "age": (0.0, 1.0),
    "valid": (0.0, 1.0),
    "noise": (0.0, 1.0),
}
_RUN_BOUNDS = {
    "progress": (0.0, 1.0),
    "budget_left": (0.0, 1.0),
    "keep_ratio": (0.0, 1.0),
    "train_loss": (0.0, LOSS_BOUND),
    "mean_last_loss": (0.0, LOSS_BOUND),
}
_OPTIONAL_BATCH = {
    "spectral_scores": (-1.0, 1.0),
    "reference_losses": (0.0, LOSS_BOUND),
    "learner_losses": (0.0, LOSS_BOUND),
    "learner_margin": (0.0, 1.0),
    "learner_entropy": (0.0, 1.0),
    "degrees": (-1.0, 1.0),
}
_OPTIONAL_RUN = {"validation_loss": (0.0, LOSS_BOUND), "validation_accuracy": (0.0, 1.0)}
_SPECTRAL_STATISTICS = ("lambda2", "eigengap", "effective_nodes")


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
    bounds = {name: (low, high, (n,)) for name, (low, high) in _BATCH_BOUNDS.items()}
    bounds["labels"] = (0.0, float(classes - 1), (n,))
    bounds |= {name: (low, high, (1,)) for name, (low, high) in _RUN_BOUNDS.items()}
    for name, (low, high) in _OPTIONAL_BATCH.items():
        if name in observe:
            bounds[name] = (low, high, (n,))
    for name, (low, high) in _OPTIONAL_RUN.items():
        if name in observe:
            bounds[name] = (low, high, (1,))
    if "spectral_scores" in observe:
        bounds |= dict.fromkeys(_SPECTRAL_STATISTICS, (0.0, 1.0, (1,)))
    boxes: dict[str, spaces.Space[Any]] = {
        name: spaces.Box(low, high, shape, np.float32)
        for name, (low, high, shape) in sorted(bounds.items())
    }
    if "features" in observe and feature_dim:
        boxes["features"] = spaces.Box(-1.0, 1.0, (n, feature_dim), np.float32)
    if "learner_probabilities" in observe:
        boxes["learner_probabilities"] = spaces.Box(0.0, 1.0, (n, classes), np.float32)
    if "learner_embeddings" in observe and embedding_width:
        high = EMBEDDING_BOUND
        boxes["learner_embeddings"] = spaces.Box(-high, high, (n, embedding_width), np.float32)
    return spaces.Dict(boxes)


def padded(values: npt.ArrayLike, n: int) -> Array:
    """Return values (m,) or (m, D) as float32 with zero rows up to n."""
    array = np.asarray(values, dtype=np.float32)
    out = np.zeros((n, *array.shape[1:]), dtype=np.float32)
    out[: len(array)] = array
    return out


def fit_to_space(raw: Mapping[str, npt.ArrayLike], space: spaces.Dict) -> dict[str, Array]:
    """Return fresh float32 arrays, clipped to the space; scalars become (1,), short rows padded."""
    fitted: dict[str, Array] = {}
    for name, box in space.spaces.items():
        assert isinstance(box, spaces.Box)  # noqa: S101  (narrows the type)
        value = np.nan_to_num(np.atleast_1d(np.asarray(raw[name], dtype=np.float32)))
        fitted[name] = np.clip(padded(value, box.shape[0]), box.low, box.high)
    return fitted


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
    weights = np.asarray(action)
    where = f"(step {step})"
    if weights.shape != (n,):
        raise ValueError(f"action must have shape ({n},), got {weights.shape} {where}")
    if weights.dtype.kind not in "fiub":
        raise ValueError(f"action must hold numbers, got {weights.dtype} {where}")
    weights = weights.astype(np.float32)
    legal = np.isfinite(weights) & (weights >= 0) & (weights <= high * (1 + 1e-6))
    if not legal.all():
        bad = int(np.argmin(legal))
        raise ValueError(
            f"action must lie in [0, {high:g}], got {weights[bad]} at position {bad} {where}; "
            "raise w_max for larger weights"
        )
    return np.where(weights < drop_below, np.float32(0), weights)
