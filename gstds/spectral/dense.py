"""The dense solver: the whole Laplacian and LAPACK's (or the device's) symmetric eigensolver."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch

from gstds.spectral.eigenvector import RESOLUTION, Solution, choose, status_of, trivial_and_scale
from gstds.spectral.lapack import gram_lower, lowest_eigenpairs
from gstds.spectral.rows import Rows

__all__ = ["dense_affinity", "one_blas_thread", "solve_dense"]

_ONE_THREAD_MAX = 1024
_lock = threading.RLock()
if hasattr(os, "register_at_fork"):  # a child could not release what another thread holds
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
    )


@cache
def _pools() -> Any:
    import threadpoolctl

    return threadpoolctl.ThreadpoolController()


@contextmanager
def one_blas_thread(active: bool = True) -> Iterator[None]:
    """Hold numpy's and scipy's BLAS to one thread: small solves lose up to 100× by sharing.

    The lock keeps two threads from restoring each other's counts.
    """
    if not active:
        yield
        return
    with _lock, _pools().limit(limits=1, user_api="blas"):
        yield


def dense_affinity(rows: Rows, affinity: str) -> torch.Tensor:
    """Return the affinity (N, N), float64, with its unit diagonal."""
    cosines = _cosines_on_cpu(rows) if rows.raw.device.type == "cpu" else _cosines_on_device(rows)
    if affinity == "shift":
        cosines.add_(1).mul_(0.5)
    elif affinity == "clamp":
        cosines.clamp_(min=0)
    cosines.diagonal().fill_(1)
    return cosines


def _cosines_on_cpu(rows: Rows) -> torch.Tensor:
    # The lengths stand on the Gram matrix's diagonal, and one triangle of it is half the work.
    gram = gram_lower(rows.raw.double().numpy())
    inverse = 1.0 / np.sqrt(gram.diagonal())
    gram *= inverse[:, None]
    gram *= inverse
    lower = torch.from_numpy(gram)
    return lower + lower.T


def _cosines_on_device(rows: Rows) -> torch.Tensor:
    unit = torch.nn.functional.normalize(rows.raw.double(), dim=1)
    return unit @ unit.T


def solve_dense(rows: Rows, affinity: str, laplacian: str) -> tuple[Solution, torch.Tensor]:
    """Solve one batch with N >= 2 by the symmetric eigensolver.

    Returns:
        The solution and the degrees (N,).

    Raises:
        ValueError: If the normalized Laplacian meets a degree that is not positive.
    """
    with one_blas_thread(rows.raw.device.type == "cpu" and len(rows.raw) <= _ONE_THREAD_MAX):
        matrix = dense_affinity(rows, affinity)
        degrees = matrix.sum(dim=1)
        trivial, scale = trivial_and_scale(degrees, affinity, laplacian)
        lifted = _lifted_laplacian(matrix, degrees, trivial, scale, laplacian)
        values, vectors = _lowest(lifted, min(2, len(lifted) - 1))
        if len(values) > 1 and float(values[1] - values[0]) <= RESOLUTION * scale:
            values, vectors = _lowest(lifted, len(lifted))
            values, vectors = values[:-1], vectors[:-1]
            vector = choose(values, vectors, rows.reference(), scale)
        else:
            vector = vectors[0]
        residual = torch.linalg.vector_norm(lifted @ vector - values[0] * vector)
    lambda2, lambda3 = float(values[0]), float(values[min(1, len(values) - 1)])
    status = status_of(lambda2, lambda3, scale)
    return Solution(vector, lambda2, lambda3, scale, 0, float(residual), status), degrees


def _lifted_laplacian(
    matrix: torch.Tensor, degrees: torch.Tensor, trivial: torch.Tensor, scale: float, laplacian: str
) -> torch.Tensor:
    """Turn S, in place, into the Laplacian whose trivial vector is moved to the spectrum's top."""
    if laplacian == "unnormalized":
        lifted = matrix.neg_().add_(2 * scale / len(degrees))
        lifted.diagonal().add_(degrees)
        return lifted
    roots = degrees.rsqrt()
    lifted = matrix.neg_().mul_(roots[:, None]).mul_(roots).addr_(trivial, trivial, alpha=2 * scale)
    lifted.diagonal().add_(1)
    return lifted


def _lowest(matrix: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the ``count`` lowest eigenvalues, ascending, and their vectors as rows."""
    if matrix.device.type != "cpu":
        values, vectors = torch.linalg.eigh(matrix)
        return values[:count], vectors.T[:count]
    values, vectors = lowest_eigenpairs(matrix.numpy(), count)
    return torch.from_numpy(values), torch.from_numpy(vectors)
