"""The two solvers: LAPACK on the whole Laplacian, and block Davidson without an N×N array.

Davidson's method expands a subspace by preconditioned residuals (E. R. Davidson, J. Comput. Phys.
17, 1975). It suits a Laplacian D - F Fᵀ: the unnormalized Fiedler vector is nearly an indicator of
the sample of lowest degree, so the diagonal is a good preconditioner; for the normalized
Laplacian the diagonal is almost constant and the method is a block Lanczos with thick restarts.

scipy's own wrappers hold Python's lock for a whole call, so a solve in the background would stop
the learner between any two of its operations. Here the same routines of BLAS and LAPACK are called
through the pointers that scipy publishes for Cython, by ctypes, which gives the lock up.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg.cython_blas
import scipy.linalg.cython_lapack
import threadpoolctl
import torch
from torch import Tensor

from gstds.common.noise import keyed_uniform
from gstds.spectral import laplacian as graph
from gstds.spectral.laplacian import RESOLUTION, Laplacian, Rows, Spectrum, spectrum_of

Matrix = npt.NDArray[np.float64]

_BASIS_MAX = 40
_BASIS_KEPT = 12
_BLOCK = 2
_START_SEED = 0xF1ED
_LOOSE = 1e-4
_DEPENDENT = 1e-7
_ONE_THREAD_MAX = 1024
_lock = threading.RLock()
if hasattr(os, "register_at_fork"):  # a child could not release what another thread holds
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
    )


_pools = cache(threadpoolctl.ThreadpoolController)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold numpy's and scipy's BLAS to one thread: small solves lose up to 100× by sharing.

    The lock keeps two threads from restoring each other's counts.
    """
    with _lock, _pools().limit(limits=1, user_api="blas"):
        yield


def solve_dense(rows: Rows, affinity: str, laplacian: str) -> tuple[Spectrum, Tensor]:
    """Solve one batch with N >= 2 by the symmetric eigensolver.

    Returns:
        The spectrum and the degrees (N,).

    Raises:
        ValueError: If the normalized Laplacian meets a degree that is not positive.
    """
    small = rows.raw.device.type == "cpu" and len(rows.raw) <= _ONE_THREAD_MAX
    with one_blas_thread() if small else nullcontext():
        matrix = _affinity_matrix(rows, affinity)
        degrees = matrix.sum(dim=1)
        trivial, scale = graph.trivial_and_scale(degrees, affinity, laplacian)
        lifted = _lifted_laplacian(matrix, degrees, trivial, scale, laplacian)
        values, vectors = _lowest(lifted, min(2, len(lifted) - 1))
        vector = vectors[0]
        if len(values) > 1 and float(values[1] - values[0]) <= RESOLUTION * scale:
            values, vectors = (found[:-1] for found in _lowest(lifted, len(lifted)))
            vector = graph.choose(values, vectors, rows.reference(), scale)
        residual = float(torch.linalg.vector_norm(lifted @ vector - values[0] * vector))
    lambda2, lambda3 = float(values[0]), float(values[min(1, len(values) - 1)])
    return spectrum_of(vector, lambda2, lambda3, scale, residual), degrees


def _affinity_matrix(rows: Rows, affinity: str) -> Tensor:
    """Return the affinity (N, N), float64, with its unit diagonal."""
    if rows.raw.device.type == "cpu":
        # The lengths stand on the Gram matrix's diagonal; one triangle of it is half the work.
        gram = gram_lower(rows.raw.double().numpy())
        inverse = 1.0 / np.sqrt(gram.diagonal())
        gram *= inverse[:, None]
        gram *= inverse
        lower = torch.from_numpy(gram)
        cosines = lower + lower.T
    else:
        unit = torch.nn.functional.normalize(rows.raw.double(), dim=1)
        cosines = unit @ unit.T
    if affinity == "shift":
        cosines.add_(1).mul_(0.5)
    elif affinity == "clamp":
        cosines.clamp_(min=0)
    cosines.diagonal().fill_(1)
    return cosines


