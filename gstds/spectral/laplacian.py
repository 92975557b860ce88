"""The Laplacian without an N×N array, and from its eigenpairs to one documented vector."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from gstds.spectral.rows import Rows, content_direction, empty_rows, tall_product, wide_product

RESOLUTION = 1e-6
"""Share of λmax below which an eigenvalue counts as zero, and two eigenvalues as one."""

NEGLIGIBLE = 1e-6
"""Share of a vector's length below which a part of it counts as rounding."""

_BLOCK_BYTES = 1 << 26
_FACTOR_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Scores of a batch and the low end of its Laplacian's spectrum.

    For batched input every field has a leading B: arrays (B,), `status` a tuple.

    Attributes:
        scores: Unit vector (N,), float32, or float64 for float64 and whole-number input; array
            type and device as the input's.
        lambda2: Smallest eigenvalue on the complement of the trivial vector.
        lambda3: The next one; equal to `lambda2` where N <= 2 leaves none.
        lambda_max: Upper bound of the largest eigenvalue: max(D), or 1 if normalized; twice that
            if clamped. Sharp to about 1/N unless clamped.
        iterations: Expansions of the matrix-free solver; 0 for the dense one.
        residual: Norm of L·v - lambda2·v.
        status: ``converged``; ``indefinite`` (lambda2 below zero, with negative cosines);
            ``disconnected`` (lambda2 <= 1e-6·lambda_max); ``degenerate`` (lambda3 - lambda2 <=
            1e-6·lambda_max); ``not-converged``; ``trivial`` (N = 1).
    """

    scores: Any
    lambda2: Any
    lambda3: Any
    iterations: Any
    residual: Any
    status: Any
    lambda_max: Any

    @property
    def eigengap(self) -> Any:
        """(lambda3 - lambda2) / lambda_max, in [0, 1]."""
        return _to_unit_interval((self.lambda3 - self.lambda2) / self.lambda_max)

    @property
    def effective_nodes(self) -> Any:
        """Share of the samples that carry the vector: 1 / (N·Σv⁴), in (0, 1]."""
        fourth = (self.scores**4).sum(-1)
        share = 1.0 / (self.scores.shape[-1] * fourth)
        return _to_unit_interval(float(share) if share.ndim == 0 else share)


def _to_unit_interval(values: Any) -> Any:
    """Take off what rounding put beyond [0, 1]."""
    return min(max(values, 0.0), 1.0) if isinstance(values, float) else values.clip(0.0, 1.0)


def spectrum_of(
    vector: torch.Tensor,
    lambda2: float,
    lambda3: float,
    scale: float,
    residual: float,
    iterations: int = 0,
    converged: bool = True,
) -> Spectrum:
    """Return a solved batch's spectrum, whose status names its low end.

    Below zero the trivial vector is not the lowest: the cosines had negative ones among them.
    """
    status = "degenerate" if lambda3 - lambda2 <= RESOLUTION * scale else "converged"
    if abs(lambda2) <= RESOLUTION * scale:
        status = "disconnected"
    elif lambda2 < 0:
        status = "indefinite"
    status = status if converged else "not-converged"
    return Spectrum(vector, lambda2, lambda3, iterations, residual, status, scale)


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


@dataclass(slots=True)
class Laplacian:
    """diag(weights) - P as an operator on the complement of the trivial vector.

    Attributes:
        products: Vectors (K, N), float64 -> their images (K, N) by P.
        weights: The diagonal part (N,).
        trivial: Unit vector (N,) that is projected out.
        diagonal: Diagonal (N,) of the projected operator, for preconditioning.
        reference: Content projection (N,) of the samples.
        scale: Upper bound of the largest eigenvalue.
        degrees: Row sums (N,) of the affinity.
    """

    products: Callable[[torch.Tensor], torch.Tensor]
    weights: torch.Tensor
    trivial: torch.Tensor
    diagonal: torch.Tensor
    reference: torch.Tensor
    scale: float
    degrees: torch.Tensor

    def apply(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the images (K, N) of ``vectors`` (K, N), float64."""
        images = self.weights * vectors - self.products(vectors)
        return images - (images @ self.trivial)[:, None] * self.trivial


