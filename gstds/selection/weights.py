"""Pickers: which of a drawn batch's samples are kept. Pure functions over arrays.

All randomness comes in as ``noise``, one uniform number per sample, so that the answer is a
function of its arguments alone. Weighted sampling without replacement uses exponential keys
(Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006). Every picker returns
exactly k positions in ascending order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gstds.common.checks import check_choice, check_fraction
from gstds.common.noise import derived_uniform

__all__ = [
    "LOSS_WEIGHTINGS",
    "Picker",
    "hybrid",
    "kept_count",
    "learnability",
    "loss_weights",
    "top_k",
    "uniform",
    "valid_batch",
    "weighted_sample",
    "weights_for_ratio",
]

Floats = npt.NDArray[np.floating[Any]]
Positions = npt.NDArray[np.int64]

LOSS_WEIGHTINGS = ("inverse", "proportional", "uniform")
_EPSILON = 1e-3


def kept_count(ratio: float, n: int) -> int:
    """Return how many of ``n`` samples a keep ratio retains: floor(ratio · n + ½), at least 1.

    Raises:
        ValueError: If ``ratio`` is outside [0, 1]. A ratio of 0 keeps nothing.
    """
    ratio = check_fraction("keep_ratio", ratio)
    if ratio == 0.0 or n == 0:
        return 0
    return min(n, max(1, math.floor(ratio * n + 0.5)))


def _highest(keys: npt.ArrayLike, k: int, ties: npt.ArrayLike | None = None) -> Positions:
    values = np.asarray(keys, dtype=np.float64)
    n = len(values)
    if not 0 <= k <= n:
        raise ValueError(f"k must be in [0, {n}], the number of samples, got {k}")
    if np.isnan(values).any():
        raise ValueError(f"scores must not be NaN, got NaN at position {np.isnan(values).argmax()}")
    breakers = np.arange(n) if ties is None else np.asarray(ties, dtype=np.float64)
    order = np.lexsort((breakers, -values))
    return np.sort(order[:k]).astype(np.int64)


def top_k(scores: npt.ArrayLike, k: int, noise: npt.ArrayLike | None = None) -> Positions:
    """Return the positions (k,) of the highest scores (N,); equal scores go by ``noise``.

    Raises:
        ValueError: If k exceeds N or a score is NaN.
    """
    return _highest(scores, k, noise)


def uniform(k: int, noise: npt.ArrayLike) -> Positions:
    """Return k positions, each subset equally likely for uniform ``noise`` (N,).

    Raises:
        ValueError: If k exceeds N.
    """
    return _highest(-np.asarray(noise, dtype=np.float64), k)


def weighted_sample(weights: npt.ArrayLike, k: int, noise: npt.ArrayLike) -> Positions:
    """Return k positions drawn one after the other, each with odds in proportion to its weight.

    Samples of weight 0 are taken only when no others are left, uniformly.

    Args:
        weights: Non-negative weights (N,).
        k: How many.
        noise: Uniform numbers (N,) in (0, 1).

    Raises:
        ValueError: If k exceeds N, or a weight is negative or not finite.
    """
    w = np.asarray(weights, dtype=np.float64)
    u = np.asarray(noise, dtype=np.float64)
    if len(w) and (not np.isfinite(w).all() or w.min() < 0):
        bad = int(np.argmax(~np.isfinite(w) | (w < 0)))
        raise ValueError(f"weights must be finite and >= 0, got {w[bad]} at position {bad}")
    with np.errstate(divide="ignore", invalid="ignore"):
        # log(-log(u) / w) orders as -log(u) / w does, and does not overflow for tiny weights
        keys = np.where(w > 0, np.log(w) - np.log(-np.log(np.clip(u, 1e-300, 1 - 1e-16))), -np.inf)
    return _highest(keys, k, u)


def loss_weights(losses: npt.ArrayLike, weighting: str = "inverse") -> Floats:
    """Return sampling weights (N,) from reference losses (N,) in nats.

    Args:
        losses: Non-negative losses.
        weighting: ``inverse``: 1 / (loss + 0.001), the paper's formula, favors easy samples;
            ``proportional``: loss, the paper's other sentence ("exploration of high-error
            regions"); ``uniform``: ones.

    Raises:
        ValueError: If the weighting is unknown.
    """
    check_choice("loss_weighting", weighting, LOSS_WEIGHTINGS)
    values = np.maximum(np.asarray(losses, dtype=np.float64), 0.0)
    if weighting == "inverse":
        return np.asarray(1.0 / (values + _EPSILON))
    return values if weighting == "proportional" else np.ones_like(values)


def hybrid(
    scores: npt.ArrayLike,
    losses: npt.ArrayLike,
    k: int,
    noise: npt.ArrayLike,
    *,
    score_share: float = 0.5,
    loss_weighting: str = "inverse",
) -> Positions:
    """Return k positions: a share by highest score, the rest drawn by reference loss.

    Source: arXiv 2507.04269, hybrid selection.

    Args:
        scores: Spectral scores (N,).
        losses: Reference losses (N,) in nats.
        k: How many.
        noise: Uniform numbers (N,) in (0, 1).
        score_share: Share taken by score, rounded up to whole samples.
        loss_weighting: As for `loss_weights`.

    Raises:
        ValueError: If k exceeds N, a score is NaN, or an option is out of range.
    """
    share = check_fraction("score_share", score_share)
    n = len(np.asarray(scores))
    if not 0 <= k <= n:
        raise ValueError(f"k must be in [0, {n}], the number of samples, got {k}")
    first = top_k(scores, min(k, math.ceil(share * k)), noise)
    rest = np.setdiff1d(np.arange(n), first)
    weights = loss_weights(np.asarray(losses)[rest], loss_weighting)
    drawn = weighted_sample(weights, k - len(first), np.asarray(noise)[rest])
    return np.sort(np.concatenate([first, rest[drawn]])).astype(np.int64)


def learnability(learner_losses: npt.ArrayLike, reference_losses: npt.ArrayLike) -> Floats:
    """Return learner loss minus reference loss (N,): what is not yet learned, yet can be.

    Source: RHO-LOSS (arXiv 2206.07137), JEST (arXiv 2406.17711).
    """
    return np.asarray(learner_losses, dtype=np.float64) - np.asarray(
        reference_losses, dtype=np.float64
    )


class Picker(Protocol):
    """Picks k of the valid samples: arrays of the observation, a count, noise -> positions (k,)."""

    def __call__(self, batch: Mapping[str, Floats], k: int, noise: Floats) -> Positions:
        """Return k positions among the batch's rows."""
        ...