def _lifted_laplacian(
    matrix: Tensor, degrees: Tensor, trivial: Tensor, scale: float, laplacian: str
) -> Tensor:
    """Turn S, in place, into the Laplacian whose trivial vector is moved to the spectrum's top."""
    lifted = matrix.neg_()
    if laplacian == "unnormalized":
        lifted.add_(2 * scale / len(degrees)).diagonal().add_(degrees)
        return lifted
    roots = degrees.rsqrt()
    lifted.mul_(roots[:, None]).mul_(roots).addr_(trivial, trivial, alpha=2 * scale)
    lifted.diagonal().add_(1)
    return lifted


def _lowest(matrix: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the ``count`` lowest eigenvalues, ascending, and their vectors as rows."""
    if matrix.device.type != "cpu":
        values, vectors = torch.linalg.eigh(matrix)
        return values[:count], vectors.T[:count]
    found = lowest_eigenpairs(matrix.numpy(), count)
    return torch.from_numpy(found[0]), torch.from_numpy(found[1])


@cache
def _routine(module: Any, name: str) -> Any:
    """Return a Fortran routine: every argument is a pointer, nothing is returned."""
    capsule = module.__pyx_capi__[name]
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype = ctypes.c_char_p
    api.PyCapsule_GetName.argtypes = [ctypes.py_object]
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    address = api.PyCapsule_GetPointer(capsule, api.PyCapsule_GetName(capsule))
    return ctypes.CFUNCTYPE(None)(address)


def _call(module: Any, name: str, *arguments: Any) -> None:
    """Call a routine with letters, whole numbers, floats, arrays and ctypes objects."""
    _routine(module, name)(*map(_pointer, arguments))


def _pointer(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return ctypes.c_void_p(value.ctypes.data)
    if isinstance(value, bytes):
        return ctypes.c_char_p(value)
    kind: Any = {int: ctypes.c_int, float: ctypes.c_double}.get(type(value))
    return ctypes.byref(kind(value) if kind else value)


def gram_lower(rows: Matrix) -> Matrix:
    """Return the lower triangle (N, N) of ``rows @ rows.T``, zeros above; rows (N, D), C order."""
    n, dim = rows.shape
    out = np.zeros((n, n), order="F")
    rows = np.ascontiguousarray(rows)
    # Row-major (N, D) is column-major (D, N): the routine's "transposed" form.
    blas = scipy.linalg.cython_blas
    _call(blas, "dsyrk", b"L", b"T", n, dim, 1.0, rows, max(1, dim), 0.0, out, n)
    return out


def lowest_eigenpairs(matrix: Matrix, count: int) -> tuple[Matrix, Matrix]:
    """Return the ``count`` lowest eigenvalues, ascending, and their vectors as rows (count, N).

    Args:
        matrix: Symmetric (N, N); its lower triangle is read.
        count: From 1 to N.

    Raises:
        numpy.linalg.LinAlgError: If LAPACK finds fewer than ``count``, as with a NaN.
    """
    n = len(matrix)
    own = np.array(matrix, order="F")  # the routine destroys it
    values, vectors = np.empty(n), np.empty((n, count), order="F")
    support = np.empty(2 * max(1, count), dtype=np.intc)
    found, info = ctypes.c_int(0), ctypes.c_int(0)
    work, integers = np.empty(1), np.empty(1, dtype=np.intc)
    for lengths in ((-1, -1), None):  # first it is asked how much room it needs
        if lengths is None:
            work, integers = np.empty(int(work[0])), np.empty(int(integers[0]), dtype=np.intc)
            lengths = len(work), len(integers)
        _call(
            scipy.linalg.cython_lapack,
            "dsyevr",
            *(b"V", b"A" if count == n else b"I", b"L", n, own, n, 0.0, 1.0, 1, count, 0.0, found),
            *(values, vectors, n, support, work, lengths[0], integers, lengths[1], info),
        )
    if info.value or found.value < count:
        what = f"{found.value} of {count} eigenvectors (info {info.value})"
        hint = "is every entry of the matrix a finite number?"
        raise np.linalg.LinAlgError(f"dsyevr found {what}; {hint}")
    return values[:count], vectors.T


class _Subspace:
    """Orthonormal rows (M, N) on the complement, their images, and the projected operator."""

    def __init__(self, operator: Laplacian) -> None:
        size = len(operator.trivial)
        capacity = min(_BASIS_MAX, size - 1)
        self.operator = operator
        self.size = 0
        self.basis = operator.trivial.new_empty(capacity, size)
        self.images = operator.trivial.new_empty(capacity, size)
        self.projected = np.empty((capacity, capacity))

    def expand(self, directions: Tensor) -> bool:
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

    def _fresh(self, directions: Tensor) -> Tensor:
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

    def ritz(self) -> tuple[np.ndarray[Any, Any], Tensor]:
        """Return the Ritz values (M,), ascending, and their weights (M, M) as rows."""
        matrix = self.projected[: self.size, : self.size]
        values, weights = np.linalg.eigh((matrix + matrix.T) / 2)
        return values, torch.from_numpy(weights.T.copy()).to(self.basis.device)

    def combine(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors and images (K, N) that ``weights`` (K, M) name."""
        return weights @ self.basis[: self.size], weights @ self.images[: self.size]

    def restart(self, values: np.ndarray[Any, Any], weights: Tensor) -> None:
        """Keep the lowest Ritz vectors only."""
        kept = min(_BASIS_KEPT, self.size)
        vectors, images = self.combine(weights[:kept])
        self.basis[:kept], self.images[:kept] = vectors, images
        self.projected[:kept, :kept] = np.diag(values[:kept])
        self.size = kept


def solve_matrix_free(operator: Laplacian, *, tolerance: float, max_iterations: int) -> Spectrum:
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
        spanned = space.size == len(operator.trivial) - 1
        if not wanted or iteration >= max_iterations or spanned:
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


def _start(operator: Laplacian) -> Tensor:
    """The three lowest degrees, one by one and blurred; content; noise keyed by position.

    Where all rows are alike, +1, −1, … stands for the content; see `choose`.
    """
    diagonal, content = operator.diagonal, operator.reference
    spread = (diagonal - diagonal.min()) + 1e-3 * operator.scale
    noise = torch.from_numpy(keyed_uniform(_START_SEED, indices=np.arange(len(diagonal))) - 0.5)
    lowest = diagonal.argsort(stable=True)[: min(3, len(diagonal) - 1)]
    indicators = diagonal.new_zeros(len(lowest), len(diagonal))
    indicators[torch.arange(len(lowest)), lowest] = 1
    own = torch.linalg.vector_norm(content - (content @ operator.trivial) * operator.trivial)
    if float(own) <= graph.NEGLIGIBLE * float(torch.linalg.vector_norm(content)):
        content = graph.alternating_signs(content)
    blurred = [spread.reciprocal(), content, noise.to(diagonal.device)]
    return torch.cat([torch.stack(blurred), indicators])


def _precondition(operator: Laplacian, residuals: Tensor, values: Any) -> Tensor:
    shifts = torch.from_numpy(np.asarray(values)).to(residuals.device)
    distance = operator.diagonal - shifts[:, None]
    floor = 1e-3 * operator.scale
    return residuals / torch.where(distance.abs() < floor, floor, distance)


def _solution(
    space: _Subspace, values: Any, weights: Tensor, iterations: int, tolerance: float
) -> Spectrum:
    operator = space.operator
    near = max(_BLOCK, int((values <= values[0] + RESOLUTION * operator.scale).sum()))
    vectors, images = space.combine(weights[:near])
    lowest = torch.from_numpy(values[:near]).to(vectors.device)
    vector = graph.choose(lowest, vectors, operator.reference, operator.scale)
    vector = vector / torch.linalg.vector_norm(vector)
    image = (vectors @ vector) @ images
    lambda2 = float(vector @ image)
    residual = float(torch.linalg.vector_norm(image - lambda2 * vector))
    lambda3 = max(float(values[min(1, len(values) - 1)]), lambda2)
    converged = residual <= 10 * tolerance * operator.scale
    return spectrum_of(vector, lambda2, lambda3, operator.scale, residual, iterations, converged)