def low_rank_laplacian(rows: Rows, affinity: str, laplacian: str) -> Laplacian:
    """Build D - S or I - D^-½ S D^-½ for S = F Fᵀ or (1 + F Fᵀ)/2; a product takes 4·K·N·D.

    P is B Bᵀ with a factor B (N, D) out of which the trivial vector is taken. That costs nothing on
    the complement, and removes by far the largest singular value, to which float32 rounding would
    be relative.

    Raises:
        ValueError: If the normalized Laplacian meets a degree that is not positive.
    """
    direction = content_direction(rows.raw.shape[1], rows.raw.device)
    products = rows.project(torch.stack([rows.column_sums().double(), direction]))
    degrees, reference = products[:, 0].contiguous(), products[:, 1].contiguous()
    if affinity == "shift":
        degrees = (degrees + len(degrees)) / 2
    trivial, scale = trivial_and_scale(degrees, affinity, laplacian)
    half = 0.5**0.5 if affinity == "shift" else 1.0
    normalized = laplacian == "normalized"
    row_scale = half * degrees.rsqrt() if normalized else torch.full_like(degrees, half)
    constant = affinity == "shift" and normalized
    factor, lengths = _centered_factor(rows, row_scale, trivial, constant)
    weights = torch.ones_like(degrees) if normalized else degrees

    def low_rank_products(vectors: torch.Tensor) -> torch.Tensor:
        inner = wide_product(vectors.to(factor.dtype), factor)
        return tall_product(factor, inner).T.double().contiguous()

    diagonal = weights - lengths.double() ** 2
    return Laplacian(low_rank_products, weights, trivial, diagonal, reference, scale, degrees)


def _centered_factor(
    rows: Rows, row_scale: torch.Tensor, trivial: torch.Tensor, constant_column: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the factor (N, D) without the trivial vector, and its rows' lengths (N,)."""
    raw, own = rows.raw, row_scale.to(rows.raw.dtype)
    vector, scale = trivial.to(raw.dtype), rows.inverse_norms * own
    mean = wide_product((vector * scale)[None], raw)[0]
    if constant_column:
        mean = torch.cat([mean, (vector @ own)[None]])
    factor = empty_rows(len(raw), raw, len(mean))
    lengths = torch.empty_like(scale)
    step = _FACTOR_ROWS if raw.device.type == "cpu" else len(raw)
    for start in range(0, len(raw), step):  # parts that stay in the cache while they are made
        of = slice(start, start + step)
        part = factor[of]
        torch.mul(raw[of], scale[of, None], out=part[:, : raw.shape[1]])
        if constant_column:
            part[:, -1] = own[of]
        part.addr_(vector[of], mean, alpha=-1)
        torch.linalg.vector_norm(part, dim=1, out=lengths[of])
    return factor, lengths


def clamped_laplacian(rows: Rows, laplacian: str) -> Laplacian:
    """Build the Laplacian of max(F Fᵀ, 0), computed anew block by block: O(N²·D) a product.

    Raises:
        ValueError: If the normalized Laplacian meets a degree that is not positive.
    """
    unit = rows.unit()
    ones = torch.ones(1, len(unit), dtype=torch.float64, device=unit.device)
    degrees = _clamped_products(unit, ones)[0]
    trivial, scale = trivial_and_scale(degrees, "clamp", laplacian)
    normalized = laplacian == "normalized"
    weights = torch.ones_like(degrees) if normalized else degrees
    roots = degrees.rsqrt() if normalized else torch.ones_like(degrees)

    def blockwise_products(vectors: torch.Tensor) -> torch.Tensor:
        return _clamped_products(unit, vectors * roots) * roots

    diagonal, reference = weights - roots**2, rows.reference()
    return Laplacian(blockwise_products, weights, trivial, diagonal, reference, scale, degrees)


def _clamped_products(unit: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    single = vectors.to(unit.dtype)
    block = max(1, _BLOCK_BYTES // (len(unit) * unit.element_size()))
    parts = [
        single @ (unit @ unit[start : start + block].T).clamp_(min=0)
        for start in range(0, len(unit), block)
    ]
    return torch.cat(parts, dim=1).double()
