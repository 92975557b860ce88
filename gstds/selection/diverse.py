"""Pickers that choose greedily for what is not yet covered: k-center and DivBS."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "divbs",
    "divbs_flops",
    "greedy_orthogonal",
    "k_center",
    "k_center_flops",
    "last_layer_kernel",
]

Floats = npt.NDArray[np.floating[Any]]
Positions = npt.NDArray[np.int64]

_SPENT = 1e-9
_ROUNDING = 1e-9
_SAME = 1e-13


def _check_count(k: int, n: int) -> None:
    if not 0 <= k <= n:
        raise ValueError(f"k must be in [0, {n}], the number of samples, got {k}")


def _highest(values: Floats, noise: Floats) -> int:
    """Return where the highest value is; those equal up to rounding go by noise."""
    highest = float(values.max())
    best = np.flatnonzero(values >= highest - _ROUNDING * abs(highest))
    return int(best[np.argmin(noise[best])])


def k_center(features: npt.ArrayLike, k: int, noise: npt.ArrayLike) -> Positions:
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
    picked = [_highest(-(centered**2).sum(axis=1), ties)]
    distances = _distances(centered)
    nearest = distances[picked[0]].copy()
    while len(picked) < k:
        nearest[picked[-1]] = -1.0
        picked.append(_highest(nearest, ties))
        np.minimum(nearest, distances[picked[-1]], out=nearest)
    return np.sort(np.array(picked, dtype=np.int64))


def k_center_flops(n: int, k: int, dim: int) -> float:
    """Return the operations of `k_center` on rows (n, dim).

    Inner products of all pairs, n·(n + 1)·dim, and the distances to the mean, 3·n·dim; how many are
    picked does not matter, unless that is none.
    """
    return (n + 4.0) * n * dim if k else 0.0


def _distances(rows: Floats) -> Floats:
    """Return the squared distances (N, N) by way of one matrix product.

    What is no further apart than the product's rounding is one point: copies tie, as they must.
    """
    products = rows @ rows.T
    squares = products.diagonal().copy()
    distances = squares[:, None] + squares - 2.0 * products
    floor = _SAME * (squares[:, None] + squares)
    return np.asarray(np.where(distances <= floor, 0.0, distances))


def last_layer_kernel(residuals: npt.ArrayLike, embeddings: npt.ArrayLike) -> Floats:
    """Return the inner products (N, N) of the last layer's per-sample gradients.

    The gradient of cross-entropy by weights and bias of the last layer is the outer product of the
    residual p - y and the embedding with a one behind it; so no gradient is ever formed.

    Args:
        residuals: Probabilities minus one-hot labels (N, C).
        embeddings: Inputs of the last layer (N, H).
    """
    left = np.asarray(residuals, dtype=np.float64)
    right = np.asarray(embeddings, dtype=np.float64)
    return np.asarray((left @ left.T) * (right @ right.T + 1.0))


def greedy_orthogonal(kernel: npt.ArrayLike, k: int, noise: npt.ArrayLike) -> list[int]:
    """Return k positions in the order picked, by DivBS's greedy rule.

    Each pick is the vector whose part orthogonal to those picked before, scaled to unit length, has
    the largest inner product, in absolute value, with the sum of all vectors. When what is left
    lies in the span of the picked, the rest goes by that inner product without orthogonalization.

    Source: DivBS (arXiv 2406.04872), algorithm 1; here in terms of inner products.

    Args:
        kernel: Inner products (N, N).
        k: How many.
        noise: Uniform numbers (N,): they break ties.

    Raises:
        ValueError: If k exceeds N or the kernel is not finite.
    """
    gram = np.asarray(kernel, dtype=np.float64)
    ties = np.asarray(noise, dtype=np.float64)
    n = len(gram)
    _check_count(k, n)
    if not np.isfinite(gram).all():
        raise ValueError("gradients must have finite inner products")
    squares = np.diag(gram).copy()
    total = gram.sum(axis=1)
    floor = _SPENT * max(float(squares.max(initial=0.0)), 1e-300)
    alone = np.abs(total) / np.sqrt(np.maximum(squares, floor))
    basis = np.zeros((n, k))
    picked: list[int] = []
    taken = np.zeros(n, dtype=bool)
    for step in range(k):
        independent = (squares > floor) & ~taken
        gain = np.abs(total) / np.sqrt(np.maximum(squares, floor))
        usable = independent if independent.any() else ~taken
        choice = _highest(np.where(usable, gain if independent.any() else alone, -1.0), ties)
        if independent.any():
            column = (gram[:, choice] - basis @ basis[choice]) / np.sqrt(squares[choice])
            basis[:, step] = column
            total = total - column * (total[choice] / np.sqrt(squares[choice]))
            squares = squares - column**2
        picked.append(choice)
        taken[choice] = True
    return picked


def divbs(
    residuals: npt.ArrayLike, embeddings: npt.ArrayLike, k: int, noise: npt.ArrayLike
) -> Positions:
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
    return 2.0 * n**2 * (classes + width + 1) + 2.0 * n * k**2
