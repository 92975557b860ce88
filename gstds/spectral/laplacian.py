"""From a batch's rows to its Laplacian without an N×N array, and from eigenpairs to one vector.

Rows are taken as the solvers want them: finite, not zero, with a known affinity.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gstds.common.noise import keyed_uniform

_LEAST_SCALE = 0.5
RESOLUTION = 1e-6
"""Share of λmax below which an eigenvalue counts as zero, and two eigenvalues as one."""

NEGLIGIBLE = 1e-6
"""Share of a vector's length below which a part of it counts as rounding."""

_BLOCK_BYTES = 1 << 26
_FACTOR_ROWS = 4096
_LOG = logging.getLogger("gstds.spectral")
_DIRECTION_SEED = 0x5EED
_CLAMP_BLOCK = 1024
_SAFE_LOW, _SAFE_HIGH = 1e-16, 1e16
_ROWS, _MANY = 256, 16


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows whose scaled versions have unit length.

    Attributes:
        raw: Features (N, D), float32 or float64; kept as given, so that nothing is copied.
        inverse_norms: Reciprocal lengths (N,) of the rows, same dtype.
    """

    raw: Tensor
    inverse_norms: Tensor

    def unit(self) -> Tensor:
        """Return the unit rows (N, D)."""
        return self.raw * self.inverse_norms[:, None]

    def column_sums(self) -> Tensor:
        """Return the sum (D,) of the unit rows."""
        return wide_product(self.inverse_norms[None], self.raw)[0]

    def project(self, directions: Tensor) -> Tensor:
        """Return the unit rows' components (N, K) along ``directions`` (K, D), as float64."""
        products = tall_product(self.raw, directions.to(self.raw.dtype))
        return (products * self.inverse_norms[:, None]).double()

    def degrees(self, affinity: str) -> Tensor:
        """Return the row sums (N,) of S, or of (1 + S)/2 if ``affinity`` is ``shift``; float64."""
        sums = self.project(self.column_sums()[None])[:, 0]
        return (sums + len(sums)) / 2 if affinity == "shift" else sums

    def reference(self) -> Tensor:
        """Return the samples' content projection (N,), float64."""
        return self.project(content_direction(self.raw.shape[1], self.raw.device)[None])[:, 0]


def tall_product(tall: Tensor, few: Tensor) -> Tensor:
    """Return ``tall @ few.T`` (N, K) for tall (N, D) and few (K, D), the way that reads it fast."""
    parts = _parts(tall)
    if parts is None:
        return (few @ tall.T).T
    out = tall.new_empty(len(tall), len(few))
    whole = parts.shape[0] * _ROWS
    torch.bmm(parts, few.T.expand(len(parts), -1, -1), out=out[:whole].view(-1, _ROWS, len(few)))
    torch.mm(tall[whole:], few.T, out=out[whole:])
    return out


def wide_product(few: Tensor, tall: Tensor) -> Tensor:
    """Return ``few @ tall`` (K, D) for few (K, N) and tall (N, D), the way that reads it fast."""
    parts = _parts(tall)
    if parts is None:
        return few @ tall
    whole = parts.shape[0] * _ROWS
    split = few[:, :whole].reshape(len(few), -1, _ROWS).transpose(0, 1).contiguous()
    return torch.bmm(split, parts).sum(dim=0).addmm_(few[:, whole:], tall[whole:])


def _parts(tall: Tensor) -> Tensor | None:
    """Return parts (M, rows, D) that stay in a cache while several vectors meet them.

    None where that is not worth it. As one batch of products they are also divided among the
    threads, which a product with one or two vectors is not.
    """
    if tall.device.type != "cpu" or len(tall) < _MANY * _ROWS:
        return None
    whole = len(tall) // _ROWS * _ROWS
    return tall[:whole].view(-1, _ROWS, tall.shape[1])


def empty_rows(count: int, like: Tensor, columns: int) -> Tensor:
    """Return uninitialized rows (count, columns), on a processor in pages as large as there are.

    numpy asks the system for such pages, torch does not: filling them is three times as fast.
    """
    if like.device.type != "cpu":
        return like.new_empty(count, columns)
    kind = np.float64 if like.dtype == torch.float64 else np.float32
    return torch.from_numpy(np.empty((count, columns), dtype=kind))


@lru_cache(maxsize=8)
def content_direction(dimension: int, device: torch.device) -> Tensor:
    """Return a fixed direction (D,) without symmetries, the same on every machine.

    Projections on it tell samples apart by their content alone, so whatever is derived from them
    moves with the rows when these are reordered.
    """
    uniform = keyed_uniform(_DIRECTION_SEED, indices=np.arange(dimension))
    return torch.from_numpy(uniform - 0.5).to(device)


def prepare_rows(features: Tensor) -> Rows:
    """Measure the rows and refuse what has no cosine.

    Args:
        features: Features (N, D) of any floating or whole-number type.

    Raises:
        ValueError: If a row holds NaN or infinity, or is zero; the message names the rows.
    """
    raw = features.detach()
    if raw.dtype not in (torch.float32, torch.float64):
        raw = raw.to(torch.float32 if raw.is_floating_point() else torch.float64)
    norms = torch.linalg.vector_norm(raw, dim=1)
    low, high = (float(value) for value in torch.aminmax(norms))
    if not (low > _SAFE_LOW and high < _SAFE_HIGH):
        raw, norms = _rescaled(raw)
    return Rows(raw, norms.reciprocal())


