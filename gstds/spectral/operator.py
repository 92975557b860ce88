"""The Laplacian as an operator on the complement of its trivial vector, without an N×N array."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from gstds.spectral.eigenvector import trivial_and_scale
from gstds.spectral.rows import (
    Rows,
    content_direction,
    empty_rows,
    tall_product,
    wide_product,
)

__all__ = [
    "ClampedOperator",
    "LowRankOperator",
    "Operator",
    "clamped_operator",
    "low_rank_operator",
]

_BLOCK_BYTES = 1 << 26
_FACTOR_ROWS = 4096


class Operator(Protocol):
    """What the solver needs to know of a Laplacian.

    Attributes:
        trivial: Unit vector (N,) that is projected out.
        diagonal: Diagonal (N,) of the projected operator, for preconditioning.
        reference: Content projection (N,) of the samples.
        scale: Upper bound of the largest eigenvalue.
        degrees: Row sums (N,) of the affinity.
    """

    trivial: torch.Tensor
    diagonal: torch.Tensor
    reference: torch.Tensor
    scale: float
    degrees: torch.Tensor

    def apply(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the images (K, N) of ``vectors`` (K, N), float64."""


@dataclass(slots=True)
class LowRankOperator:
    """diag(a) - B Bᵀ with B (N, D) already orthogonal to the trivial vector."""

    factor: torch.Tensor
    weights: torch.Tensor
    trivial: torch.Tensor
    diagonal: torch.Tensor
    reference: torch.Tensor
    scale: float
    degrees: torch.Tensor

    def apply(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the images (K, N); 4·K·N·D operations, two readings of B."""
        inner = wide_product(vectors.to(self.factor.dtype), self.factor)
        products = tall_product(self.factor, inner).T.double().contiguous()
        images = self.weights * vectors - products
        return images - (images @ self.trivial)[:, None] * self.trivial


def low_rank_operator(rows: Rows, affinity: str, laplacian: str) -> LowRankOperator:
    """Build the operator of D - S or I - D^-½ S D^-½ for S = F Fᵀ or (1 + F Fᵀ)/2.

    The trivial vector is taken out of the factor itself. That costs nothing on the complement, and
    removes by far the largest singular value, to which float32 rounding would be relative.

    Raises:
        ValueError: If the normalized Laplacian meets a degree that is not positive.
    """
    ones = torch.ones_like(rows.inverse_norms)
    sums = rows.column_sums(ones).double()
    direction = content_direction(rows.raw.shape[1], rows.raw.device)
    products = rows.project(torch.stack([sums, direction]))
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
    diagonal = weights - lengths.double() ** 2
    return LowRankOperator(factor, weights, trivial, diagonal, reference, scale, degrees)


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


@dataclass(slots=True)
class ClampedOperator:
    """The Laplacian of max(F Fᵀ, 0), computed anew block by block: O(N²·D) a product."""

    unit: torch.Tensor
    weights: torch.Tensor
    roots: torch.Tensor
    trivial: torch.Tensor
    diagonal: torch.Tensor
    reference: torch.Tensor
    scale: float
    degrees: torch.Tensor

    def apply(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the images (K, N) with the trivial vector projected out."""
        products = _clamped_products(self.unit, vectors * self.roots) * self.roots
        images = self.weights * vectors - products
        return images - (images @ self.trivial)[:, None] * self.trivial


def clamped_operator(rows: Rows, laplacian: str) -> ClampedOperator:
    """Build the blockwise operator of the clamped affinity.

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
    diagonal = weights - roots**2
    return ClampedOperator(
        unit, weights, roots, trivial, diagonal, rows.reference(), scale, degrees
    )


def _clamped_products(unit: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    single = vectors.to(unit.dtype)
    block = max(1, _BLOCK_BYTES // (len(unit) * unit.element_size()))
    parts = [
        single @ (unit @ unit[start : start + block].T).clamp_(min=0)
        for start in range(0, len(unit), block)
    ]
    return torch.cat(parts, dim=1).double()
