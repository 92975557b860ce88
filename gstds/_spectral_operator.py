"""The Laplacian as an operator on the complement of its trivial vector, without an N×N array."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from gstds._spectral_rows import Rows, content_direction, tall_product, wide_product
from gstds._spectral_vector import trivial_and_scale

__all__ = [
    "ClampedOperator",
    "LowRankOperator",
    "Operator",
    "clamped_operator",
    "low_rank_operator",
]

_BLOCK_BYTES = 1 << 26


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
    factor = _centered_factor(rows, row_scale, trivial, affinity == "shift" and normalized)
    weights = torch.ones_like(degrees) if normalized else degrees
    squares = torch.linalg.vector_norm(factor, dim=1).double() ** 2
    return LowRankOperator(factor, weights, trivial, weights - squares, reference, scale, degrees)


def _centered_factor(
    rows: Rows, row_scale: torch.Tensor, trivial: torch.Tensor, constant_column: bool
) -> torch.Tensor:
    dtype = rows.raw.dtype
    count, dimension = rows.raw.shape
    factor = rows.raw.new_empty(count, dimension + constant_column)
    torch.mul(
        rows.raw, (rows.inverse_norms * row_scale.to(dtype))[:, None], out=factor[:, :dimension]
    )
    if constant_column:
        factor[:, dimension] = row_scale.to(dtype)
    mean = trivial.to(dtype) @ factor
    return factor.addr_(trivial.to(dtype), mean, alpha=-1)


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
