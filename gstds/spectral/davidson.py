"""The matrix-free solver: block Davidson on an operator that never forms an N×N array.

Davidson's method expands a subspace by preconditioned residuals (E. R. Davidson, J. Comput. Phys.
17, 1975). It suits a Laplacian D - F Fᵀ: the unnormalized Fiedler vector is nearly an indicator of
the sample of lowest degree, so the diagonal is a good preconditioner; for the normalized
Laplacian the diagonal is almost constant and the method is a block Lanczos with thick restarts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from gstds.common.noise import keyed_uniform
from gstds.spectral.eigenvector import (
    NEGLIGIBLE,
    RESOLUTION,
    Solution,
    alternating_signs,
    choose,
    status_of,
)
from gstds.spectral.operator import Operator

__all__ = ["solve_matrix_free"]

_BASIS_MAX = 40
_BASIS_KEPT = 12
_BLOCK = 2
_START_SEED = 0xF1ED
_LOOSE = 1e-4
_DEPENDENT = 1e-7


class _Subspace:
    """Orthonormal rows (M, N) on the complement, their images, and the projected operator."""

    def __init__(self, operator: Operator) -> None:
        size = len(operator.trivial)
        capacity = min(_BASIS_MAX, size - 1)
        self.operator = operator
        self.size = 0
        self.basis = operator.trivial.new_empty(capacity, size)
        self.images = operator.trivial.new_empty(capacity, size)
        self.projected = np.empty((capacity, capacity))

    def expand(self, directions: torch.Tensor) -> bool:
        """Add what is new in ``directions`` (K, N); return whether anything was."""
        start = self.size
        fresh = self._fresh(directions)[: len(self.basis) - start]
        if len(fresh) == 0:
            return False
        self.size += len(fresh)
        added = slice(start, self.size)
        self.basis[added] = fresh
        self.images[added] = self.operator.apply(fresh)
        block = (self.basis[: self.size] @ self.images[added].T).cpu().numpy()
        self.projected[: self.size, added] = block
        self.projected[added, : self.size] = block.T
        return True

    def _fresh(self, directions: torch.Tensor) -> torch.Tensor:
        """Return orthonormal rows for what the trivial vector and the basis do not span.

        By the eigenvectors of the rows' own Gram matrix (Stathopoulos and Wu, SIAM J. Sci. Comput.
        23, 2002), which drops a dependence and nothing else. Twice, since the first time leaves
        rounding where a direction is nearly spanned.
        """
        trivial, known = self.operator.trivial, self.basis[: self.size]
        lengths = torch.linalg.vector_norm(directions, dim=1, keepdim=True)
        block = directions / torch.where(lengths > 0, lengths, 1)
        for _ in range(2):
            block = torch.addr(block, block @ trivial, trivial, alpha=-1)
            if self.size:
                block = torch.addmm(block, block @ known.T, known, alpha=-1)
            squares, mix = torch.linalg.eigh(block @ block.T)
            new = squares > _DEPENDENT**2
            block = (mix[:, new] * squares[new].rsqrt()).T @ block
        return block

    def ritz(self) -> tuple[np.ndarray[Any, Any], torch.Tensor]:
        """Return the Ritz values (M,), ascending, and their weights (M, M) as rows."""
        matrix = self.projected[: self.size, : self.size]
        values, weights = np.linalg.eigh((matrix + matrix.T) / 2)
        return values, torch.from_numpy(weights.T.copy()).to(self.basis.device)

    def combine(self, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the vectors and images (K, N) that ``weights`` (K, M) name."""
        return weights @ self.basis[: self.size], weights @ self.images[: self.size]

    def restart(self, values: np.ndarray[Any, Any], weights: torch.Tensor) -> None:
        """Keep the lowest Ritz vectors only."""
        kept = min(_BASIS_KEPT, self.size)
        vectors, images = self.combine(weights[:kept])
        self.basis[:kept], self.images[:kept] = vectors, images
        self.projected[:kept, :kept] = np.diag(values[:kept])
        self.size = kept


