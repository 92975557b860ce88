"""Which of a drawn batch's samples are kept: pure functions over arrays.

All randomness comes in as ``noise``, one uniform number per sample, so that the answer is a
function of its arguments alone. Weighted sampling without replacement uses exponential keys
(Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006). Every picker returns
exactly k positions in ascending order, but for `bernoulli_by_percentile`, whose k is a mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.typing import ArrayLike

from gstds.common.checks import check_choice, check_fraction, check_integer, check_number
from gstds.common.noise import derived_uniform

Floats = npt.NDArray[np.floating[Any]]
Positions = npt.NDArray[np.int64]
Batch = Mapping[str, Any]
Picker = Callable[[Batch, int, Any], Positions]
"""Picks k of the valid samples: arrays of the observation, a count, noise -> positions (k,)."""

LOSS_WEIGHTINGS = ("inverse", "proportional", "uniform")
_EPSILON = 1e-3
_HIGHEST_EXPONENT = 1e6
_HALVINGS = 60
_SPENT = 1e-9
_ROUNDING = 1e-9
_SAME = 1e-13


def kept_count(ratio: float, n: int) -> int:
    """Return how many of ``n`` samples a keep ratio retains: floor(ratio · n + ½), at least 1.

    Raises:
        ValueError: If ``ratio`` is outside [0, 1]. A ratio of 0 keeps nothing.
    """
    ratio = check_fraction("keep_ratio", ratio)
    if ratio == 0.0 or n == 0:
        return 0
    return min(n, max(1, math.floor(ratio * n + 0.5)))


def _check_count(k: int, n: int) -> None:
    if not 0 <= k <= n:
        raise ValueError(f"k must be in [0, {n}], the number of samples, got {k}")


def top_k(scores: ArrayLike, k: int, noise: ArrayLike | None = None) -> Positions:
    """Return the positions (k,) of the highest scores (N,); equal scores go by ``noise``.

    Raises:
        ValueError: If k exceeds N or a score is NaN.
    """
    values = np.asarray(scores, dtype=np.float64)
    n = len(values)
    _check_count(k, n)
    if np.isnan(values).any():
        raise ValueError(f"scores must not be NaN, got NaN at position {np.isnan(values).argmax()}")
    ties = np.arange(n) if noise is None else np.asarray(noise, dtype=np.float64)
    return np.sort(np.lexsort((ties, -values))[:k]).astype(np.int64)


def uniform(k: int, noise: ArrayLike) -> Positions:
    """Return k positions, each subset equally likely for uniform ``noise`` (N,).

    Raises:
        ValueError: If k exceeds N.
    """
    return top_k(-np.asarray(noise, dtype=np.float64), k)


def weighted_sample(weights: ArrayLike, k: int, noise: ArrayLike) -> Positions:
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
    with np.errstate(divide="ignore"):
        # log(-log(u) / w) orders as -log(u) / w does, and does not overflow for tiny weights
        keys = np.where(w > 0, np.log(w) + _gumbel(u), -np.inf)
    return top_k(keys, k, u)


def _gumbel(noise: ArrayLike) -> Floats:
    chances = np.clip(np.asarray(noise, dtype=np.float64), 1e-300, 1 - 1e-16)
    return np.asarray(-np.log(-np.log(chances)))


def loss_weights(losses: ArrayLike, weighting: str = "inverse") -> Floats:
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


def label_chances(losses: ArrayLike) -> Floats:
    """Return the probability (N,) that each label was given, from cross-entropies (N,) in nats."""
    return np.asarray(np.exp(-np.maximum(np.asarray(losses, dtype=np.float64), 0.0)))


def check_cross_entropy(policy: str, classes: int) -> None:
    """Refuse a run that is no classification, for a policy that reads `label_chances`.

    Raises:
        ValueError: If there are fewer than two classes.
    """
    if classes < 2:
        raise ValueError(
            f"policy {policy!r} takes a loss for -log(probability of the label), and num_classes "
            f"is {classes}; pass num_classes=, or take stale-big-loss, which goes by ranks"
        )


def hybrid(
    scores: ArrayLike,
    losses: ArrayLike,
    k: int,
    noise: ArrayLike,
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
    _check_count(k, n)
    first = top_k(scores, min(k, math.ceil(share * k)), noise)
    rest = np.setdiff1d(np.arange(n), first)
    weights = loss_weights(np.asarray(losses)[rest], loss_weighting)
    drawn = weighted_sample(weights, k - len(first), np.asarray(noise)[rest])
    return np.sort(np.concatenate([first, rest[drawn]])).astype(np.int64)


def softmax_sample(
    scores: ArrayLike, k: int, noise: ArrayLike, *, temperature: float = 1.0
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
    temperature = check_number("temperature", temperature, low=0, open_low=True)
    values = np.asarray(scores, dtype=np.float64)
    return top_k(values / temperature + _gumbel(noise), k, noise)


def chunked_softmax(
    scores: ArrayLike, k: int, noise: ArrayLike, *, chunks: int = 16, temperature: float = 1.0
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
    values = np.asarray(scores, dtype=np.float64)
    _check_count(k, len(values))
    left = np.arange(len(values))
    picked: list[Positions] = []
    for chunk, size in enumerate(np.diff(np.arange(chunks + 1) * k // chunks)):
        own = derived_uniform(noise, chunk + 1)
        drawn = softmax_sample(values[left], int(size), own[left], temperature=temperature)
        picked.append(left[drawn])
        left = np.delete(left, drawn)
    return np.sort(np.concatenate(picked)).astype(np.int64)


def percentiles(values: ArrayLike, history: ArrayLike) -> Floats:
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


def solve_exponent(shares: ArrayLike, ratio: float, floor: float = 0.0) -> float:
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
    shares: ArrayLike, ratio: float, exponent: float | None = None, *, floor: float = 0.0
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


def bernoulli_by_percentile(scores: ArrayLike, k: int, noise: ArrayLike) -> Positions:
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


def _best(values: Floats, noise: Floats) -> int:
    """Return where the highest value is; those equal up to rounding go by noise."""
    highest = float(values.max())
    best = np.flatnonzero(values >= highest - _ROUNDING * abs(highest))
    return int(best[np.argmin(noise[best])])


def k_center(features: ArrayLike, k: int, noise: ArrayLike) -> Positions:
    """Return k positions, each the farthest from those picked before (farthest-first traversal).

    The first is the nearest to the mean. A 2-approximation of the k-center problem (Gonzalez,
    1985); for selection: Sener and Savarese, arXiv 1708.00489. Costs N²·D.

    Args:
        features: Rows (N, D).
        k: How many.
        noise: Uniform numbers (N,) in (0, 1): they break ties.

    Raises:
        ValueError: If k exceeds N or a feature is not finite.
    """
    rows = np.asarray(features, dtype=np.float64)
    ties = np.asarray(noise, dtype=np.float64)
    _check_count(k, len(rows))
    if not np.isfinite(rows).all():
        raise ValueError("features must be finite")
    if k == 0:
        return np.empty(0, dtype=np.int64)
    centered = rows - rows.mean(axis=0)
    picked = [_best(-(centered**2).sum(axis=1), ties)]
    # By way of one matrix product. What is no further apart than its rounding is one point: copies
    # tie, as they must.
    products = centered @ centered.T
    squares = products.diagonal()
    sums = squares[:, None] + squares
    distances = sums - 2.0 * products
    distances[distances <= _SAME * sums] = 0.0
    nearest = distances[picked[0]].copy()
    while len(picked) < k:
        nearest[picked[-1]] = -1.0
        picked.append(_best(nearest, ties))
        np.minimum(nearest, distances[picked[-1]], out=nearest)
    return np.sort(np.array(picked, dtype=np.int64))


def k_center_flops(n: int, k: int, dim: int) -> float:
    """Return the operations of `k_center` on rows (n, dim).

    Inner products of all pairs, n·(n + 1)·dim, and the distances to the mean, 3·n·dim; how many are
    picked does not matter, unless that is none.
    """
    return (n + 4.0) * n * dim if k else 0.0


def last_layer_kernel(residuals: ArrayLike, embeddings: ArrayLike) -> Floats:
    """Return the inner products (N, N) of the last layer's per-sample gradients.

    The gradient of cross-entropy by the weights of the last layer is the outer product of the
    residual p - y and the embedding; so no gradient is ever formed.

    Args:
        residuals: Probabilities minus one-hot labels (N, C).
        embeddings: Inputs of the last layer (N, H).
    """
    left = np.asarray(residuals, dtype=np.float64)
    right = np.asarray(embeddings, dtype=np.float64)
    return np.asarray((left @ left.T) * (right @ right.T))


def greedy_orthogonal(kernel: ArrayLike, k: int, noise: ArrayLike) -> list[int]:
    """Return k positions in the order picked, by DivBS's rule as its authors released it.

    Each pick is drawn, with odds in proportion to its vector's inner product, in absolute value,
    with what is left of the sum of all vectors: the part orthogonal to those picked before. When
    nothing is left, the rest is drawn uniformly.

    Source: DivBS (arXiv 2406.04872), the release Feng-Hong/DivBS; here by inner products.

    Args:
        kernel: Inner products (N, N).
        k: How many.
        noise: Uniform numbers (N,).

    Raises:
        ValueError: If k exceeds N or the kernel is not finite.
    """
    gram = np.asarray(kernel, dtype=np.float64)
    n = len(gram)
    _check_count(k, n)
    if not np.isfinite(gram).all():
        raise ValueError("gradients must have finite inner products")
    squares = np.diag(gram).copy()
    total = gram.sum(axis=1)
    floor = _SPENT * max(float(squares.max(initial=0.0)), 1e-300)
    spent = _SPENT * max(float(np.abs(total).max(initial=0.0)), 1e-300)
    basis = np.zeros((n, k))
    picked: list[int] = []
    taken = np.zeros(n, dtype=bool)
    for step in range(k):
        gain = np.where(taken | (squares <= floor) | (np.abs(total) <= spent), 0.0, np.abs(total))
        odds = gain if gain.any() else ~taken
        choice = int(weighted_sample(odds, 1, derived_uniform(noise, step + 1))[0])
        if gain.any():
            column = (gram[:, choice] - basis @ basis[choice]) / np.sqrt(squares[choice])
            basis[:, step] = column
            total = total - column * (total[choice] / np.sqrt(squares[choice]))
            squares = squares - column**2
        picked.append(choice)
        taken[choice] = True
    return picked


def divbs(residuals: ArrayLike, embeddings: ArrayLike, k: int, noise: ArrayLike) -> Positions:
    """Return the k positions that DivBS keeps; arguments as for the two functions above.

    Costs N²(C + H) for the inner products and N·k² for the greedy rule.

    Raises:
        ValueError: If k exceeds N or a value is not finite.
    """
    picked = greedy_orthogonal(last_layer_kernel(residuals, embeddings), k, noise)
    return np.sort(np.array(picked, dtype=np.int64))


def divbs_flops(n: int, k: int, classes: int, width: int) -> float:
    """Return the operations of `divbs`: the inner products, then two products with n a pick.

    Args:
        n: Samples drawn.
        k: Samples picked.
        classes: Number of classes C.
        width: Width H of the embeddings.
    """
    return 2.0 * n**2 * (classes + width) + 2.0 * n * k**2


class _ValidRows(Mapping[str, Any]):
    """An observation with the valid samples' rows alone; reads what is read of it, no more."""

    def __init__(self, observation: Batch, rows: Positions, n: int) -> None:
        self._observation, self._rows, self._n = observation, rows, n

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        value = np.asarray(self._observation[name])
        return value[self._rows] if value.shape[:1] == (self._n,) else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._observation)

    def __len__(self) -> int:
        return len(self._observation)


def valid_batch(observation: Batch) -> tuple[Positions, Batch]:
    """Return where the valid samples are (n,), and the observation with their rows alone."""
    valid = np.asarray(observation["valid"])
    rows = np.flatnonzero(valid > 0.5)
    return rows, _ValidRows(observation, rows, len(valid))


def weights_for_ratio(observation: Batch, ratio: float, picker: Picker) -> npt.NDArray[np.float32]:
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
    if "trust" in observation:  # see `gstds.policies.trust`
        rows = rows[np.asarray(observation["trust"])[rows] > 0]
        batch, k = _ValidRows(observation, rows, len(observation["valid"])), min(k, len(rows))
    kept = rows[:k]  # all or none, unless some are picked
    if 0 < k < len(rows):
        positions = picker(batch, k, derived_uniform(batch["noise"], 0))
        wanted, found = k if getattr(picker, "exact", True) else len(positions), len(positions)
        if len(np.unique(positions)) != wanted:
            raise ValueError(f"picker must return {wanted} distinct positions, got {found}")
        kept = rows[positions]
    weights = np.zeros(len(observation["valid"]), dtype=np.float32)
    weights[kept] = 1.0
    return weights