def _rescaled(raw: Tensor) -> tuple[Tensor, Tensor]:
    _refuse(~torch.isfinite(raw).all(dim=1), "NaN or infinity", "clean or drop them")
    largest = raw.abs().amax(dim=1)
    _refuse(largest == 0, "only zeros, which have no cosine", "drop them or add a constant feature")
    raw = raw / largest[:, None]
    return raw, torch.linalg.vector_norm(raw, dim=1)


def _refuse(bad: Tensor, what: str, mend: str) -> None:
    rows = torch.nonzero(bad).flatten().tolist()
    if rows:
        shown = ", ".join(map(str, rows[:8])) + (", …" if len(rows) > 8 else "")
        raise ValueError(f"features: {len(rows)} row(s) hold {what} (rows {shown}); {mend}")


def resolve_affinity(rows: Rows, affinity: str) -> str:
    """Return what is done to the cosines: ``cosine`` (nothing), ``shift`` or ``clamp``.

    Raises:
        ValueError: If ``affinity="error"`` and a cosine is negative.
    """
    if affinity in ("cosine", "shift", "clamp"):
        return affinity
    if float(rows.raw.min()) >= 0:
        return "cosine"
    if affinity == "error":
        _refuse_negative_cosines(rows)
        return "cosine"
    notice_shift()
    return "shift"


@cache
def notice_shift() -> None:
    """Say, once in a process, that cosines are shifted."""
    _LOG.info(
        "features hold negative values: the affinity is (1 + cosine)/2; "
        "pass affinity='shift', 'clamp', 'cosine' or 'error' to choose"
    )


def _refuse_negative_cosines(rows: Rows) -> None:
    unit = rows.unit()
    for start in range(0, len(unit), _CLAMP_BLOCK):
        cosines = unit[start : start + _CLAMP_BLOCK] @ unit.T
        if float(cosines.min()) < 0:
            flat = int(cosines.argmin())
            first, second = start + flat // len(unit), flat % len(unit)
            found = f"{float(cosines.min()):.3g} and affinity='error'"
            what = f"rows {first} and {second} have the negative cosine {found}"
            mend = "pass affinity='shift' or 'clamp', or features without negative values"
            raise ValueError(f"features: {what}; {mend}")


# ---------------------------------------------------------------------------- the spectrum


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
    vector: Tensor,
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


def trivial_and_scale(degrees: Tensor, affinity: str, laplacian: str) -> tuple[Tensor, float]:
    """Return the unit trivial vector (N,) and an upper bound of the largest eigenvalue.

    The bound is sharp to about 1/N: D - S is at most max(D) for a positive semi-definite S, the
    normalized one at most 1. A clamped S may be indefinite; Gershgorin's circles double both. Rows
    that cancel have degrees of 0, and eigenvalues of the size of S's diagonal all the same.
    """
    indefinite = 2.0 if affinity == "clamp" else 1.0
    if laplacian == "unnormalized":
        trivial = torch.full_like(degrees, len(degrees) ** -0.5)
        return trivial, indefinite * max(float(degrees.abs().max()), _LEAST_SCALE)
    if float(degrees.min()) <= 0:
        rows = torch.nonzero(degrees <= 0).flatten().tolist()
        what = f"needs positive degrees, but rows {rows[:8]} have none"
        mend = "their cosines sum to zero or less; pass affinity='shift' or 'clamp'"
        raise ValueError(f"laplacian='normalized' {what}: {mend}")
    return (degrees / degrees.sum()).sqrt(), indefinite


def alternating_signs(like: Tensor) -> Tensor:
    """Return +1, −1, +1, … (N,): what is left to go by where content says nothing."""
    signs = torch.ones_like(like)
    signs[1::2] = -1
    return signs


def choose(values: Tensor, vectors: Tensor, reference: Tensor, lambda_max: float) -> Tensor:
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


def orient(vector: Tensor, reference: Tensor, sign: str) -> Tensor:
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


# ---------------------------------------------------------------------------- the operator


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

    products: Callable[[Tensor], Tensor]
    weights: Tensor
    trivial: Tensor
    diagonal: Tensor
    reference: Tensor
    scale: float
    degrees: Tensor

    def apply(self, vectors: Tensor) -> Tensor:
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

    def low_rank_products(vectors: Tensor) -> Tensor:
        inner = wide_product(vectors.to(factor.dtype), factor)
        return tall_product(factor, inner).T.double().contiguous()

    diagonal = weights - lengths.double() ** 2
    return Laplacian(low_rank_products, weights, trivial, diagonal, reference, scale, degrees)


def _centered_factor(
    rows: Rows, row_scale: Tensor, trivial: Tensor, constant_column: bool
) -> tuple[Tensor, Tensor]:
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

    def blockwise_products(vectors: Tensor) -> Tensor:
        return _clamped_products(unit, vectors * roots) * roots

    diagonal, reference = weights - roots**2, rows.reference()
    return Laplacian(blockwise_products, weights, trivial, diagonal, reference, scale, degrees)


def _clamped_products(unit: Tensor, vectors: Tensor) -> Tensor:
    single = vectors.to(unit.dtype)
    block = max(1, _BLOCK_BYTES // (len(unit) * unit.element_size()))
    starts = range(0, len(unit), block)
    parts = [single @ (unit @ unit[at : at + block].T).clamp_(min=0) for at in starts]
    return torch.cat(parts, dim=1).double()