def solve_matrix_free(operator: Operator, *, tolerance: float, max_iterations: int) -> Solution:
    """Find the lowest eigenpairs on the complement of the trivial vector.

    Args:
        operator: The Laplacian of N >= 3 samples.
        tolerance: Residual of the Fiedler vector to reach, as a share of λmax.
        max_iterations: Expansions to allow; then the best so far is ``not-converged``.
    """
    space = _Subspace(operator)
    space.expand(_start(operator))
    iteration = 0
    while True:
        values, weights = space.ritz()
        vectors, images = space.combine(weights[:_BLOCK])
        thetas = torch.from_numpy(values[:_BLOCK]).to(vectors.device)
        residuals = images - thetas[:, None] * vectors
        norms = torch.linalg.vector_norm(residuals, dim=1).cpu().numpy() / operator.scale
        wanted = _unconverged(values / operator.scale, norms, tolerance)
        if (
            not wanted
            or iteration >= max_iterations
            or space.size == len(space.operator.trivial) - 1
        ):
            break
        if space.size + len(wanted) > len(space.basis):
            space.restart(values, weights)
        if not space.expand(_precondition(operator, residuals[wanted], values[wanted])):
            break
        iteration += 1
    return _solution(space, values, weights, iteration, tolerance)


def _unconverged(values: Any, norms: Any, tolerance: float) -> list[int]:
    """Return which of the two pairs need work; the second only as far as it tells the gap."""
    gap = values[1] - values[0] if len(values) > 1 else 1.0
    limits = (tolerance, min(max(0.1 * gap, tolerance), _LOOSE))
    return [j for j, norm in enumerate(norms) if norm > limits[j]]


def _start(operator: Operator) -> torch.Tensor:
    """The three lowest degrees, one by one and blurred; content; noise keyed by position."""
    diagonal = operator.diagonal
    spread = (diagonal - diagonal.min()) + 1e-3 * operator.scale
    noise = torch.from_numpy(keyed_uniform(_START_SEED, indices=np.arange(len(diagonal))) - 0.5)
    lowest = diagonal.argsort(stable=True)[: min(3, len(diagonal) - 1)]
    indicators = diagonal.new_zeros(len(lowest), len(diagonal))
    indicators[torch.arange(len(lowest)), lowest] = 1
    blurred = [spread.reciprocal(), _distinct_content(operator), noise.to(diagonal.device)]
    return torch.cat([torch.stack(blurred), indicators])


def _distinct_content(operator: Operator) -> torch.Tensor:
    """Return the content projection, or +1, −1, … where all rows are alike; see `choose`."""
    content = operator.reference - (operator.reference @ operator.trivial) * operator.trivial
    length = torch.linalg.vector_norm(content)
    if float(length) > NEGLIGIBLE * float(torch.linalg.vector_norm(operator.reference)):
        return operator.reference
    return alternating_signs(operator.reference)


def _precondition(operator: Operator, residuals: torch.Tensor, values: Any) -> torch.Tensor:
    shifts = torch.from_numpy(np.asarray(values)).to(residuals.device)
    distance = operator.diagonal - shifts[:, None]
    floor = 1e-3 * operator.scale
    return residuals / torch.where(distance.abs() < floor, floor, distance)


def _solution(
    space: _Subspace, values: Any, weights: torch.Tensor, iterations: int, tolerance: float
) -> Solution:
    operator = space.operator
    near = max(_BLOCK, int((values <= values[0] + RESOLUTION * operator.scale).sum()))
    vectors, images = space.combine(weights[:near])
    lowest = torch.from_numpy(values[:near]).to(vectors.device)
    vector = choose(lowest, vectors, operator.reference, operator.scale)
    vector = vector / torch.linalg.vector_norm(vector)
    image = (vectors @ vector) @ images
    lambda2 = float(vector @ image)
    residual = float(torch.linalg.vector_norm(image - lambda2 * vector))
    lambda3 = max(float(values[min(1, len(values) - 1)]), lambda2)
    converged = residual <= 10 * tolerance * operator.scale
    status = status_of(lambda2, lambda3, operator.scale) if converged else "not-converged"
    return Solution(vector, lambda2, lambda3, operator.scale, iterations, residual, status)