class _ValidRows(Mapping[str, Any]):
    """An observation with the valid samples' rows alone; reads what is read of it, no more."""

    def __init__(self, observation: Mapping[str, Any], rows: Positions, n: int) -> None:
        self._observation, self._rows, self._n = observation, rows, n

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        value = np.asarray(self._observation[name])
        return value[self._rows] if value.shape[:1] == (self._n,) else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._observation)

    def __len__(self) -> int:
        return len(self._observation)


def valid_batch(observation: Mapping[str, Any]) -> tuple[Positions, Mapping[str, Any]]:
    """Return where the valid samples are (n,), and the observation with their rows alone."""
    valid = np.asarray(observation["valid"])
    rows = np.flatnonzero(valid > 0.5)
    return rows, _ValidRows(observation, rows, len(valid))


def weights_for_ratio(
    observation: Mapping[str, Any], ratio: float, picker: Picker
) -> npt.NDArray[np.float32]:
    """Keep a share of the valid samples of a drawn batch.

    Args:
        observation: The environment's, with ``valid`` (N,) and ``noise`` (N,).
        ratio: Keep ratio in [0, 1] of the valid samples.
        picker: Says which.

    Returns:
        Weights (N,): 1 for the kept samples, 0 for the others and for padding.

    Raises:
        ValueError: If the ratio is outside [0, 1] or the picker does not return k positions; a
            picker whose ``exact`` is False may return more or fewer.
    """
    rows, batch = valid_batch(observation)
    k = kept_count(ratio, len(rows))
    weights = np.zeros(len(observation["valid"]), dtype=np.float32)
    if k == len(rows):
        weights[rows] = 1.0
        return weights
    if k == 0:
        return weights
    positions = picker(batch, k, derived_uniform(batch["noise"], 0))
    wanted = k if getattr(picker, "exact", True) else len(positions)
    if len(np.unique(positions)) != wanted:
        raise ValueError(f"picker must return {wanted} distinct positions, got {len(positions)}")
    weights[rows[positions]] = 1.0
    return weights
