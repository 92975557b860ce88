"""From eigenpairs on the complement of the trivial vector to one documented vector."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = [
    "NEGLIGIBLE",
    "RESOLUTION",
    "Solution",
    "alternating_signs",
    "choose",
    "orient",
    "status_of",
    "trivial_and_scale",
]

RESOLUTION = 1e-6
"""Share of λmax below which an eigenvalue counts as zero, and two eigenvalues as one."""

NEGLIGIBLE = 1e-6
"""Share of a vector's length below which a part of it counts as rounding."""


@dataclass(frozen=True, slots=True)
class Solution:
    """One solved batch: vector (N,) float64, its eigenvalues, and how it went."""

    vector: torch.Tensor
    lambda2: float
    lambda3: float
    lambda_max: float
    iterations: int
    residual: float
    status: str


def status_of(lambda2: float, lambda3: float, lambda_max: float) -> str:
    """Name the spectrum's low end: ``indefinite``, ``disconnected``, ``degenerate``, ``converged``.

    Below zero the trivial vector is not the lowest: the cosines had negative ones among them.
    """
    if lambda2 < -RESOLUTION * lambda_max:
        return "indefinite"
    if abs(lambda2) <= RESOLUTION * lambda_max:
        return "disconnected"
    return "degenerate" if lambda3 - lambda2 <= RESOLUTION * lambda_max else "converged"


def trivial_and_scale(
    degrees: torch.Tensor, affinity: str, laplacian: str
) -> tuple[torch.Tensor, float]:
    """Return the unit trivial vector (N,) and an upper bound of the largest eigenvalue.

    The bound is sharp to about 1/N: D - S is at most max(D) for a positive semi-definite S, the
    normalized one at most 1. A clamped S may be indefinite; Gershgorin's circles double both.
    """
    indefinite = 2.0 if affinity == "clamp" else 1.0
    if laplacian == "unnormalized":
        trivial = torch.full_like(degrees, len(degrees) ** -0.5)
        return trivial, indefinite * float(degrees.abs().max())
    if float(degrees.min()) <= 0:
        rows = torch.nonzero(degrees <= 0).flatten().tolist()
        raise ValueError(
            f"laplacian='normalized' needs positive degrees, but rows {rows[:8]} have none: "
            "their cosines sum to zero or less; pass affinity='shift' or 'clamp'"
        )
    return (degrees / degrees.sum()).sqrt(), indefinite


def alternating_signs(like: torch.Tensor) -> torch.Tensor:
    """Return +1, −1, +1, … (N,): what is left to go by where content says nothing."""
    signs = torch.ones_like(like)
    signs[1::2] = -1
    return signs


def choose(
    values: torch.Tensor,
    vectors: torch.Tensor,
    reference: torch.Tensor,
    lambda_max: float,
) -> torch.Tensor:
    """Return the documented unit vector (N,) of the lowest eigenspace.

    Where the space has one dimension that is the eigenvector. Where it has more, it is the
    projection of ``reference``, which depends on each sample's content only: so the answer moves
    with the rows when they are reordered. Samples that content cannot tell apart (identical rows)
    leave nothing to project; then it is the projection of +1, −1, +1, … by position.

    Args:
        values: Ascending eigenvalues (M,).
        vectors: Their orthonormal vectors (M, N).
        reference: Content projection (N,).
        lambda_max: Scale of the spectrum.
    """
    count = int((values <= values[0] + RESOLUTION * lambda_max).sum())
    space = vectors[:count]
    if count == 1:
        return space[0]
    for target in (reference, alternating_signs(reference)):
        projected = (space @ target) @ space
        length = torch.linalg.vector_norm(projected)
        if length > NEGLIGIBLE * torch.linalg.vector_norm(target):
            return projected.div(length)
    return space[0]


def orient(vector: torch.Tensor, reference: torch.Tensor, sign: str) -> torch.Tensor:
    """Apply the sign rule ``abs``, ``skew`` (Σv³ > 0) or ``raw`` (aligned with the reference)."""
    if sign == "abs":
        return vector.abs()
    skew = (vector**3).sum()
    if sign == "skew" and abs(float(skew)) > NEGLIGIBLE * float((vector.abs() ** 3).sum()):
        return vector if skew > 0 else -vector
    alignment = float(vector @ reference)
    if abs(alignment) <= 1e-9 * float(torch.linalg.vector_norm(reference)):
        alignment = float(vector[int(vector.abs().argmax())])
    return vector if alignment >= 0 else -vector
