"""Pickers that draw: by softmax, in chunks, and by coins whose odds follow a percentile.

As in `gstds.selection.weights`, all randomness comes in as ``noise``, one uniform number per
sample.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.common.checks import check_integer, check_number
from gstds.common.noise import derived_uniform
from gstds.selection.weights import top_k

__all__ = [
    "bernoulli_by_percentile",
    "chunked_softmax",
    "keep_probabilities",
    "percentiles",
    "softmax_sample",
    "solve_exponent",
]

Floats = npt.NDArray[np.floating[Any]]
Positions = npt.NDArray[np.int64]

_HIGHEST_EXPONENT = 1e6
_HALVINGS = 60


def _gumbel(noise: npt.ArrayLike) -> Floats:
    uniform = np.clip(np.asarray(noise, dtype=np.float64), 1e-300, 1 - 1e-16)
    return np.asarray(-np.log(-np.log(uniform)))


def _logits(scores: npt.ArrayLike, temperature: float) -> Floats:
    temperature = check_number("temperature", temperature, low=0, open_low=True)
    return np.asarray(scores, dtype=np.float64) / temperature


def softmax_sample(
    scores: npt.ArrayLike, k: int, noise: npt.ArrayLike, *, temperature: float = 1.0
) -> Positions:
    """Return k positions drawn one after the other from softmax(scores / temperature).

    Adding Gumbel noise and taking the k highest is that draw without replacement (Kool, van Hoof
    and Welling, arXiv 1903.06059).

    Args:
        scores: Scores (N,).
        k: How many.
        noise: Uniform numbers (N,) in (0, 1).
        temperature: Small is nearly the top k, large nearly uniform; in the score's unit.

    Raises:
        ValueError: If k exceeds N, a score is NaN, or the temperature is not positive.
    """
    return top_k(_logits(scores, temperature) + _gumbel(noise), k, noise)


def chunked_softmax(
    scores: npt.ArrayLike,
    k: int,
    noise: npt.ArrayLike,
    *,
    chunks: int = 16,
    temperature: float = 1.0,
) -> Positions:
    """Return k positions drawn in chunks, each from the softmax over what is left.

    Source: JEST (arXiv 2406.17711). There a chunk's scores depend on what the chunks before picked,
    through a contrastive loss. A per-example loss has no such term, so the chunks see the scores
    unchanged and the draw is, in distribution, `softmax_sample`.

    Args:
        scores: Scores (N,).
        k: How many.
        noise: Uniform numbers (N,) in [0, 1).
        chunks: Number of chunks; their sizes differ by at most one.
        temperature: As for `softmax_sample`.

    Raises:
        ValueError: If k exceeds N, a score is NaN, or an option is out of range.
    """
    chunks = check_integer("chunks", chunks, low=1)
    logits = _logits(scores, temperature)
    if not 0 <= k <= len(logits):
        raise ValueError(f"k must be in [0, {len(logits)}], the number of samples, got {k}")
    left = np.arange(len(logits))
    picked: list[Positions] = []
    for chunk, size in enumerate(np.diff(np.arange(chunks + 1) * k // chunks)):
        own = derived_uniform(noise, chunk + 1)
        drawn = left[top_k(logits[left] + _gumbel(own[left]), int(size), own[left])]
        picked.append(drawn)
        left = np.setdiff1d(left, drawn)
    return np.sort(np.concatenate(picked)).astype(np.int64)


def percentiles(values: npt.ArrayLike, history: npt.ArrayLike) -> Floats:
    """Return the share of ``history`` (M,) that each value (N,) reaches, in [0, 1].

    Equal values count by their mean rank, so the highest of distinct values gets 1, and all get
    (M + 1) / 2M if all are equal.
    """
    ordered = np.sort(np.asarray(history, dtype=np.float64))
    wanted = np.asarray(values, dtype=np.float64)
    below = np.searchsorted(ordered, wanted, side="left")
    up_to = np.searchsorted(ordered, wanted, side="right")
    ranks = np.where(up_to > below, (below + 1 + up_to) / 2, below)
    return np.asarray(ranks / max(1, len(ordered)))


def solve_exponent(shares: npt.ArrayLike, ratio: float, floor: float = 0.0) -> float:
    """Return the β for which the mean of shares ** β is ``ratio``, or the nearest within [0, 1e6].

    Args:
        shares: Numbers (N,) in [0, 1].
        ratio: Wanted mean in [0, 1].
        floor: Powers below this count as this.
    """
    base = np.asarray(shares, dtype=np.float64)

    def mean(exponent: float) -> float:
        return float(np.mean(np.maximum(base**exponent, floor)))

    low, high = 0.0, 1.0
    while high < _HIGHEST_EXPONENT and mean(high) > ratio:
        low, high = high, high * 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if mean(middle) > ratio:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def keep_probabilities(
    shares: npt.ArrayLike, ratio: float, exponent: float | None = None, *, floor: float = 0.0
) -> Floats:
    """Return each sample's chance (N,) to be kept: percentile ** β.

    Source: Selective-Backprop (arXiv 1910.00762), where β is fixed.

    Args:
        shares: Percentiles (N,) in [0, 1].
        ratio: Wanted mean chance, where ``exponent`` is None: β is then solved for it.
        exponent: β.
        floor: The least chance.
    """
    base = np.asarray(shares, dtype=np.float64)
    beta = solve_exponent(base, ratio, floor) if exponent is None else exponent
    return np.asarray(np.maximum(base**beta, floor))


def bernoulli_by_percentile(scores: npt.ArrayLike, k: int, noise: npt.ArrayLike) -> Positions:
    """Return about k positions, each kept by a coin of its own: odds rise with the score's rank.

    The expected number is k; the realized one is a sum of coins.

    Raises:
        ValueError: If k exceeds N or a score is NaN.
    """
    values = np.asarray(scores, dtype=np.float64)
    top_k(values, k)  # refuses what the other pickers refuse
    if k == 0:
        return np.empty(0, dtype=np.int64)
    chance = keep_probabilities(percentiles(values, values), k / len(values))
    return np.flatnonzero(np.asarray(noise) < chance).astype(np.int64)
